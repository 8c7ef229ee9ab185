//! gRPC, WebSocket and interim answers, as their own clients and services speak them, through terminated flows.

use super::python::{Service, inside, with_packages};
use crate::support::exeat::{Run, is_root};
use crate::support::world::World;
use crate::support::{eventually, skipped};

const CANARY: &str = "canary-eiph1ohbohcu";

/// A site terminated, every request but those of some with a header of ours.
fn terminated<'w>(world: &'w World, name: &str, refused: &str) -> Run<'w> {
    let policy = format!(
        "version: 1\nallow:\n  {name}:\n    - match: {{ path: {{ startsWith: {refused} }} }}\n      \
         response: {{ statusCode: 403, contentType: text/plain, body: no }}\n    \
         - transform: [{{ headers: {{ x-rig: \"${{secrets.KEY}}\" }} }}]\nsecrets: {{ KEY: {{ env: RIG_KEY }} }}\n"
    );
    world.run().policy(&policy).env("RIG_KEY", CANARY)
}

#[test]
fn grpc_of_every_kind_passes_with_its_credential_and_its_end() {
    if !is_root() {
        return skipped("gRPC: the wide world takes root");
    }
    let Some(python) = with_packages() else {
        return skipped("gRPC: grpcio cannot be installed");
    };
    let world = World::best();
    let service = Service::start(&world, python, &["grpc.rig"], "grpc_server");
    let outcome = inside(terminated(&world, "grpc.rig", "/rig.Other/"), python, "grpc_client").succeeded();
    let expected = "unary echo hello OK at the end\nlarge True\nstreaming 0 1 2 3 4\nboth ways ONE TWO THREE [] OK\n\
                    failing NOT_FOUND nobody is here: \u{e9}\nhanging begun\nhanging CANCELLED\n\
                    slow DEADLINE_EXCEEDED\nrefused PERMISSION_DENIED\n";
    assert_eq!(outcome.stdout, expected, "{outcome:#?}");
    let ended = || ["cancelled ended", "slow ended", "deadline True"].iter().all(|it| service.log().contains(it));
    assert!(eventually(ended), "an end is carried to the origin: {}", service.log());
    assert!(service.log().contains(&format!("credential {CANARY}\n")), "{}", service.log());
    outcome.assert_allowed(&[("protocol", "h2"), ("name", "grpc.rig"), ("path", "/rig.Rig/Talk")]);
}

#[test]
fn a_websocket_passes_both_ways_with_its_credential() {
    if !is_root() {
        return skipped("WebSocket: the wide world takes root");
    }
    let Some(python) = with_packages() else {
        return skipped("WebSocket: websockets cannot be installed");
    };
    let world = World::best();
    let service = Service::start(&world, python, &["socket.rig"], "websocket_server");
    let outcome = inside(terminated(&world, "socket.rig", "/denied"), python, "websocket_client").succeeded();
    let expected = "subprotocol rig\ntext text\nlarge True\npong True\nclosed 4001 as you say\ndenied 403\n";
    assert_eq!(outcome.stdout, expected, "{outcome:#?}");
    assert!(eventually(|| service.log().contains("closed 4001")), "{}", service.log());
    assert!(service.log().contains(&format!("credential {CANARY}\n")), "{}", service.log());
}

#[test]
fn node_opens_a_websocket_on_a_stream() {
    if !is_root() {
        return skipped("WebSocket over HTTP/2: the wide world takes root");
    }
    let Some(python) = with_packages() else {
        return skipped("WebSocket over HTTP/2: websockets cannot be installed");
    };
    let world = World::best();
    let service = Service::start(&world, python, &["socket.rig"], "websocket_server");
    let client = include_str!("programs/websocket_stream.mjs");
    let command = ["node", "--input-type=module", "--eval", client];
    let outcome = terminated(&world, "socket.rig", "/denied").command(command).succeeded();
    let expected = "offered true\nopened 200 rig\ntext text\nclosed 4001 as you say\nended true\ndenied 403\n";
    assert_eq!(outcome.stdout, expected, "{outcome:#?}");
    assert!(eventually(|| service.log().contains("closed 4001")), "{}", service.log());
    assert!(service.log().contains(&format!("credential {CANARY}\n")), "{}", service.log());
    outcome.assert_allowed(&[("protocol", "h2"), ("method", "GET"), ("path", "/chat")]);
}

/// Asked over HTTP/1.1 and on a stream; nobody here wrote the service's HTTP/2, nor either client.
#[test]
fn a_websocket_reaches_a_service_of_http2_alone() {
    if !is_root() {
        return skipped("WebSocket over HTTP/2 alone: the wide world takes root");
    }
    let Some(python) = with_packages() else {
        return skipped("WebSocket over HTTP/2 alone: websockets cannot be installed");
    };
    let world = World::best();
    let service = Service::start(&world, "/usr/bin/node", &["socket.rig"], "http2_alone.mjs");
    let run = || terminated(&world, "socket.rig", "/denied");
    let outcome = inside(run(), python, "websocket_client").succeeded();
    let expected = "subprotocol rig\ntext text\nlarge True\npong True\nclosed 4001 as you say\ndenied 403\n";
    assert_eq!(outcome.stdout, expected, "{outcome:#?}");
    let client = include_str!("programs/websocket_stream.mjs");
    let outcome = run().command(["node", "--input-type=module", "--eval", client]).succeeded();
    let expected = "offered true\nopened 200 rig\ntext text\nclosed 4001 as you say\nended true\ndenied 403\n";
    assert_eq!(outcome.stdout, expected, "{outcome:#?}");
    outcome.assert_allowed(&[("protocol", "h2"), ("method", "GET"), ("path", "/chat")]);
    let heard = format!("asked CONNECT websocket /chat\ncredential {CANARY}\nof HTTP/1 \nclosed 4001\nended\n");
    assert!(eventually(|| service.log() == format!("serves\n{heard}{heard}")), "{}", service.log());
    // Without its word that it takes them, it is asked for none.
    let upgrade = ["Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="];
    let fields = upgrade.iter().flat_map(|field| ["--header", *field]);
    let url = "https://socket.rig:8443/chat";
    let run = world.run().policy("allow: { socket.rig: [ { transform: [ { headers: { x-rig: none } } ] } ] }");
    let refused = run.curl(fields.chain(["--http1.1", "--write-out", "%{http_code}", url])).succeeded();
    assert!(refused.stdout.contains("takes no WebSocket over it") && refused.stdout.ends_with("502"), "{refused:#?}");
    assert_eq!(service.log(), format!("serves\n{heard}{heard}"));
}

#[test]
fn curl_over_http1_reaches_a_service_of_http2_alone() {
    if !is_root() {
        return skipped("HTTP/2 alone: the wide world takes root");
    }
    let world = World::best();
    let service = Service::start(&world, "/usr/bin/node", &["alone.rig"], "http2_alone.mjs");
    let run = terminated(&world, "alone.rig", "/denied").stdin(vec![7; 2_000_000]);
    let url = "https://alone.rig/{one,two}";
    let put = run.curl(["--http1.1", "--dump-header", "-", "--data-binary", "@-", url]).succeeded();
    let answers: Vec<_> = put.stdout.lines().filter(|line| line.contains(" bytes") || line.contains(" 200 ")).collect();
    let ok = "HTTP/1.1 200 OK";
    assert_eq!(answers, [ok, "POST /one, 2000000 bytes", ok, "POST /two, 2000000 bytes"], "{put:#?}");
    assert_eq!(service.log(), format!("serves\ncredential {CANARY}\ncredential {CANARY}\n"));
    put.assert_allowed(&[("protocol", "http"), ("method", "POST"), ("path", "/two")]);
}

#[test]
fn curl_waits_for_its_origin_and_gets_hints() {
    if !is_root() {
        return skipped("interim answers: the wide world takes root");
    }
    let world = World::best();
    let service = Service::start(&world, "/usr/bin/python3", &["interim.rig"], "interim");
    let run = || terminated(&world, "interim.rig", "/denied").stdin(vec![7; 2_000_000]);
    let post = |path: &str| {
        let url = format!("https://interim.rig{path}");
        let arguments = ["--http1.1", "--dump-header", "-", "--data-binary", "@-", "--expect100-timeout", "30"];
        run().curl(arguments.into_iter().chain([url.as_str()])).succeeded()
    };
    // More than a megabyte, so that curl asks by itself.
    let granted = post("/grant");
    assert!(granted.stdout.starts_with("HTTP/1.1 100 Continue\r\n"), "{granted:#?}");
    assert!(granted.stdout.ends_with("\r\n\r\n2000000 bytes, waited\n"), "{granted:#?}");
    // It comes again without asking, as RFC 9110 §10.1.1 has it.
    let refused = post("/refuse");
    assert!(refused.stdout.starts_with("HTTP/1.1 417"), "{refused:#?}");
    assert!(refused.stdout.ends_with("\r\n\r\n2000000 bytes, at once\n"), "{refused:#?}");
    assert!(eventually(|| service.aside("refused").as_deref() == Some("0")), "no byte of the body came");
    let denied = post("/denied");
    assert!(denied.stdout.starts_with("HTTP/1.1 403"), "{denied:#?}");
    let hints = post("/hints");
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
    assert!(hints.stdout.starts_with(early) && hints.stdout.ends_with("bytes, waited\n"), "{hints:#?}");
}

/// From curl over HTTP/1.1 and over HTTP/2, and from node over HTTP/2, to a service of HTTP/2 alone.
#[test]
fn curl_and_node_hear_each_other_before_the_answer_over_http2() {
    if !is_root() {
        return skipped("interim answers over HTTP/2: the wide world takes root");
    }
    let world = World::best();
    let service = Service::start(&world, "/usr/bin/node", &["interim.rig"], "interim.mjs");
    let run = || terminated(&world, "interim.rig", "/denied").stdin(vec![7; 2_000_000]);
    let post = |version: &str| {
        let arguments = [version, "--dump-header", "-", "--data-binary", "@-", "--expect100-timeout", "30"];
        run().curl(arguments.into_iter().chain(["https://interim.rig/grant"])).succeeded()
    };
    let (old, new) = (post("--http1.1"), post("--http2"));
    let early = "103 Early Hints\r\nlink: </style.css>; rel=preload\r\nx-echo: ";
    assert!(old.stdout.starts_with(&format!("HTTP/1.1 {early}")), "{old:#?}");
    assert!(old.stdout.contains("\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{old:#?}");
    assert!(old.stdout.ends_with("\r\n\r\n2000000 bytes, waited\n"), "{old:#?}");
    assert!(new.stdout.starts_with("HTTP/2 103 \r\nlink: </style.css>; rel=preload\r\n"), "{new:#?}");
    assert!(new.stdout.ends_with("\r\n\r\n2000000 bytes, at once\n"), "{new:#?}");
    let client = include_str!("programs/interim_client.mjs");
    let asked = run().command(["node", "--input-type=module", "--eval", client]).succeeded();
    let heard: Vec<&str> = asked.stdout.lines().collect();
    let ["/grant continue", "/grant 200 2000000 bytes, waited", "/refuse 417 "] = heard[1..] else {
        panic!("{asked:#?}")
    };
    assert!(heard[0].starts_with("/grant 103 </style.css>; rel=preload "), "{asked:#?}");
    assert!(eventually(|| service.log().contains("refused 0 true\n")), "no byte of the body came: {}", service.log());
    for said in [&old.stdout, &new.stdout, &asked.stdout] {
        assert!(!said.contains(CANARY), "{said}");
    }
}

//! Asks the engine what the oracle was asked, and holds the two beside each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use exeat::flow::{
    ClientAddr, Domain, Flow, FlowId, Hello, HelloFault, HttpVersion, OriginalDst, RequestHead, SandboxId, Scheme,
    SecretName, Seen,
};
use exeat::matcher::cidr;
use exeat::policy::verdict::{Action, Basis, Denial, Part, Permit, Route, Segment, Target, Verdict};
use exeat::policy::{Author, Flags, Grant, Policy, Protected, Source, Terms};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::model::{self, Ask, Facts, Host, Model, Request, Said};
use super::render::{self, Document};
use super::scan;

/// How often each question of the page gave the judgement.
pub(crate) type Tally = BTreeMap<&'static str, usize>;

/// Asks both, and says where they differ.
///
/// # Errors
/// The policy, the question and both judgements.
pub(crate) fn agree(model: &Model, asks: &[Ask]) -> Result<Tally, String> {
    let document = render::yaml(model);
    let source = Source { path: "p", text: &document.text };
    let policy = match Policy::compile(Some(source), &Flags::default(), &terms(model)) {
        Ok(compiled) => compiled.policy,
        Err(faults) => return Err(format!("this does not compile:\n{}\n{faults}", document.text)),
    };
    let host = protected(&model.host);
    let mut tally = Tally::new();
    for ask in asks {
        let judged = scan::judge(model, ask);
        *tally.entry(judged.question).or_default() += 1;
        same(ask, model, &document, "", Some(engine(&policy, ask, &host)), Some(judged.said))?;
        if let Ask::Flow(facts) = ask {
            let settled = policy.decide_address(&flow(facts), &host).map(|verdict| of_route(&policy, verdict, None));
            same(ask, model, &document, "by address alone", settled, scan::judge_address(model, facts.dst))?;
        }
    }
    Ok(tally)
}

fn same(
    ask: &Ask,
    model: &Model,
    document: &Document,
    how: &str,
    engine: Option<Said<String>>,
    oracle: Option<Said<model::By>>,
) -> Result<(), String> {
    let place = |by: model::By| format!("p:{}", document.line(by));
    let oracle = oracle.map(|said| Said {
        rule: said.rule.map(place),
        dial: said.dial.map(|dial| dial.map_err(|(reason, rule)| (reason, rule.map(place)))),
        verdict: said.verdict,
        route: said.route,
        reason: said.reason,
        target: said.target,
        url: said.url,
        injected: said.injected,
        status: said.status,
    });
    if engine == oracle {
        return Ok(());
    }
    let (text, Model { api, host, .. }) = (&document.text, model);
    Err(format!(
        "{how}\n{text}openable through the API: {api:?}\n{host:?}\n{ask:#?}\n\
         the engine says {engine:#?}\nthe oracle says {oracle:#?}"
    ))
}

fn terms(model: &Model) -> Terms<'static> {
    let secrets = ["KEY", "OTHER"].map(|name| SecretName::new(name).expect("a name"));
    let author = model.api.as_ref().map_or(Author::Operator, |listed| Author::ControlPlane {
        openable: listed.iter().map(|range| cidr::parse(&range.to_string()).expect("a range")).collect(),
        secrets: secrets.map(|name| (name, Grant::default())).into(),
    });
    Terms { author, ..Terms::default() }
}

fn protected(host: &Host) -> Protected {
    let Host { own, unprotected } = host;
    let ranges = unprotected.iter().map(|range| cidr::parse(&range.to_string()).expect("a range"));
    ranges.fold(Protected::new(own.iter().copied()), Protected::without)
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).expect("a name")
}

/// What the engine says.
fn engine(policy: &Policy, ask: &Ask, host: &Protected) -> Said<String> {
    let vet = |permit: &Permit, answer: SocketAddr| match policy.vet(answer, permit, host) {
        Verdict::Allow(dial) => Ok(dial.addr()),
        Verdict::Deny(denial) => Err((denial.reason.to_string(), rule(&denial.basis))),
    };
    match ask {
        Ask::Flow(facts) => {
            let vet = |permit: &Permit| vet(permit, facts.dial);
            of_route(policy, policy.decide(&flow(facts), host), Some(&vet))
        }
        Ask::Request(request) => {
            let vet = |permit: &Permit| vet(permit, request.dial);
            of_action(policy, decide_request(policy, request, host), &vet)
        }
        Ask::Name(name) => match policy.decide_name(&domain(name)) {
            Verdict::Allow(basis) => allowed(policy, "", &basis),
            Verdict::Deny(denial) => denied(policy, &denial),
        },
        Ask::Answer(address) => match policy.vet_answer(*address, host) {
            Verdict::Allow(()) => Said { verdict: "allow", ..Said::default() },
            Verdict::Deny(denial) => denied(policy, &denial),
        },
    }
}

fn flow(facts: &Facts) -> Flow {
    let Facts { dst, seen, pinned, dial: _ } = facts;
    let seen = match seen {
        model::Seen::Unread => Seen::Unread,
        model::Seen::Http => Seen::Http(HttpVersion::Http1),
        model::Seen::Opaque => Seen::Opaque,
        model::Seen::Tls(name) => Seen::Tls(Hello { sni: name.as_deref().map(domain), alpn: Vec::new(), ech: false }),
        model::Seen::Unreadable => Seen::Unreadable(HelloFault::Malformed),
    };
    Flow {
        id: FlowId(1),
        sandbox: SandboxId::new("oracle").expect("an identifier"),
        client: ClientAddr(*dst),
        dst: OriginalDst(*dst),
        seen,
        pinned: pinned.iter().map(|name| domain(name)).collect(),
    }
}

fn decide_request(policy: &Policy, request: &Request, host: &Protected) -> Verdict<Action> {
    let authority = request.authority.as_deref().map(domain);
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        headers.append(name, HeaderValue::from_str(value).expect("a header's value"));
    }
    let head = RequestHead {
        scheme: if request.secure { Scheme::Https } else { Scheme::Http },
        authority: authority.as_ref(),
        dst: OriginalDst(request.dst),
        method: &request.method,
        path: &request.path,
        query: request.query.as_deref(),
        headers: &headers,
    };
    policy.decide_request(&head, host)
}

/// What vetting says of the address to dial.
type Vet<'a> = &'a dyn Fn(&Permit) -> Result<SocketAddr, (String, Option<String>)>;

fn of_route(policy: &Policy, verdict: Verdict<Route>, vet: Option<Vet<'_>>) -> Said<String> {
    match verdict {
        Verdict::Deny(denial) => denied(policy, &denial),
        Verdict::Allow(Route::Relay(permit)) => permitted(policy, "relay", &permit, vet),
        Verdict::Allow(Route::Splice(permit)) => permitted(policy, "splice", &permit, vet),
        Verdict::Allow(Route::Terminate(basis)) => allowed(policy, "terminate", &basis),
    }
}

fn of_action(policy: &Policy, verdict: Verdict<Action>, vet: Vet<'_>) -> Said<String> {
    match verdict {
        Verdict::Deny(denial) => denied(policy, &denial),
        Verdict::Allow(Action::Forward(permit)) => permitted(policy, "forward", &permit, Some(vet)),
        Verdict::Allow(Action::Respond(response, basis)) => {
            Said { status: Some(response.status.as_u16()), ..allowed(policy, "respond", &basis) }
        }
        Verdict::Allow(Action::Divert(url, permit)) => {
            Said { url: url.text.clone(), ..permitted(policy, "forward", &permit, Some(vet)) }
        }
    }
}

fn rule(basis: &Basis) -> Option<String> {
    basis.rule.as_ref().map(ToString::to_string)
}

fn allowed(policy: &Policy, route: &'static str, basis: &Basis) -> Said<String> {
    assert_eq!(basis.revision, policy.revision());
    Said { verdict: "allow", route, rule: rule(basis), ..Said::default() }
}

fn denied(policy: &Policy, denial: &Denial) -> Said<String> {
    assert_eq!(denial.basis.revision, policy.revision());
    let reason = denial.reason.to_string();
    Said { verdict: "deny", reason, rule: rule(&denial.basis), ..Said::default() }
}

fn written(segment: &Segment) -> String {
    let part = |part: &Part| match part {
        Part::Literal(text) => text.clone(),
        Part::Secret(name) => format!("${{secrets.{}}}", name.as_str()),
    };
    match segment {
        Segment::Plain(plain) => part(plain),
        Segment::Base64(parts) => format!("base64({})", parts.iter().map(part).collect::<String>()),
    }
}

fn permitted(policy: &Policy, route: &'static str, permit: &Permit, vet: Option<Vet<'_>>) -> Said<String> {
    let target = match permit.target() {
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Address(address) => address.to_string(),
    };
    let mut injected: Vec<(String, String)> = permit
        .injections()
        .iter()
        .map(|injection| (injection.header.to_string(), injection.value.0.iter().map(written).collect()))
        .collect();
    injected.sort();
    Said {
        reason: permit.observed().map(|reason| reason.to_string()).unwrap_or_default(),
        target,
        injected,
        dial: vet.map(|vet| vet(permit)),
        ..allowed(policy, route, permit.basis())
    }
}

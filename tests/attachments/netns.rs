//! Attachments by network namespace.

use std::process::{Command, Stdio};

use exeat::attach::{AttachmentEvent, Device, Refusal, Spec};

use super::ground::{Ground, Process, TAP_GUEST, at, path, refusal};

#[test]
fn whatever_a_namespace_dials_arrives_here() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let served = ground.serve("one", &spec);
    let answers = ground.client(
        "exw-a",
        "tcp 1.2.3.4 443
         tcp 2001:4860::1 8443
         udp 9.9.9.9 53 question
         udp 2001:4860::2 53 question
         udp 198.18.0.1 53 question
         udp 1.2.3.4 443 hello
         udp 2001:4860::1 443 hello
         udp 1.2.3.4 5000 relay
         udp 2001:4860::1 5000 relay
         tcp 127.0.0.1 443
         tcp ::1 443
         udp 127.0.0.1 53 question
         echo 1.2.3.4 for 0.3",
    );
    assert_eq!(
        answers,
        [
            "one 1.2.3.4:443",
            "one [2001:4860::1]:8443",
            "one 9.9.9.9:53 question",
            "one [2001:4860::2]:53 question",
            "one 198.18.0.1:53 question",
            "ECONNREFUSED",
            "ECONNREFUSED",
            "one 1.2.3.4:5000 relayed",
            "one [2001:4860::1]:5000 relayed",
            "ECONNREFUSED",
            "ECONNREFUSED",
            "ECONNREFUSED",
            "silence",
        ]
    );
    ground.detach(served);
    assert_eq!(ground.client("exw-a", "tcp 1.2.3.4 443"), ["ENETUNREACH"]);
}

#[test]
fn a_resolver_of_the_sandboxs_own_does_no_harm() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let resolver = in_namespace(
        &ground,
        "exw-a",
        "ip link set lo up; exec /usr/bin/python3 -uc 'import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"0.0.0.0\", 53)); print(1)
while True: _, a = s.recvfrom(99); s.sendto(b\"its own\", a)'",
    );
    let served = ground.serve("one", &spec);
    let answers = ground.client("exw-a", "udp 127.0.0.1 53 question\nudp 9.9.9.9 53 question");
    assert_eq!(answers, ["its own", "one 9.9.9.9:53 question"]);
    ground.detach(served);
    resolver.end();
}

#[test]
fn a_process_names_its_namespace() {
    let Some(ground) = Ground::new() else { return };
    let process = in_namespace(&ground, "", "exec unshare --net bash -c 'echo; exec sleep infinity'");
    let spec = at(format!("/proc/{}/ns/net", process.id()).into());
    let served = ground.serve("one", &spec);
    process.end();
    let (event, served) = ground.event(served);
    assert_eq!(event, AttachmentEvent::Gone);
    ground.detach(served);
}

#[test]
fn a_namespace_with_a_second_interface_is_refused() {
    let Some(ground) = Ground::new() else { return };
    for (kind, raise) in [("veth peer name exw-p", true), ("veth peer name exw-p", false), ("bridge", false)] {
        let spec = ground.sandbox("exw-a");
        ground.place.ip(&format!("-n exw-a link add exw-i type {kind}"));
        if raise {
            ground.place.ip("-n exw-a link set exw-i up");
        }
        let before = ground.traces("exw-a");
        let Refusal::WayOut(name) = refusal(ground.attach(&spec)) else { panic!("another refusal") };
        assert!(name.starts_with("exw-"), "{name}");
        ground.traces("exw-a").assert_same(&before);
        ground.place.ip("netns del exw-a");
    }
}

#[test]
fn what_is_no_sandboxs_namespace_is_refused() {
    let Some(ground) = Ground::new() else { return };
    let own = path("exw-own");
    ground.shell(
        "touch /run/netns/exw-own /run/netns/exw-file; mkfifo /run/netns/exw-fifo
        mount --bind /proc/self/ns/net /run/netns/exw-own",
    );
    assert_eq!(refusal(ground.attach(&at(own.clone()))), Refusal::OwnNamespace(own));
    for name in ["exw-file", "exw-fifo"] {
        let other = path(name);
        assert_eq!(refusal(ground.attach(&at(other.clone()))), Refusal::NotANamespace(other));
    }
    let user = std::path::PathBuf::from("/proc/self/ns/user");
    assert_eq!(refusal(ground.attach(&at(user.clone()))), Refusal::NotANamespace(user));
    let nowhere = path("exw-nowhere");
    assert_eq!(refusal(ground.attach(&at(nowhere.clone()))), Refusal::NoNamespace(nowhere));
}

#[test]
fn a_namespace_is_attached_once() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let served = ground.serve("one", &spec);
    assert_eq!(refusal(ground.attach(&spec)), Refusal::Taken);
    assert_eq!(ground.client("exw-a", "tcp 1.2.3.4 443"), ["one 1.2.3.4:443"], "the first is as it was");
    ground.detach(served);
}

#[test]
fn an_interface_that_comes_later_quarantines_and_carries_nothing() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let served = ground.serve("one", &spec);
    ground.shell(
        "ip link add exw-out type veth peer name exw-in netns exw-a
        ip address add 10.9.0.1/24 dev exw-out; ip link set exw-out up
        ip -n exw-a address add 10.9.0.2/24 dev exw-in; ip -n exw-a link set exw-in up",
    );
    // Nobody has looked at the events yet.
    let answers = ground.client(
        "exw-a",
        "udp 10.9.0.1 99 hello through exw-in
         tcp 10.9.0.1 99 through exw-in for 0.5
         tcp 1.2.3.4 443",
    );
    assert_eq!(answers, ["EPERM", "silence", "one 1.2.3.4:443"]);
    let (event, served) = ground.event(served);
    let AttachmentEvent::Quarantined(reason) = event else { panic!("{event:?}") };
    assert_eq!(reason, "interface exw-in is in the namespace");
    ground.detach(served);
}

#[test]
fn a_namespace_whose_path_goes_is_gone() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let first = ground.serve("one", &spec);
    let id = first.id();
    ground.place.ip("netns del exw-a");
    let (event, first) = ground.event(first);
    assert_eq!(event, AttachmentEvent::Gone);
    // Whoever takes the path is somebody else.
    let spec = ground.sandbox("exw-a");
    let second = ground.serve("two", &spec);
    assert_ne!(second.id(), id);
    let found = second.abandon(&ground);
    assert_eq!(refusal(ground.take_up(&spec, &id, None)), Refusal::Another(found));
    ground.detach(first);
}

#[test]
fn a_crash_leaves_nothing_open_and_what_is_the_same_is_taken_up_again() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let before = ground.traces("exw-a");
    let id = ground.serve("one", &spec).abandon(&ground);
    let dead = ground.client("exw-a", "tcp 1.2.3.4 443\nudp 9.9.9.9 53 question for 0.3\nudp 1.2.3.4 443 hello");
    assert_eq!(dead, ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]);
    let read: exeat::attach::AttachmentId = id.to_string().parse().expect("an identity");
    let again = ground.serve_attached("two", ground.take_up(&spec, &read, None).expect("it is the same"));
    assert_eq!(again.id(), id);
    assert_eq!(ground.client("exw-a", "tcp 1.2.3.4 443"), ["two 1.2.3.4:443"]);
    ground.detach(again);
    ground.traces("exw-a").assert_same(&before);
}

#[test]
fn sockets_are_handed_over_without_a_gap() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    let attached = ground.attach(&spec).expect("an attachment");
    let (id, sockets) = (attached.attachment.id().clone(), attached.sockets);
    let again = ground.take_up(&spec, &id, Some(sockets)).expect("it is the same");
    let served = ground.serve_attached("two", again);
    assert_eq!(ground.client("exw-a", "tcp 1.2.3.4 443"), ["two 1.2.3.4:443"]);
    ground.detach(served);
}

#[test]
fn detaching_leaves_every_thing_as_it_was() {
    let Some(ground) = Ground::new() else { return };
    for lo in ["down", "up"] {
        let spec = ground.sandbox("exw-a");
        ground.place.ip(&format!("-n exw-a link set lo {lo}"));
        ground.shell("ip netns exec exw-a nft add table inet its-own");
        let before = [ground.traces("exw-a"), ground.traces("")];
        let served = ground.serve("one", &spec);
        assert!(ground.traces("exw-a").has("table inet exeat"));
        ground.traces("").assert_same(&before[1]);
        ground.detach(served);
        ground.traces("exw-a").assert_same(&before[0]);
        ground.traces("").assert_same(&before[1]);
        ground.place.ip("netns del exw-a");
    }
}

#[test]
fn a_namespace_without_ipv6_is_served_by_ipv4() {
    let Some(ground) = Ground::new() else { return };
    let spec = ground.sandbox("exw-a");
    ground.shell("ip netns exec exw-a sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let served = ground.serve("one", &spec);
    assert_eq!(ground.client("exw-a", "tcp 1.2.3.4 443\ntcp 2001:4860::1 443"), ["one 1.2.3.4:443", "EADDRNOTAVAIL"]);
    ground.detach(served);
}

#[test]
fn no_thread_stays_with_an_attachment() {
    let Some(ground) = Ground::new() else { return };
    let threads = || std::fs::read_dir("/proc/self/task").expect("/proc").count();
    let specs = ["exw-a", "exw-b", "exw-c", "exw-d"].map(|name| ground.sandbox(name));
    let named = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("/proc").flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim() == "attach").count()
    };
    let served = specs.each_ref().map(|spec| ground.serve("one", spec));
    assert!(crate::support::eventually(|| named() == 0), "of {} threads, {} attach", threads(), named());
    served.into_iter().for_each(|served| ground.detach(served));
}

/// Starts the guest of a TAP inside a namespace.
fn tap_guest(ground: &Ground, sandbox: &str) -> Process {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", sandbox, "/usr/bin/python3", "-c", TAP_GUEST]).stdin(Stdio::piped());
    let mut guest = ground.start(&mut command);
    assert_eq!(guest.line(), "ready");
    guest
}

#[test]
fn a_guest_behind_a_tap_in_a_namespace_is_served() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.sandbox("exw-a");
    let mut guest = tap_guest(&ground, "exw-a");
    let before = ground.traces("exw-a");
    assert_eq!(refusal(ground.attach(&plain)), Refusal::WayOut("exwt".to_owned()), "it was not declared");
    let tap = |address: &str| Device::new("exwt", [address.parse().expect("an address")]).expect("a device");
    let with = |taps: Vec<Device>| Spec::Netns { path: path("exw-a"), taps };
    let other = Device::new("exwu", tap("10.0.0.2").addresses().to_vec()).expect("a device");
    assert_eq!(refusal(ground.attach(&with(vec![other]))), Refusal::NoInterface("exwu".to_owned()));
    assert_eq!(refusal(ground.attach(&with(vec![tap("10.0.0.2"), tap("10.0.0.3")]))), Refusal::Taps(2));
    ground.traces("exw-a").assert_same(&before);
    let spec = with(vec![tap("10.0.0.2")]);
    let one = ground.serve("one", &spec);
    assert_eq!(ground.client("exw-a", "tcp 1.2.3.4 443"), ["one 1.2.3.4:443"], "so is a process there");
    let id = one.abandon(&ground);
    let again = ground.serve_attached("two", ground.take_up(&spec, &id, None).expect("it is the same"));
    guest.say("go");
    assert_eq!(guest.line(), "two 9.9.9.9:53 question 9.9.9.9 53 40000");
    ground.detach(again);
    ground.traces("exw-a").assert_same(&before);
    let one = ground.serve("one", &spec);
    guest.end();
    let (event, one) = ground.event(one);
    assert_eq!(event, AttachmentEvent::Gone, "the TAP went with its program");
    ground.detach(one);
}

#[test]
fn a_tap_that_becomes_another_quarantines() {
    let Some(ground) = Ground::new() else { return };
    ground.sandbox("exw-a");
    let taps = vec![Device::new("exwt", ["10.0.0.2".parse().expect("an address")]).expect("a device")];
    let guest = tap_guest(&ground, "exw-a");
    let one = ground.serve("one", &Spec::Netns { path: path("exw-a"), taps });
    ground.place.ip("-n exw-a link set exwt name exwz");
    let (event, one) = ground.event(one);
    assert_eq!(event, AttachmentEvent::Quarantined("interface exwt is now called exwz".to_owned()));
    ground.detach(one);
    guest.end();
}

/// Starts a command of the shell in a named namespace, or on the host with `""`, and waits for its first line.
fn in_namespace(ground: &Ground, sandbox: &str, command: &str) -> Process {
    let enter = if sandbox.is_empty() { String::new() } else { format!("ip netns exec {sandbox} ") };
    let text = format!("exec {enter}bash -c '{}'", command.replace('\'', "'\\''"));
    let mut process = ground.start(Command::new("bash").args(["-c", &text]));
    process.line();
    process
}

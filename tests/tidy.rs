//! Form that the compiler does not check: which layer uses which, what stands in one file alone, what may not stand
//! in the tree at all (HOUSE §1, habit 14).
//!
//! Each rule is a function from a [`Source`] to findings, tried here on samples that break it, then run over the
//! tree. A rule with exceptions keeps them in a table beside it, each with its reason, and an exception that is no
//! longer needed is a finding, too.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod tidy {
    pub(crate) mod source;
}

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use tidy::source::{Source, Token, crate_paths};

#[test]
fn the_tree_is_tidy() {
    let tree = tree();
    assert!(tree.iter().any(|source| source.path == "src/lib.rs"), "the walk found no sources");
    let mut findings: Vec<Finding> = tree.iter().flat_map(every_rule).collect();
    findings.extend(stale_allowances(&tree));
    let list: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    assert!(findings.is_empty(), "{} findings\n{list}", findings.len());
}

/// The rows of a table of the manual's: what stands in the first column, and the tests in the last.
fn manual_table(tree: &[Source], chapter: &str) -> Vec<(String, Vec<String>)> {
    let manual = tree.iter().find(|source| source.path == "src/manual.rs").expect("the manual");
    let end = format!("pub mod {chapter} {{}}");
    let before = manual.text.split_once(&end).expect("the chapter").0;
    let rows =
        before.rsplit("pub mod ").next().expect("its text").lines().filter_map(|line| line.strip_prefix("/// | "));
    let tests = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
    cells.skip(1).map(|(first, last)| (first.to_owned(), tests(last))).collect()
}

/// The manual's table of clauses names a test for each, and the test is there; no section and no row is left out.
#[test]
fn the_manual_names_a_test_for_every_clause() {
    let tree = tree();
    let clauses = manual_table(&tree, "clauses");
    let tests: BTreeSet<String> = tree.iter().flat_map(Source::tests).collect();
    for (clause, named) in &clauses {
        let absent: Vec<_> = named.iter().filter(|name| !tests.contains(*name)).collect();
        assert!(!named.is_empty() && absent.is_empty(), "{clause}: {named:?}; no such test: {absent:?}");
    }
    let rows = (0..=9).map(|row| format!("§3 row {row}:"));
    for part in (1..=9).map(|section| format!("§{section} ")).chain(rows) {
        assert!(clauses.iter().any(|(clause, _)| clause.starts_with(&part)), "no clause of {part}");
    }
}

/// The tests that the manual names for what survives a restart are there.
#[test]
fn the_manual_names_a_test_for_every_promise_of_a_restart() {
    let tree = tree();
    let tests: BTreeSet<String> = tree.iter().flat_map(Source::tests).collect();
    let promises = manual_table(&tree, "restart");
    assert!(!promises.is_empty());
    for (promise, named) in promises {
        let absent: Vec<_> = named.iter().filter(|name| !tests.contains(*name)).collect();
        assert!(!named.is_empty() && absent.is_empty(), "{promise}: {named:?}; no such test: {absent:?}");
    }
}

/// The manual's table of attacks is whole: the tests that it names are there, and no test of an attack is missing.
#[test]
fn the_manual_names_every_attack() {
    let tree = tree();
    let named: BTreeSet<String> = manual_table(&tree, "attacks").into_iter().flat_map(|(_, tests)| tests).collect();
    let places = ["tests/bypass/", "tests/confinement.rs", "tests/escape.rs"];
    let attacks = |source: &Source| places.iter().any(|path| source.path.starts_with(path));
    // Elsewhere, a test of an attack alone begins with its number, such as `e46_`; others may be named, too.
    let numbered = |name: &String| name.starts_with(char::is_alphabetic) && name[1..].starts_with(char::is_numeric);
    let of_source = |source: &Source| match attacks(source) {
        true => source.tests(),
        false => source.tests().into_iter().filter(numbered).collect(),
    };
    let of_attacks: BTreeSet<String> = tree.iter().flat_map(of_source).collect();
    assert!(!of_attacks.is_empty(), "the search for tests found none");
    let all: BTreeSet<String> = tree.iter().flat_map(Source::tests).collect();
    let (unnamed, absent): (Vec<_>, Vec<_>) =
        (of_attacks.difference(&named).collect(), named.difference(&all).collect());
    assert!(unnamed.is_empty() && absent.is_empty(), "not in the manual: {unnamed:?}; no such test: {absent:?}");
}

/// What is wrong, and where.
#[derive(Debug)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

fn finding(source: &Source, line: usize, message: impl Into<String>) -> Finding {
    Finding { path: source.path.clone(), line, message: message.into() }
}

fn every_rule(source: &Source) -> Vec<Finding> {
    let mut findings = forbidden_text(source);
    findings.extend(long_lines(source));
    if source.path.ends_with(".rs") {
        for rule in
            [layers, unsafe_stays_in_sys, connect_stays_in_upstream, pure, wire, long_functions, module_doc, sleeps]
        {
            findings.extend(rule(source));
        }
    }
    findings
}

/// HOUSE §1. A module uses lower numbers only; [`SEAMS`] are the exceptions.
const LAYERS: [(&str, u8); 28] = [
    ("flow", 1),
    ("limits", 1),
    ("sys", 1),
    ("matcher", 2),
    ("policy", 3),
    ("jws", 3),
    ("tls", 3),
    ("secret", 4),
    ("ca", 4),
    ("issuer", 4),
    ("sandbox", 5),
    ("audit", 5),
    ("metrics", 5),
    ("attach", 6),
    ("confine", 6),
    ("resolve", 6),
    ("dns", 6),
    ("intercept", 7),
    ("control", 8),
    ("state", 8),
    ("fleet", 8),
    ("config", 8),
    ("cli", 9),
    ("main", 9),
    ("manual", 9),
    ("doctor", 9),
    ("demo", 9),
    ("lib", 10),
];

/// Who may use `sys`, as the beginning of a module's path.
const SYS_USERS: [&[&str]; 5] = [&["attach"], &["confine"], &["secret"], &["intercept", "splice"], &["cli"]];

/// What one module may use of another although its layer is not lower, and the only things that it may use of it:
/// the traits that wiring implements (HOUSE §1), and the values in their signatures.
const SEAMS: [(&str, &str, &[&str]); 4] = [
    ("metrics", "audit", &["Closed", "Event", "Judged", "Kind", "Record"]),
    ("dns", "resolve", &["Answer", "Found", "Resolve", "ResolveError", "Zone"]),
    ("dns", "attach", &["Datagrams", "Envelope"]),
    ("intercept", "attach", &["Arrival", "Datagrams", "Envelope", "Listener", "Packets", "Replies", "Reset"]),
];

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|&(_, layer)| layer)
}

fn layers(source: &Source) -> Vec<Finding> {
    let Some(module) = source.module().filter(|module| !module.is_empty()) else { return Vec::new() };
    let Some(own) = layer(module[0]) else {
        return vec![finding(source, 1, format!("module `{}` has no layer in tests/tidy.rs", module[0]))];
    };
    crate_paths(source.product(), &module)
        .into_iter()
        .filter_map(|(path, line)| {
            let used = path.first()?;
            may_use(&module, own, used, path.get(1)).err().map(|why| finding(source, line, why))
        })
        .collect()
}

fn may_use(module: &[&str], own: u8, used: &str, item: Option<&String>) -> Result<(), String> {
    if used == module[0] {
        return Ok(());
    }
    if let Some((.., items)) = SEAMS.iter().find(|(user, lower, _)| *user == module[0] && *lower == used) {
        let item = item.map_or("*", String::as_str);
        return items
            .contains(&item)
            .then_some(())
            .ok_or_else(|| format!("`{}` may use {items:?} of `{used}`, not `{item}`", module[0]));
    }
    let Some(theirs) = layer(used) else {
        return Err(format!("`crate::{used}` is no module with a layer"));
    };
    if theirs >= own {
        return Err(format!("`{}` (layer {own}) uses `{used}` (layer {theirs})", module[0]));
    }
    if used == "sys" && !SYS_USERS.iter().any(|user| module.starts_with(user)) {
        return Err(format!("`{}` may not use `sys`", module.join("::")));
    }
    Ok(())
}

fn unsafe_stays_in_sys(source: &Source) -> Vec<Finding> {
    if source.path == "src/sys.rs" || source.path.starts_with("src/sys/") {
        return Vec::new();
    }
    sequences(source, source.tokens(), &[&["unsafe"]], "`unsafe` stands in src/sys.rs alone")
}

/// Ways to open a connection, as tokens.
const CONNECTS: [&[&str]; 7] = [
    &["TcpStream", "::", "connect"],
    &["UnixStream", "::", "connect"],
    &["UdpSocket", "::", "connect"],
    &["TcpSocket"],
    &["connect_timeout"],
    &[".", "connect", "("],
    &["libc", "::", "connect"],
];

/// Who opens connections, and why it is no other.
const CONNECTORS: [&str; 2] = [
    // For flows: HOUSE §3.
    "src/intercept/upstream.rs",
    // The operator's own: to a daemon, and to where secrets come from. No flow has any part in them.
    "src/cli/dial.rs",
];

/// HOUSE §3: the only code that opens a connection for a flow is `intercept::upstream`; the host's own DNS questions
/// go out through the resolver library, which only `resolve` may name.
fn connect_stays_in_upstream(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if !CONNECTORS.contains(&source.path.as_str()) {
        let message = "outbound connections are opened in src/intercept/upstream.rs alone";
        findings.extend(sequences(source, source.product(), &CONNECTS, message));
    }
    if source.path != "src/resolve.rs" && !source.path.starts_with("src/resolve/") {
        let message = "the resolver library is used in src/resolve.rs alone";
        findings.extend(sequences(source, source.product(), &[&["hickory_resolver"]], message));
    }
    findings
}

/// What a pure module never names.
const EFFECTS: [&[&str]; 14] = [
    &["tokio"],
    &["hyper"],
    &["nix"],
    &["libc"],
    &["socket2"],
    &["SystemTime"],
    &["Instant"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["std", "::", "fs"],
    &["std", "::", "env"],
    &["std", "::", "process"],
    &["std", "::", "thread"],
];

/// Layers 1 to 3 but `sys`: no tokio, clock, file or socket.
fn pure(source: &Source) -> Vec<Finding> {
    if !is_pure(source) {
        return Vec::new();
    }
    sequences(source, source.product(), &EFFECTS, "layers 1 to 3 know no runtime, clock, file or socket")
}

fn is_pure(source: &Source) -> bool {
    let module = source.module().unwrap_or_default();
    module.first().is_some_and(|top| *top != "sys" && layer(top).is_some_and(|layer| layer <= 3))
}

/// Deserialising ends in `policy::wire` (HOUSE habit 1).
fn wire(source: &Source) -> Vec<Finding> {
    if !is_pure(source) || source.path == "src/policy/wire.rs" || source.path.starts_with("src/policy/wire/") {
        return Vec::new();
    }
    // Writing JSON out is not reading it in.
    let raw: [&[&str]; 4] =
        [&["Deserialize"], &["DeserializeOwned"], &["serde_json", "::", "from_str"], &["granit_parser"]];
    sequences(source, source.product(), &raw, "deserialising stands in src/policy/wire.rs alone")
}

/// Lines that a function may have (HOUSE §1).
const FUNCTION_LINES: usize = 70;

/// Functions that may be longer, and why.
const LONG_FUNCTIONS: [(&str, &str, &str); 0] = [];

fn long_functions(source: &Source) -> Vec<Finding> {
    let allowed = |name: &str| LONG_FUNCTIONS.iter().any(|(path, long, _)| *path == source.path && *long == name);
    over_long(source)
        .into_iter()
        .filter(|(name, ..)| !allowed(name))
        .map(|(name, line, lines)| finding(source, line, format!("`{name}` has {lines} lines, over {FUNCTION_LINES}")))
        .collect()
}

fn over_long(source: &Source) -> Vec<(String, usize, usize)> {
    let lengths = source.functions().into_iter().map(|(name, lines)| (name, lines.start, lines.end - lines.start + 1));
    lengths.filter(|(.., lines)| *lines > FUNCTION_LINES).collect()
}

fn stale_allowances(tree: &[Source]) -> Vec<Finding> {
    let needed = |path: &str, name: &str| {
        tree.iter().any(|source| source.path == path && over_long(source).iter().any(|(long, ..)| long == name))
    };
    LONG_FUNCTIONS
        .iter()
        .filter(|(path, name, _)| !needed(path, name))
        .map(|(path, name, _)| Finding {
            path: "tests/tidy.rs".to_owned(),
            line: 1,
            message: format!("`{name}` in {path} no longer needs its allowance"),
        })
        .collect()
}

/// What a module owns, and what it never does, stands first (HOUSE habit 15).
fn module_doc(source: &Source) -> Vec<Finding> {
    let first = source.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!"));
    if first.is_some_and(|line| line.starts_with("//! ")) {
        return Vec::new();
    }
    vec![finding(source, 1, "a file begins with its module doc (`//! `)")]
}

/// HOUSE habit 12: tests wait for events. `tests/support` holds the one bounded poll for what gives no event; and a
/// terminal tells nobody that it came to the front.
fn sleeps(source: &Source) -> Vec<Finding> {
    // What is waited for there are other programs, which tell of no event.
    let of_others = ["tests/support/", "benches/peers/"].iter().any(|folder| source.path.starts_with(folder));
    if of_others || source.path == "src/cli/run/terminal.rs" {
        return Vec::new();
    }
    sequences(source, source.tokens(), &[&["thread", "::", "sleep"]], "wait for the event, not for the clock")
}

/// Columns that a line may have.
const LINE_CHARS: usize = 120;

fn long_lines(source: &Source) -> Vec<Finding> {
    if [".toml", ".lock", ".dict", "schema.json", "openapi.json"].iter().any(|kind| source.path.ends_with(kind)) {
        return Vec::new();
    }
    // The row of a table cannot be broken.
    let row = |line: &str| line.trim_start_matches(['/', '!', ' ']).starts_with('|');
    lines_where(source, |line| line.chars().count() > LINE_CHARS && !row(line), "a line has 120 columns at most")
}

/// Text that may stand nowhere: left-over marks, and hosts of package registries. Split, so as not to find itself.
const FORBIDDEN: [&str; 13] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("db", "g!("),
    concat!("registry", ".npmjs"),
    concat!("py", "pi.org"),
    concat!("files.python", "hosted"),
    concat!("deb.", "debian"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("ruby", "gems.org"),
    concat!("/wo", "rk/"),
    concat!("proxy.", "golang"),
];

fn forbidden_text(source: &Source) -> Vec<Finding> {
    let found = |mark: &&str| lines_where(source, |line| line.contains(*mark), &format!("`{mark}` may not stand here"));
    FORBIDDEN.iter().flat_map(found).collect()
}

fn lines_where(source: &Source, bad: impl Fn(&str) -> bool, message: &str) -> Vec<Finding> {
    let numbered = source.text.lines().enumerate().filter(|(_, line)| bad(line));
    numbered.map(|(at, _)| finding(source, at + 1, message)).collect()
}

/// A finding for each place in `tokens` where one of `bad` stands.
fn sequences(source: &Source, tokens: &[Token], bad: &[&[&str]], message: &str) -> Vec<Finding> {
    let stands = |window: &[Token], words: &[&str]| window.iter().zip(words).all(|(token, word)| token.text == *word);
    bad.iter()
        .flat_map(|words| tokens.windows(words.len()).filter(move |window| stands(window, words)))
        .map(|window| finding(source, window[0].line, message))
        .collect()
}

/// Every text file that belongs to the project.
fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    const SKIPPED: [&str; 7] = [".git", "target", "corpus", "artifacts", "Cargo.lock", "LICENSE", "coverage"];
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        if SKIPPED.contains(&name) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let relative = path.strip_prefix(root).expect("below the root");
            found.push(Source::new(relative.to_str().expect("a path in UTF-8"), &text));
        }
    }
}

/// The messages of every rule for one sample.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let text = format!("//! A sample.\n{text}");
    every_rule(&Source::new(path, &text)).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(path: &str, text: &str, expected: &str) {
    let found = complaints(path, text);
    assert!(found.len() == 1 && found[0].contains(expected), "expected `{expected}`, found {found:?}");
}

#[track_caller]
fn accepted(path: &str, text: &str) {
    assert_eq!(complaints(path, text), Vec::<String>::new());
}

#[test]
fn a_layer_uses_lower_layers_only() {
    accepted("src/policy/compile.rs", "use crate::flow::Domain;\nuse super::verdict::Verdict;");
    refused("src/policy/compile.rs", "use crate::secret::Secret;", "2: `policy` (layer 3) uses `secret` (layer 4)");
    refused("src/secret/source.rs", "use crate::{flow::Domain, ca::{Root as R}, limits};", "uses `ca` (layer 4)");
    refused("src/sandbox.rs", "fn f() { crate::dns::serve() }", "`sandbox` (layer 5) uses `dns` (layer 6)");
    refused("src/attach/netns.rs", "use super::super::dns::serve;", "`attach` (layer 6) uses `dns` (layer 6)");
    refused("src/audit.rs", "use crate::unheard_of::It;", "is no module with a layer");
    refused("src/unheard_of.rs", "", "has no layer");
}

#[test]
fn a_seam_lets_named_items_through_and_nothing_else() {
    accepted("src/intercept.rs", "use crate::attach::{Arrival, Listener};");
    refused("src/intercept.rs", "use crate::attach::netns::Attachment;", "not `netns`");
    refused("src/intercept.rs", "use crate::attach::*;", "not `*`");
    refused("src/dns.rs", "use crate::resolve::System;", "not `System`");
}

#[test]
fn sys_is_for_those_who_need_it() {
    accepted("src/intercept/splice.rs", "use crate::sys::pipe;");
    accepted("src/cli/run.rs", "use crate::sys;");
    refused("src/intercept/tls.rs", "use crate::sys::pipe;", "`intercept::tls` may not use `sys`");
    refused("src/matcher.rs", "use crate::sys;", "`matcher` may not use `sys`");
}

#[test]
fn test_code_is_free_of_the_layers() {
    accepted("src/flow.rs", "#[cfg(test)]\nmod tests {\n    use crate::cli::run;\n    fn f() { if x {} }\n}");
    accepted("src/intercept/tests.rs", "use crate::cli::run;");
    let after = "#[cfg(test)]\nmod tests;\nuse crate::cli::run;";
    refused("src/flow.rs", after, "4: `flow` (layer 1) uses `cli` (layer 9)");
}

#[test]
fn unsafe_outside_sys_is_found() {
    accepted("src/sys.rs", "fn f() { unsafe { g() } }");
    accepted("src/ca.rs", "// unsafe\n/* unsafe /* unsafe */ unsafe */ const A: &str = \"unsafe \\\" unsafe\";");
    accepted("src/ca.rs", "const A: &str = r#\"unsafe \" unsafe\"#; const B: char = '\"'; fn f<'a>() {}");
    refused("src/ca.rs", "const B: char = '\"'; fn f() { unsafe { g() } }", "`unsafe` stands in src/sys.rs alone");
    refused("tests/cli.rs", "unsafe fn f() {}", "`unsafe` stands in src/sys.rs alone");
}

#[test]
fn a_connect_outside_upstream_is_found() {
    accepted("src/intercept/upstream.rs", "fn f() { TcpStream::connect(a) }");
    accepted("src/intercept/http.rs", "fn f() { upstream::connect(a) }");
    accepted("tests/cli.rs", "fn f() { TcpStream::connect(a) }");
    for open in ["TcpStream::connect(a)", "TcpSocket::new_v4()", "socket.connect(a)", "UdpSocket::connect(a)"] {
        refused("src/dns.rs", &format!("fn f() {{ {open} }}"), "src/intercept/upstream.rs alone");
    }
    refused("src/dns.rs", "use hickory_resolver::Resolver;", "src/resolve.rs alone");
}

#[test]
fn a_pure_module_with_effects_is_found() {
    accepted("src/limits.rs", "use std::time::Duration;");
    accepted("src/policy/wire.rs", "use serde::Deserialize;");
    for effect in ["tokio::spawn", "std::fs::read", "Instant::now", "std::env::var", "socket2::Socket"] {
        refused("src/matcher/cidr.rs", &format!("fn f() {{ {effect}(a) }}"), "layers 1 to 3");
    }
    refused("src/policy/compile.rs", "use serde::Deserialize;", "src/policy/wire.rs alone");
    refused("src/policy/compile.rs", "fn f() { serde_json::from_str(a) }", "src/policy/wire.rs alone");
}

#[test]
fn a_long_function_is_found() {
    let body = |lines: usize| format!("fn long() {{\n{}}}", "    f([0; 2]);\n".repeat(lines - 2));
    accepted("src/ca.rs", &body(FUNCTION_LINES));
    refused("src/ca.rs", &body(FUNCTION_LINES + 1), "`long` has 71 lines");
}

#[test]
fn forms_of_text_are_found() {
    let missing = every_rule(&Source::new("src/ca.rs", "// A comment.\nfn f() {}\n"));
    assert!(missing.iter().any(|finding| finding.message.contains("module doc")), "{missing:?}");
    refused("src/ca.rs", &format!("// {}", "x".repeat(LINE_CHARS)), "120 columns");
    refused("README.md", concat!("TO", "DO: more"), "may not stand here");
    refused("policies/a.yaml", concat!("allow: [py", "pi.org]"), "may not stand here");
    refused("tests/cli.rs", "fn f() { std::thread::sleep(d) }", "not for the clock");
}

#[test]
fn tests_are_found_by_their_mark() {
    let text = "#[test]\nfn a() {}\n#[tokio::test]\nasync fn b() {}\nfn c() {}\n// #[test]\nfn d() {}";
    assert_eq!(Source::new("tests/sample.rs", text).tests(), ["a", "b"]);
}

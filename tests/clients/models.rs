//! Models' SDKs as their makers publish them, with placeholders alone. The servers are look-alikes of ours, since a
//! test cannot reach the real ones; they refuse every key but those that they know.

use super::python::{Service, inside, with_models};
use crate::support::exeat::{Outcome, Run, is_root};
use crate::support::world::World;
use crate::support::{eventually, skipped};

const NAMES: [&str; 2] = ["api.anthropic.com", "api.openai.com"];
const KEYS: [&str; 2] = ["sk-canary-Eix3quaiShohd8oo", "sk-canary-ohGh4ahghuu2Ieph"];

/// The servers, and the world that they are in.
struct Rig {
    world: World,
    python: &'static str,
    service: Service,
}

impl Rig {
    fn new() -> Option<Self> {
        if !is_root() {
            skipped("models: the wide world takes root");
            return None;
        }
        let Some(python) = with_models() else {
            skipped("models: their SDKs cannot be installed");
            return None;
        };
        let world = World::best();
        let service = Service::start(&world, python, &NAMES, "model_server");
        service.tell("keys", &KEYS.join("\n"));
        Some(Self { world, python, service })
    }

    /// A sandbox whose programs find placeholders for what the file `key` holds.
    fn run(&self) -> Run<'_> {
        let run = self.world.run().file("key", format!("{}\n", KEYS[0]));
        let [one, other] = NAMES;
        let policy = format!(
            "version: 1
allow: {{ {one}: [{{}}], {other}: [{{}}] }}
secrets: {{ MODEL: {{ file: {}, to: [{one}, {other}] }} }}
placeholders: {{ ANTHROPIC_API_KEY: MODEL, OPENAI_API_KEY: MODEL }}
",
            run.folder().join("key").display()
        );
        run.policy(&policy)
    }

    /// How many requests with this key were served.
    fn served(&self, key: &str) -> usize {
        self.service.log().lines().filter(|line| line.ends_with(&format!("{key} good"))).count()
    }
}

/// No key is where anybody here can see it, although the servers say what they were sent.
fn assert_hidden(outcome: &Outcome) {
    for key in KEYS {
        for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
            assert!(!text.contains(key), "{outcome:#?}");
        }
    }
}

#[test]
fn models_sdks_answer_and_stream_with_placeholders_alone() {
    let Some(rig) = Rig::new() else { return };
    let outcome = inside(rig.run(), rig.python, "model_client").succeeded();
    let struck = "*".repeat(KEYS[0].len());
    let expected = format!(
        "anthropic with {struck}\nanthropic streams with {struck} ['rig']\nanthropic streams , listed ['rig']\n\
         anthropic ends end_turn\nopenai with {struck}\nopenai streams with {struck} ['rig']\n\
         openai streams , listed ['rig']\nopenai stop\nanother key 401\n"
    );
    assert_eq!(outcome.stdout, expected, "{}\n{}", outcome.stderr, rig.service.log());
    assert_hidden(&outcome);
    for name in NAMES {
        outcome.assert_allowed(&[("name", name), ("injected", "[\"authorization\"]")]);
    }
    let refused: Vec<String> =
        rig.service.log().lines().filter(|line| line.ends_with("refused")).map(Into::into).collect();
    assert_eq!(refused, ["api.anthropic.com /v1/messages sk-mine refused"]);
}

#[test]
fn a_models_key_that_is_rotated_meanwhile_fails_no_request() {
    let Some(rig) = Rig::new() else { return };
    let run = rig.run();
    let file = run.folder().join("key");
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(eventually(|| rig.served(KEYS[0]) > 3), "{}", rig.service.log());
            let next = file.with_extension("next");
            std::fs::write(&next, KEYS[1]).expect("a file");
            std::fs::rename(next, &file).expect("a file");
            // The new one is in use: now the old one is good no more.
            assert!(eventually(|| rig.served(KEYS[1]) > 3), "{}", rig.service.log());
            rig.service.tell("keys", KEYS[1]);
        });
        inside(run, rig.python, "model_rotation").succeeded()
    });
    assert_eq!(outcome.stdout, "enough enough\n", "{outcome:#?}\n{}", rig.service.log());
    assert!(!rig.service.log().contains("refused"), "{}", rig.service.log());
    assert_hidden(&outcome);
}

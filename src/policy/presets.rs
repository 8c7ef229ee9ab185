//! The policies of `policies/`, built in: `--policy preset:github-read-only`.

use super::Source;

/// The text of a preset, and the path to show for it; `None` if there is no such preset.
#[must_use]
pub fn preset(name: &str) -> Option<Source<'static>> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}

/// The names of all presets.
pub fn presets() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

const PRESETS: [(&str, Source<'static>); 8] = [
    ("coding-agent", file("policies/coding-agent.yaml", include_str!("../../policies/coding-agent.yaml"))),
    (
        "coding-agent-placeholders",
        file("policies/coding-agent-placeholders.yaml", include_str!("../../policies/coding-agent-placeholders.yaml")),
    ),
    ("demo", file("policies/demo.yaml", include_str!("../../policies/demo.yaml"))),
    ("github-read-only", file("policies/github-read-only.yaml", include_str!("../../policies/github-read-only.yaml"))),
    ("model-apis", file("policies/model-apis.yaml", include_str!("../../policies/model-apis.yaml"))),
    ("no-network", file("policies/no-network.yaml", include_str!("../../policies/no-network.yaml"))),
    ("one-api", file("policies/one-api.yaml", include_str!("../../policies/one-api.yaml"))),
    (
        "private-subnet-only",
        file("policies/private-subnet-only.yaml", include_str!("../../policies/private-subnet-only.yaml")),
    ),
];

const fn file(path: &'static str, text: &'static str) -> Source<'static> {
    Source { path, text }
}

//! What the two processes of a take-over say, as they say it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cli::serve::meter::{News, Tally};
use crate::config::Config;
use crate::control::action::SessionId;
use crate::resolve::NameServer;
use crate::sandbox::quota::Limits;

/// One more for every change of what follows [`Hello`] and [`Answer`], or of what sockets and rules agree on.
pub(in crate::cli::serve) const PROTOCOL: u32 = 3;

/// The successor's first word.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cli::serve) struct Hello {
    /// What it speaks.
    pub(in crate::cli::serve) protocol: u32,
    /// Which exeat it is, for people.
    pub(in crate::cli::serve) version: String,
}

/// What the one before says to it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli::serve) enum Answer {
    /// It hands over.
    Welcome,
    /// It does not, for this reason.
    Refused(String),
}

impl Hello {
    pub(super) fn of_this() -> Self {
        Self { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }
    }

    pub(super) fn answer(&self) -> Answer {
        if self.protocol == PROTOCOL {
            return Answer::Welcome;
        }
        let (theirs, ours) = (&self.version, env!("CARGO_PKG_VERSION"));
        Answer::Refused(format!(
            "the running daemon is exeat {ours}, which cannot hand over to exeat {theirs} (protocol {PROTOCOL}, and \
             not {}); stop it, and start the other",
            self.protocol
        ))
    }
}

/// What the one before says.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cli::serve) enum Told {
    /// Brings the lock of the state directory.
    Lock,
    /// Brings a listener of the control API.
    Control(Place),
    /// A sandbox. Brings its sockets, if it is served, in the order that [`Sockets`] has them.
    ///
    /// [`Sockets`]: crate::attach::Sockets
    Sandbox {
        session: SessionId,
        /// Why it is quarantined, if it is.
        quarantined: Option<String>,
        tally: Tally,
    },
    /// That was all, and the store is closed.
    Whole,
    /// A name that an address was answered for in a sandbox.
    Pin { session: SessionId, address: IpAddr, name: String },
    /// What has become of a sandbox's flows.
    News { session: SessionId, news: News },
    /// Take.
    Yours(Vec<Yours>),
    /// It has let all go but its flows.
    Retired,
    /// The order of this number is carried out; whether it is in force for all that was open.
    Done { order: u64, in_force: bool },
    /// Lines of the audit record, to be written with those of the successor.
    Lines(String),
}

/// What is known of a sandbox only once nothing more is taken for it.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::cli::serve) struct Yours {
    pub(in crate::cli::serve) session: SessionId,
    /// The number of its next flow.
    pub(in crate::cli::serve) next_flow: u64,
    /// Which names have a stand-in, by its number.
    pub(in crate::cli::serve) stand_ins: HashMap<String, u8>,
}

/// What the successor says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// It has all, and takes nothing yet.
    Ready,
    /// It takes flows.
    Serving(Judging),
    /// Something is to be done for flows that are still the other's.
    Order { number: u64, order: Order },
}

/// Settings that flows are judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli::serve) struct Judging {
    /// Taken out of the protected ranges.
    pub(in crate::cli::serve) allow_protected: Vec<IpNet>,
    /// What policies may open.
    pub(in crate::cli::serve) openable: Vec<IpNet>,
    /// Whom names are asked of.
    pub(in crate::cli::serve) resolvers: Vec<NameServer>,
    /// What a sandbox may use of which its control plane says nothing.
    pub(in crate::cli::serve) limits: Limits,
}

impl Judging {
    pub(in crate::cli::serve) fn of(config: &Config) -> Self {
        // Values of secrets are each process's own to ask for, and which a policy names does not change with them.
        let Config {
            state: _,
            key: _,
            control: _,
            audit: _,
            secrets: _,
            upstream_proxy: _,
            client_certificates: _,
            allow_protected,
            openable,
            resolvers,
            limits: usual,
            issuer: _,
            forward_hosts: _,
        } = config;
        let (allow_protected, openable) = (allow_protected.clone(), openable.clone());
        Self { allow_protected, openable, resolvers: resolvers.clone(), limits: *usual }
    }
}

/// Where a listener of the control API stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::cli::serve) enum Place {
    /// At this path.
    Unix(PathBuf),
    /// At this address.
    Tcp(SocketAddr),
}

/// What is to be done for flows that are open.
#[derive(Serialize, Deserialize)]
pub(in crate::cli::serve) enum Order {
    /// Judge a sandbox's by this document.
    Replace { session: SessionId, policy: String },
    /// Bound a sandbox's by what its control plane says.
    Limit { session: SessionId, limits: Limits },
    /// End a sandbox's.
    End { session: SessionId },
    /// Let all finish within so many seconds.
    Drain { seconds: u64 },
    /// Judge all by these settings.
    Judge(Judging),
}

impl std::fmt::Debug for Order {
    // A policy may hold credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Replace { .. } => "Replace",
            Self::Limit { .. } => "Limit",
            Self::End { .. } => "End",
            Self::Drain { .. } => "Drain",
            Self::Judge(_) => "Judge",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_have_one_form_in_every_version() {
        // Do not change these: they are how two versions find out that they cannot talk.
        let hello: Hello =
            serde_json::from_str(r#"{"protocol":99,"version":"9.9.9","more":"of a later version"}"#).unwrap();
        let Answer::Refused(why) = hello.answer() else { panic!("it was welcomed") };
        assert!(why.contains("exeat 9.9.9") && why.contains("protocol 3, and not 99"), "{why}");
        assert_eq!(serde_json::to_string(&Answer::Refused("why".into())).unwrap(), r#"{"Refused":"why"}"#);
        assert_eq!(serde_json::to_string(&Answer::Welcome).unwrap(), r#""Welcome""#);
        let ours = serde_json::to_value(Hello::of_this()).unwrap();
        assert_eq!(ours["protocol"], PROTOCOL);
        assert!(ours["version"].is_string());
    }

    #[test]
    fn a_policy_is_never_shown() {
        let order = Order::Replace { session: SessionId("sbx_a".into()), policy: "canary".into() };
        assert_eq!(format!("{order:?}"), "Replace");
    }
}

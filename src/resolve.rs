//! The host's side of DNS, shared by `dns` and `intercept::upstream` behind one trait.
//!
//! It never opens a connection for a flow and never judges: whoever asks has judged the name, and vets the answer.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use crate::flow::Domain;

/// Turns names that were already judged into addresses that are not yet vetted.
pub trait Resolve: Send + Sync {
    /// Where a dial to `name`:`port` should go, in order of preference: `--resolve` first, the host's resolvers
    /// otherwise. Never empty.
    fn dial_addrs<'a>(
        &'a self,
        name: &'a Domain,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, ResolveError>> + Send + 'a>>;
}

/// Why a permitted name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name, or the type asked for, does not exist.
    NotFound,
    /// No resolver of the host answered usefully.
    Failed,
    /// None answered in [`crate::limits::DNS_TIME`].
    TimedOut,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "the name does not exist, or has no address",
            Self::Failed => "the host's resolvers gave no useful answer",
            Self::TimedOut => "the host's resolvers did not answer in time",
        })
    }
}

impl std::error::Error for ResolveError {}

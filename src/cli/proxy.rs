//! The operator's proxy: from what settings or arguments say of it to what upstream connections go through.

use std::io;
use std::net::ToSocketAddrs;

use crate::config::UpstreamProxy;
use crate::flow::SecretName;
use crate::intercept::upstream::proxy::Proxy;
use crate::policy::SourceSpec;
use crate::policy::source::CredentialSpec;
use crate::secret::keep::Keeper;

/// The proxy, and who keeps its credentials current; their slot is empty yet. The host's own resolver is asked for its
/// name, once.
///
/// # Errors
/// Its name has no address.
pub(super) fn open(said: &UpstreamProxy) -> io::Result<(Proxy, Option<Keeper>)> {
    let UpstreamProxy { url, credentials, direct } = said;
    let addrs = url.place().to_socket_addrs()?.collect();
    #[expect(clippy::expect_used, reason = "it is a constant")]
    let keeper = credentials.as_ref().map(|lies| {
        let source = match lies {
            CredentialSpec::Env(variable) => SourceSpec::Env(variable.clone()),
            CredentialSpec::File(path) => SourceSpec::File(path.clone()),
        };
        Keeper::new(SecretName::new("UPSTREAM_PROXY").expect("a name"), source)
    });
    let slot = keeper.as_ref().map(Keeper::slot);
    Ok((Proxy::new(url, addrs, slot, direct.clone()), keeper))
}

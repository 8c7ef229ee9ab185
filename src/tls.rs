//! How every configuration of TLS begins, for a client and for a server: the one provider of cryptography, its
//! versions, and of a client whose certificates count.
//!
//! It holds no key, knows no name and opens no connection.
//!
//! - `INVARIANT`: there is no client here that does not verify whom it speaks with.

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ConfigBuilder, ConfigSide, RootCertStore, ServerConfig, WantsVerifier, WantsVersions};

/// Whose cryptography it is.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client that trusts these roots, and has still to be told what it shows of itself.
#[must_use]
pub fn client(roots: impl Into<Arc<RootCertStore>>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    versions(ClientConfig::builder_with_provider(provider())).with_root_certificates(roots)
}

/// A server that has still to be told whom it lets in, and what it shows.
#[must_use]
pub fn server() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    versions(ServerConfig::builder_with_provider(provider()))
}

#[expect(clippy::expect_used, reason = "the provider is fixed, and speaks every version of TLS that rustls does")]
fn versions<Side: ConfigSide>(builder: ConfigBuilder<Side, WantsVersions>) -> ConfigBuilder<Side, WantsVerifier> {
    builder.with_safe_default_protocol_versions().expect("aws-lc-rs speaks TLS 1.2 and 1.3")
}

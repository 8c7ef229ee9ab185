//! One of the host's resolvers, as the operator names it: asked in clear, over UDP and TCP, or over TLS (RFC 7858).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use serde::{Deserialize, Serialize};

use crate::flow::Domain;

/// A resolver: `ADDRESS[:PORT]`, at port 53, for one that is asked in clear, or `ADDRESS[:PORT]#NAME`, at port 853,
/// for one that is asked over TLS and whose certificate is for that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NameServer {
    addr: SocketAddr,
    name: Option<Domain>,
}

impl NameServer {
    /// How the library asks it.
    pub(super) fn config(&self) -> NameServerConfig {
        let mut connections = match &self.name {
            Some(name) => vec![ConnectionConfig::tls(name.as_str().into())],
            None => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
        };
        connections.iter_mut().for_each(|connection| connection.port = self.addr.port());
        NameServerConfig::new(self.addr.ip(), true, connections)
    }
}

impl From<SocketAddr> for NameServer {
    /// One that is asked in clear.
    fn from(addr: SocketAddr) -> Self {
        Self { addr, name: None }
    }
}

impl FromStr for NameServer {
    type Err = NameServerError;

    fn from_str(text: &str) -> Result<Self, NameServerError> {
        let (place, name) = text.split_once('#').map_or((text, None), |(place, name)| (place, Some(name)));
        let name = name.map(Domain::parse).transpose().map_err(|_| NameServerError)?;
        let usual = if name.is_some() { 853 } else { 53 };
        let alone = || place.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, usual));
        let addr = place.parse().or_else(|_| alone()).map_err(|_| NameServerError)?;
        Ok(Self { addr, name })
    }
}

impl TryFrom<String> for NameServer {
    type Error = NameServerError;

    fn try_from(text: String) -> Result<Self, NameServerError> {
        text.parse()
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.to_string()
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "#{}", name.as_str()))
    }
}

/// A text is no [`NameServer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServerError;

impl fmt::Display for NameServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an address, or an address and a port, such as 192.0.2.53 or [2001:db8::53]:53, and #NAME after it for one \
             that is asked over TLS, such as 192.0.2.53#dns.example",
        )
    }
}

impl std::error::Error for NameServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_written_and_read_in_one_form() {
        for (text, whole) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
            ("192.0.2.53#DNS.Example", "192.0.2.53:853#dns.example"),
            ("2001:db8::53#dns.example", "[2001:db8::53]:853#dns.example"),
            ("192.0.2.53:8853#dns.example", "192.0.2.53:8853#dns.example"),
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), whole);
            assert_eq!(whole.parse(), Ok(server.clone()));
            let json = serde_json::to_string(&server).unwrap();
            assert_eq!(serde_json::from_str::<NameServer>(&json).unwrap(), server);
        }
        for text in
            ["", "dns.example", "192.0.2.53#", "192.0.2.53#192.0.2.53", "#dns.example", "192.0.2.53:x#a.example"]
        {
            assert_eq!(text.parse::<NameServer>(), Err(NameServerError), "{text}");
        }
    }
}

//! The operator's own proxy, where connections have to go through one: HTTP's `CONNECT` (RFC 9110 §9.3.6) or SOCKS 5
//! (RFC 1928, 1929).
//!
//! It asks over a connection that `upstream` opened, and never judges or resolves: names are resolved and addresses are
//! vetted here as without it, and the proxy is asked for the vetted address.
//!
//! - `INVARIANT`: a proxy is asked for the address of a [`DialAddr`], never for a name; nothing that a sandbox sent is
//!   in the question.
//! - `INVARIANT`: what a proxy is to carry goes through it or nowhere.
//! - `INVARIANT`: no loopback address is asked of a proxy: it would be its own, and not what was vetted.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::flow::Domain;
use crate::limits;
use crate::policy::verdict::DialAddr;
use crate::secret::{Slot, Value};

/// How a proxy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks,
}

/// `http://HOST:PORT` or `socks5://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    kind: Kind,
    host: String,
    port: u16,
}

impl ProxyUrl {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(ProxyUrlError::Form)?;
        let kind = match scheme {
            "http" => Kind::Http,
            "socks5" => Kind::Socks,
            _ => return Err(ProxyUrlError::Form),
        };
        if rest.contains('@') {
            return Err(ProxyUrlError::Credentials);
        }
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or(ProxyUrlError::Form)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(bare) => matches!(bare.parse(), Ok(IpAddr::V6(_))),
            None => matches!(host.parse(), Ok(IpAddr::V4(_))) || Domain::parse(host).is_ok(),
        };
        let port = port.parse().ok().filter(|port| *port != 0 && is_host).ok_or(ProxyUrlError::Form)?;
        Ok(Self { kind, host: bare.unwrap_or(host).to_owned(), port })
    }
}

/// Why a text is no [`ProxyUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyUrlError {
    /// It has another form.
    Form,
    /// It holds credentials, which others could read where it stands.
    Credentials,
}

impl fmt::Display for ProxyUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a proxy is http://HOST:PORT or socks5://HOST:PORT",
            Self::Credentials => "credentials are given by themselves, and not in the proxy's URL",
        })
    }
}

impl std::error::Error for ProxyUrlError {}

/// See the module above.
pub struct Proxy {
    kind: Kind,
    addrs: Vec<SocketAddr>,
    credentials: Option<Arc<Slot>>,
    direct: Vec<IpNet>,
}

impl Proxy {
    /// The proxy of this URL, at these addresses, with `USER:PASSWORD` for credentials; to addresses in `direct`,
    /// connections go without it.
    #[must_use]
    pub fn new(url: &ProxyUrl, addrs: Vec<SocketAddr>, credentials: Option<Arc<Slot>>, direct: Vec<IpNet>) -> Self {
        Self { kind: url.kind, addrs, credentials, direct }
    }

    /// Where it is. No flow may go there: it would ask for what was never vetted.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Whether connections to `addr` go through it.
    pub(super) fn carries(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        !addr.is_loopback() && !addr.is_unspecified() && !self.direct.iter().any(|range| range.contains(&addr))
    }

    /// Has it connect `stream` to an address. What comes over `stream` afterwards comes from there.
    ///
    /// # Errors
    /// See [`ProxyError`].
    pub(super) async fn ask(&self, stream: &mut TcpStream, to: &DialAddr) -> Result<(), ProxyError> {
        let credentials = match &self.credentials {
            Some(slot) => Some(slot.value().ok_or(ProxyError::NoCredentials)?),
            None => None,
        };
        match self.kind {
            Kind::Http => ask_http(stream, to.addr(), credentials.as_deref()).await,
            Kind::Socks => ask_socks(stream, to.addr(), credentials.as_deref()).await,
        }
    }
}

async fn ask_http(stream: &mut TcpStream, to: SocketAddr, credentials: Option<&Value>) -> Result<(), ProxyError> {
    let mut question = Zeroizing::new(Vec::with_capacity(limits::HEAD_BYTES));
    question.extend_from_slice(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
    if let Some(credentials) = credentials {
        let encoded = credentials.expose(|bytes| Zeroizing::new(STANDARD.encode(bytes)));
        question.extend_from_slice(b"Proxy-Authorization: Basic ");
        question.extend_from_slice(encoded.as_bytes());
        question.extend_from_slice(b"\r\n");
    }
    question.extend_from_slice(b"\r\n");
    stream.write_all(&question).await?;
    match status(&read_head(stream).await?).ok_or(ProxyError::Malformed)? {
        200..=299 => Ok(()),
        // Some say 401, as an origin would.
        401 | 407 => Err(ProxyError::Credentials),
        status => Err(ProxyError::Refused(format!("status {status}"))),
    }
}

/// Reads to the end of a head, and not a byte further: the origin's come next, and it may speak first.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut head, mut seen) = (Vec::new(), [0; 1024]);
    while !head.ends_with(END) {
        let length = stream.peek(&mut seen).await?;
        let all = [&head, seen.get(..length).unwrap_or_default()].concat();
        if length == 0 || all.len() > limits::PROXY_HEAD_BYTES {
            return Err(ProxyError::Malformed);
        }
        let end = all.windows(END.len()).position(|window| window == END).map_or(all.len(), |at| at + END.len());
        let mut part = vec![0; end - head.len()];
        stream.read_exact(&mut part).await?;
        head.extend(part);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.0 ").or_else(|| head.strip_prefix(b"HTTP/1.1 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    let ends = matches!(rest.first(), Some(b' ' | b'\r'));
    std::str::from_utf8(digits).ok().filter(|_| ends && digits.iter().all(u8::is_ascii_digit))?.parse().ok()
}

const SOCKS: u8 = 5;

async fn ask_socks(stream: &mut TcpStream, to: SocketAddr, credentials: Option<&Value>) -> Result<(), ProxyError> {
    const NONE: u8 = 0;
    const PASSWORD: u8 = 2;
    let greeting: &[u8] = if credentials.is_some() { &[SOCKS, 2, NONE, PASSWORD] } else { &[SOCKS, 1, NONE] };
    stream.write_all(greeting).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, credentials) {
        ([SOCKS, NONE], _) => {}
        ([SOCKS, PASSWORD], Some(credentials)) => sign_in(stream, credentials).await?,
        ([SOCKS, 0xff], _) => return Err(ProxyError::Credentials),
        _ => return Err(ProxyError::Malformed),
    }
    let mut question = vec![SOCKS, 1, 0];
    match to.ip() {
        IpAddr::V4(ip) => question.extend([&[1], ip.octets().as_slice()].concat()),
        IpAddr::V6(ip) => question.extend([&[4], ip.octets().as_slice()].concat()),
    }
    question.extend(to.port().to_be_bytes());
    stream.write_all(&question).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    let [SOCKS, outcome, _, kind] = answer else { return Err(ProxyError::Malformed) };
    if outcome != 0 {
        return Err(ProxyError::Refused(refusal(outcome)));
    }
    // Where it connects from, which says nothing to us.
    let bound = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(ProxyError::Malformed),
    };
    stream.read_exact(&mut vec![0; bound + 2]).await?;
    Ok(())
}

/// RFC 1929.
async fn sign_in(stream: &mut TcpStream, credentials: &Value) -> Result<(), ProxyError> {
    let question = credentials.expose(|bytes| {
        let at = bytes.iter().position(|byte| *byte == b':')?;
        let (user, password) = (bytes.get(..at)?, bytes.get(at + 1..)?);
        let (users, passwords) = (u8::try_from(user.len()).ok()?, u8::try_from(password.len()).ok()?);
        let mut question = Zeroizing::new(Vec::with_capacity(3 + bytes.len()));
        question.extend_from_slice(&[1, users]);
        question.extend_from_slice(user);
        question.push(passwords);
        question.extend_from_slice(password);
        Some(question)
    });
    stream.write_all(&question.ok_or(ProxyError::NoCredentials)?).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer == [1, 0] { Ok(()) } else { Err(ProxyError::Credentials) }
}

/// RFC 1928 §6.
fn refusal(outcome: u8) -> String {
    match outcome {
        2 => "not allowed by its rules".to_owned(),
        3 => "network unreachable".to_owned(),
        4 => "host unreachable".to_owned(),
        5 => "connection refused".to_owned(),
        other => format!("SOCKS error {other}"),
    }
}

/// Why a proxy did not connect us.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// None of its addresses can be reached.
    Unreachable(io::Error),
    /// It does not connect to that address, and why.
    Refused(String),
    /// It wants credentials, or others.
    Credentials,
    /// Its credentials cannot be had, or are not `USER:PASSWORD`.
    NoCredentials,
    /// It does not answer as such a proxy does.
    Malformed,
    /// It broke off.
    Io(io::Error),
    /// It carries no datagrams.
    Datagrams,
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the operator's proxy could not be reached: {}", why.kind()),
            Self::Refused(why) => write!(f, "the operator's proxy did not connect to the upstream: {why}"),
            Self::Credentials => f.write_str("the operator's proxy does not take the credentials that it is shown"),
            Self::NoCredentials => f.write_str("the credentials for the operator's proxy cannot be had"),
            Self::Malformed => f.write_str("the operator's proxy did not answer as a proxy does"),
            Self::Io(why) => write!(f, "the connection to the operator's proxy broke: {}", why.kind()),
            Self::Datagrams => f.write_str("the operator's proxy carries no datagrams"),
        }
    }
}

impl std::error::Error for ProxyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_by_kind_host_and_port() {
        for (text, kind, host, port) in [
            ("http://192.0.2.8:3128", Kind::Http, "192.0.2.8", 3128),
            ("http://proxy.example:3128/", Kind::Http, "proxy.example", 3128),
            ("socks5://[2001:db8::8]:1080", Kind::Socks, "2001:db8::8", 1080),
        ] {
            assert_eq!(text.parse(), Ok(ProxyUrl { kind, host: host.to_owned(), port }));
        }
        for text in ["", "192.0.2.8:3128", "https://192.0.2.8:3128", "http://192.0.2.8", "http://192.0.2.8:0"] {
            assert_eq!(text.parse::<ProxyUrl>(), Err(ProxyUrlError::Form), "{text}");
        }
        for text in ["http://2001:db8::8:80", "http://a b:80", "http://a.example:80/path", "socks5://:1080"] {
            assert_eq!(text.parse::<ProxyUrl>(), Err(ProxyUrlError::Form), "{text}");
        }
        assert_eq!("http://user:canary@a.example:80".parse::<ProxyUrl>(), Err(ProxyUrlError::Credentials));
    }

    #[test]
    fn a_proxy_carries_all_but_loopback_and_what_goes_without_it() {
        let url: ProxyUrl = "http://192.0.2.8:3128".parse().unwrap();
        let proxy = Proxy::new(&url, Vec::new(), None, vec!["10.0.0.0/8".parse().unwrap()]);
        let carries = |addr: &str| proxy.carries(addr.parse().unwrap());
        assert!(["192.0.2.1", "2001:db8::1", "11.0.0.1"].iter().all(|addr| carries(addr)));
        assert!(!["127.0.0.1", "::1", "::ffff:127.0.0.2", "0.0.0.0", "10.1.2.3"].iter().any(|addr| carries(addr)));
    }

    #[test]
    fn only_a_status_line_is_one() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        for text in ["", "HTTP/1.1 20", "HTTP/1.1 2000 OK\r\n", "HTTP/2 200 OK\r\n", "HTTP/1.1 +20 OK\r\n"] {
            assert_eq!(status(text.as_bytes()), None, "{text}");
        }
    }
}

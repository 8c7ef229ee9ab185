//! Requests that a rule signs: read before anybody is contacted, signed when nothing of them changes any more.
//!
//! What a signature is, is for [`crate::secret::sign`]. Here it meets a request that streams: a body whose pieces are
//! signed is signed again as it passes; one whose hash alone is signed, or that a rule's text holds, waits until it is
//! there as a whole, within [`limits::SIGNED_BYTES`].
//!
//! - `INVARIANT`: a signature is made over the head as the HTTP library gets it.
//! - `INVARIANT`: what turns out not to be signed by the client ends before its end has been sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Uri};
use http_body::{Body, Frame, SizeHint};

use crate::limits;
use crate::policy::placeholder::Known;
use crate::policy::signing::{HmacSigning, SECURITY_TOKEN, Signing};
use crate::policy::verdict::{DenyReason, is_alike};
use crate::secret::Secrets;
use crate::secret::placeholder::Placeholders;
use crate::secret::sign::aws::{self, Claim, Spelling};
use crate::secret::sign::chunks::Chunks;
use crate::secret::sign::hmac::HmacKey;
use crate::secret::sign::{Head, SignFault, sha256};

use super::Asked;
use super::breach::Breach;
use super::payload::{Left, Payload, PayloadError, read};
use super::whole::{Unread, Whole, told_length};

/// How a request will be signed.
pub(super) enum Signature {
    /// Again, after its client; the spelling is known once it is verified.
    Aws(Box<Claim>, Option<Spelling>),
    /// By a rule's own text.
    Hmac(Box<HmacKey>, Arc<Signing>),
}

/// Why a request cannot be signed.
#[derive(Debug)]
pub(super) enum Unsigned {
    /// It is not as the rule asks.
    Fault(SignFault),
    /// A placeholder is in it, and not where it signs.
    Misdirected,
    /// Its body broke off.
    Body(PayloadError),
}

impl From<SignFault> for Unsigned {
    fn from(fault: SignFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Unread> for Unsigned {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLong => SignFault::TooLong.into(),
            Unread::Broken(error) => Self::Body(error),
        }
    }
}

impl Signature {
    /// Reads what a client signed, and verifies it as far as it can be without the body; `None` for a request that the
    /// rule lets pass as it is.
    pub(super) fn read(
        rule: &Arc<Signing>,
        asked: &Asked,
        known: &Placeholders,
        secrets: &Secrets,
    ) -> Result<Option<Self>, Unsigned> {
        let head = asked.to_sign();
        let aws = match &**rule {
            Signing::Hmac(hmac) => return Ok(Some(Self::Hmac(HmacKey::of(hmac, secrets)?.into(), Arc::clone(rule)))),
            Signing::Aws(aws) => aws,
        };
        match Claim::read(&head, aws, known, secrets)? {
            Some(claim) => {
                let is_whole = claim.body() == aws::Body::Whole;
                let spelling = if is_whole { None } else { Some(claim.verify(&head, None)?) };
                Ok(Some(Self::Aws(Box::new(claim), spelling)))
            }
            // What is for a signature to judge was left to it.
            None => {
                let mut values =
                    [AUTHORIZATION, SECURITY_TOKEN].into_iter().flat_map(|name| head.headers.get_all(name));
                let is_in = values.any(|value| known.is_in(value.as_bytes()))
                    || head.query.is_some_and(|query| known.is_in(query.as_bytes()));
                if is_in { Err(Unsigned::Misdirected) } else { Ok(None) }
            }
        }
    }

    /// The headers that it sets, for the record.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Aws(claim, _) => claim.names(),
            Self::Hmac(_, rule) => rule.headers().map(ToString::to_string).collect(),
        }
    }

    /// The headers that no trailer repeats.
    pub(super) fn headers(&self) -> Vec<HeaderName> {
        self.names().iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect()
    }

    /// Whether the body must be there before the head can go.
    pub(super) fn reads_body(&self) -> bool {
        match self {
            Self::Aws(claim, _) => claim.body() == aws::Body::Whole,
            Self::Hmac(_, rule) => matches!(&**rule, Signing::Hmac(rule) if rule.reads_body()),
        }
    }

    /// Signs a request as it goes out; `asked` is it as it came.
    pub(super) async fn apply(
        self,
        request: Request<Payload>,
        asked: &Arc<Asked>,
        breach: &Arc<Breach>,
    ) -> Result<Request<Payload>, Unsigned> {
        let (mut parts, mut body) = request.into_parts();
        let whole = match self.reads_body() {
            true => {
                if told_length(&parts.headers).is_some_and(|length| length > limits::SIGNED_BYTES) {
                    return Err(SignFault::TooLong.into());
                }
                let whole = Whole::read(body, limits::SIGNED_BYTES).await?;
                let bytes = whole.bytes();
                body = read(whole);
                Some(bytes)
            }
            false => None,
        };
        match self {
            Self::Hmac(key, rule) => {
                if let Signing::Hmac(rule) = &*rule {
                    sign_hmac(&mut parts, &key, rule, &whole.unwrap_or_default())?;
                }
            }
            Self::Aws(claim, spelling) => {
                let hash = whole.map(|bytes| sha256(&bytes));
                let spelling = match spelling {
                    Some(spelling) => spelling,
                    None => claim.verify(&asked.to_sign(), hash.as_deref())?,
                };
                let signed = claim.sign(&outgoing(&parts), hash.as_deref(), spelling)?;
                for (name, value) in &signed.fields {
                    set(&mut parts.headers, name, value.clone());
                }
                if let Some(query) = &signed.query {
                    parts.uri = with_query(&parts.uri, query).ok_or(SignFault::TooLong)?;
                }
                if let aws::Body::Chunked(has_trailer) = claim.body() {
                    let (source, breach) = (Left::Open(body), Arc::clone(breach));
                    body = read(Resigned { chunks: claim.chunks(&signed, has_trailer), source, breach });
                }
            }
        }
        Ok(Request::from_parts(parts, body))
    }
}

impl Asked {
    /// The request as its client signed it.
    fn to_sign(&self) -> Head<'_> {
        let host = self.authority.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (path, query) = (self.authority.target.path(), self.authority.target.query());
        Head { method: self.method.as_str(), path, query, host, headers: &self.headers }
    }
}

/// The request as it goes out.
fn outgoing(parts: &Parts) -> Head<'_> {
    let field = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = field.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default();
    let (path, query) = (parts.uri.path(), parts.uri.query());
    Head { method: parts.method.as_str(), path, query, host, headers: &parts.headers }
}

fn sign_hmac(parts: &mut Parts, key: &HmacKey, rule: &HmacSigning, body: &[u8]) -> Result<(), SignFault> {
    let value = key.sign(&outgoing(parts), rule, body)?;
    set(&mut parts.headers, &rule.header, Some(value));
    Ok(())
}

/// Every copy that is there goes, also one that is merely [alike](is_alike).
fn set(headers: &mut HeaderMap, name: &HeaderName, value: Option<http::HeaderValue>) {
    let alike: Vec<HeaderName> = headers.keys().filter(|other| is_alike(other, name)).cloned().collect();
    for other in alike {
        headers.remove(other);
    }
    headers.extend(value.map(|value| (name.clone(), value)));
}

fn with_query(uri: &Uri, query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{}?{query}", uri.path())).ok()?);
    Uri::from_parts(parts).ok()
}

/// A body whose pieces are signed again.
struct Resigned {
    chunks: Chunks,
    source: Left,
    breach: Arc<Breach>,
}

impl Body for Resigned {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        loop {
            let source = match &mut self.source {
                Left::Open(source) => source,
                Left::Over(trailers) => {
                    return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            };
            let frame = ready!(Pin::new(source).poll_frame(cx)).transpose()?.map(Frame::into_data);
            let out = match frame {
                Some(Ok(data)) => self.chunks.feed(&data),
                end => self.chunks.finish().map(|()| {
                    self.source = Left::Over(end.and_then(|frame| frame.err()?.into_trailers().ok()));
                    Bytes::new()
                }),
            };
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                Err(_) => {
                    self.source = Left::Over(None);
                    self.breach.found(DenyReason::SignatureRefused);
                    return Poll::Ready(Some(Err(PayloadError::NotSigned)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.source, Left::Over(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            // Nothing changes its length.
            Left::Open(body) => {
                let waiting = self.chunks.waiting() as u64;
                body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + waiting))
            }
            Left::Over(_) => SizeHint::default(),
        }
    }
}

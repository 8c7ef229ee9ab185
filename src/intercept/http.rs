//! One connection of HTTP: every request is judged alone, and goes out under its own permit or not at all.
//!
//! It owns the order of a request's stages (see `Conversation::respond`); each stage is a file below. It never
//! dials (`intercept::upstream` does) and never decides (the policy does).
//!
//! - `INVARIANT`: nobody upstream is contacted before a request's permit, nor without every value it injects.
//! - `INVARIANT`: a permit's generation is compared with the current one before the first upstream byte and before
//!   injection (POLICY §8).
//! - `INVARIANT`: a request is judged by the fields that go out: hop-by-hop fields, and whatever `Connection` names, go
//!   before it is judged, and so before injection, never after.
//! - `INVARIANT`: an answer of an origin that rules send headers to passes only as it is searched for what they send.

mod arriving;
mod authority;
mod breach;
mod coding;
mod divert;
mod gather;
pub mod guard;
mod headers;
mod interim;
mod live;
mod local;
mod payload;
mod refuse;
mod scrub;
mod search;
mod serve;
mod sign;
mod streams;
mod timer;
mod turn;
mod upgrade;
pub(super) mod upstreams;
mod whole;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;

use crate::audit::{self, Judged, Protocol, RouteTaken};
use crate::flow::{Domain, Flow, HttpVersion, RequestHead, Scheme, Seen};
use crate::intercept::Context;
use crate::intercept::ledger::{self, Due, Ledger};
use crate::intercept::upstream::DialError;
use crate::intercept::workers::Task;
use crate::limits;
use crate::policy::verdict::{Action, Basis, Denial, DenyReason, ForwardUrl, LocalResponse, Permit, Text, Verdict};
use crate::sandbox::quota::Spent;
use crate::sandbox::{Changes, Snapshot};
use crate::secret::Secrets;
use crate::secret::inject::{InjectError, Injections};
use crate::secret::placeholder::Placeholders;
use crate::secret::replace::{self, Replacer};
use arriving::{Arriving, Broken, Leaving};
use authority::{Authority, Expected};
use breach::Breach;
use divert::Diverted;
use guard::{Fault, Watch};
use interim::{Client, Hearing, Leave, Wait};
use live::{Live, Waiter, Way};
use payload::{Held, Payload, PayloadError};
use refuse::Answer;
use scrub::Scrub;
use search::Doubtful;
use sign::{Signature, Unsigned};
use streams::SendError;
use upgrade::{Opened, Switch};
use upstreams::{Kind, Lease, Sent, Upstreams, Wanted};
use whole::Unread;

pub(super) use serve::serve;

/// What all requests of one connection share.
pub(super) struct Conversation {
    ctx: Arc<Context>,
    flow: Flow,
    ledger: Arc<Ledger>,
    scheme: Scheme,
    version: HttpVersion,
    /// A refused flow: every request is told so, and nothing else happens.
    refusal: Option<Denial>,
    watch: Arc<Watch>,
    upstreams: Arc<Upstreams>,
    live: live::Register,
    switched: Mutex<Option<Switched>>,
    /// Streams that have switched; they end with the connection.
    relays: Mutex<Vec<Task>>,
}

/// A connection, or a stream, that leaves HTTP: what joins its two ends (RFC 9110 §7.8).
struct Switched {
    down: Leaving,
    up: Leaving,
    live: Arc<Live>,
    scrub: Option<Scrub>,
    lease: Lease,
}

/// A request's head, kept for as long as the request lives, so that it can be judged again.
#[derive(Debug)]
struct Asked {
    authority: Authority,
    method: Method,
    headers: HeaderMap,
    protocol: Protocol,
    /// Whether its client can be given an interim answer.
    hears_interims: bool,
}

/// One request and what has been earned for it so far.
struct Permitted {
    permit: Permit,
    generation: u64,
    additions: Box<Additions>,
    live: Arc<Live>,
    /// What its body is searched for.
    known: Option<Arc<Placeholders>>,
    scrub: Option<Scrub>,
}

/// What a request gets on its way out. All of it is there before anybody is contacted.
struct Additions {
    injections: Injections,
    diverted: Option<Diverted>,
    /// The query that is sent, where it is another.
    target: Option<PathAndQuery>,
    /// What replaces placeholders in the body.
    replacer: Option<Box<Replacer>>,
    signature: Option<Signature>,
}

impl Additions {
    /// Makes a request one whose answer can be read, and whose body can be where it must be read first.
    fn prepare(&self, headers: &mut HeaderMap, scrub: Option<&Scrub>) {
        if scrub.is_some() {
            Scrub::prepare(headers);
        }
        let waits = self.replacer.is_some() && search::waits(headers);
        if waits || self.signature.as_ref().is_some_and(Signature::reads_body) {
            // It is read before anybody could be asked for leave.
            headers.remove(header::EXPECT);
        }
    }
}

/// What reading a request's body on its way out comes to. Most have none, or none that is read.
struct Read<'a> {
    ledger: &'a Arc<Ledger>,
    asked: &'a Arc<Asked>,
    basis: &'a Basis,
    breach: OnceLock<Arc<Breach>>,
}

/// What is done with a request's body on its way out.
struct Reading {
    known: Option<Arc<Placeholders>>,
    replacer: Option<Box<Replacer>>,
    signature: Option<Signature>,
}

impl Read<'_> {
    fn breach(&self) -> &Arc<Breach> {
        self.breach.get_or_init(|| Breach::new(self.ledger, self.asked, self.basis))
    }

    /// The request as it is sent: searched for placeholders, which are perhaps replaced, and then signed.
    async fn request(&self, mut request: Request<Payload>, reading: Reading) -> Result<Request<Payload>, Lack> {
        let Reading { known, replacer, signature } = reading;
        if let Some(known) = known {
            let replaces = replacer.is_some();
            request = request.map(|body| search::search(body, || self.breach(), known, replacer));
            if replaces {
                request = search::measure(request).await?;
            }
        }
        match signature {
            Some(signature) => Ok(signature.apply(request, self.asked, self.breach()).await?),
            None => Ok(request),
        }
    }

    /// Why the request was broken off, if it was for what was read.
    fn denial(&self) -> Option<Denial> {
        self.breach.get()?.denial()
    }
}

/// Why a request cannot have what goes along with it.
enum Lack {
    Reason(DenyReason),
    /// A body in which placeholders are replaced, and that cannot be read.
    Doubtful,
    Signature(Unsigned),
}

impl From<Doubtful> for Lack {
    fn from(_: Doubtful) -> Self {
        Self::Doubtful
    }
}

impl From<Unread> for Lack {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLong => Self::Reason(DenyReason::Limit),
            Unread::Broken(error) => Self::Signature(Unsigned::Body(error)),
        }
    }
}

impl From<DenyReason> for Lack {
    fn from(reason: DenyReason) -> Self {
        Self::Reason(reason)
    }
}

impl From<Unsigned> for Lack {
    fn from(unsigned: Unsigned) -> Self {
        Self::Signature(unsigned)
    }
}

impl Conversation {
    /// A conversation over a flow whose requests are judged or, with `refusal`, all refused.
    pub(super) fn new(
        ctx: Arc<Context>,
        upstreams: Arc<Upstreams>,
        flow: Flow,
        ledger: Arc<Ledger>,
        version: HttpVersion,
        refusal: Option<Denial>,
    ) -> Self {
        let scheme = if matches!(flow.seen, Seen::Tls(_)) { Scheme::Https } else { Scheme::Http };
        Self {
            ctx,
            flow,
            ledger,
            scheme,
            version,
            refusal,
            watch: Arc::default(),
            upstreams,
            live: live::Register::default(),
            switched: Mutex::default(),
            relays: Mutex::default(),
        }
    }

    /// Answers one request. The error ends its stream, and with HTTP/1 its connection, without an answer.
    async fn answer(
        self: Arc<Self>,
        request: Request<Arriving>,
        client: Client,
    ) -> Result<Response<Payload>, PayloadError> {
        if self.version == HttpVersion::Http2 {
            self.watch.begin();
        }
        let busy = self.watch.answering();
        let connects = request.method() == Method::CONNECT;
        let mut response = self.respond(request, client).await?;
        // To whoever asked by `CONNECT`, success is a stream that is open.
        if connects && response.status().is_success() && response.extensions().get::<Opened>().is_none() {
            response = self.fail(upgrade::NOT_SWITCHED, StatusCode::BAD_GATEWAY);
        }
        Ok(response.map(|body| body.keeping(busy)))
    }

    /// Every stage of a request, in order: whom it names, may it, with what values, over which connection — and all
    /// of it again if the policy changed meanwhile.
    async fn respond(&self, mut request: Request<Arriving>, client: Client) -> Result<Response<Payload>, PayloadError> {
        if let Some(denial) = &self.refusal {
            // By the name that was refused: inside TLS a request may claim another.
            let host = self.expected().sni.map(ToString::to_string).or_else(|| claimed_host(&request));
            return Ok(self.word(denial, host.as_deref()).into_response());
        }
        let switch = upgrade::take(&mut request);
        let awaits = interim::is_awaited(&request);
        request.body_mut().inviting(awaits, &client);
        let (mut parts, body) = request.into_parts();
        if !headers::are_plain(&parts.headers) {
            return Ok(self.misdirected(DenyReason::MalformedRequest, &parts));
        }
        let authority = match authority::read(&parts, self.expected()) {
            Ok(authority) => authority,
            Err(reason) => return Ok(self.misdirected(reason, &parts)),
        };
        sanitise(&mut parts.headers, switch.is_some(), awaits);
        // With HTTP/1 the guard has counted; HTTP/2 bounds bytes alone, and splits cookies, which are one field by now.
        if parts.headers.len() > limits::HEAD_FIELDS {
            return Ok(self.stop(Fault::TooLarge).into_response());
        }
        let asked = Arc::new(Asked::new(authority, &parts));
        if let Err(spent) = self.ctx.sandbox.quota().requests.take() {
            return Ok(self.put_off(&spent, &asked));
        }
        let wanted = self.wanted(switch.as_ref());
        loop {
            let mut changes = self.ctx.sandbox.changes();
            let snapshot = changes.catch_up();
            let known = self.ctx.sandbox.placeholders();
            let (permit, url) = match self.judge(&snapshot, &known, &asked) {
                Verdict::Allow(Action::Forward(permit)) => (permit, None),
                Verdict::Allow(Action::Divert(url, permit)) => (permit, Some(url)),
                Verdict::Allow(Action::Respond(local, basis)) => return Ok(self.answer_here(&local, &basis, &asked)),
                Verdict::Deny(denial) => return Ok(self.deny(&denial, &asked)),
            };
            let additions = match self.additions(&permit, url.as_ref(), &asked, (&known, !body.is_end_stream())) {
                Ok(additions) => additions,
                Err(lack) => return self.lacking(lack, permit.basis(), None, &asked),
            };
            let due = self.ledger.due(asked.permitted(&permit, &additions));
            let lease = match self.lease_unless(&mut changes, &permit, &snapshot, wanted).await {
                Some(Ok(lease)) => lease,
                Some(Err(error)) => return Ok(self.fail_dial(&error, due, &asked)),
                None => {
                    due.withdraw();
                    continue;
                }
            };
            // A change from here on finds the request in the register; one that came before is seen here.
            let live = self.live.add(Arc::clone(&asked), Way::of(&permit, url.as_ref()), changes);
            if live.changes.is_behind() {
                due.withdraw();
                continue;
            }
            drop(due);
            let scrub = match &additions.diverted {
                Some(diverted) => Some(Scrub::new(diverted.scrubber(), Arc::clone(&self.ledger))),
                None => self.scrub(&permit, &snapshot),
            };
            let known = Some(known).filter(|known| !known.is_empty());
            let permitted = Permitted { permit, generation: snapshot.generation, additions, live, known, scrub };
            let request = Request::from_parts(parts, body);
            return self.forward(permitted, &asked, (request, client), lease, switch).await;
        }
    }

    /// What a policy says of a request, and of the placeholders in its head.
    fn judge(&self, snapshot: &Snapshot, known: &Placeholders, asked: &Asked) -> Verdict<Action> {
        let (head, host) = (asked.head(&self.flow, self.scheme), self.ctx.host.load_full());
        match snapshot.policy.decide_request(&head, &host) {
            verdict if known.is_empty() => verdict,
            Verdict::Allow(Action::Forward(permit)) => permit.replacing(&head, known).map(Action::Forward),
            Verdict::Allow(Action::Divert(url, permit)) => {
                permit.replacing(&head, known).map(|permit| Action::Divert(url, permit))
            }
            verdict @ (Verdict::Allow(Action::Respond(..)) | Verdict::Deny(_)) => verdict,
        }
    }

    fn expected(&self) -> Expected<'_> {
        let sni = if let Seen::Tls(hello) = &self.flow.seen { hello.sni.as_ref() } else { None };
        Expected { scheme: self.scheme, port: self.flow.dst.port(), sni }
    }

    /// What goes along with a request; `url` is where it goes instead of its origin.
    fn additions(
        &self,
        permit: &Permit,
        url: Option<&Arc<ForwardUrl>>,
        asked: &Asked,
        (known, has_body): (&Placeholders, bool),
    ) -> Result<Box<Additions>, Lack> {
        let injections = Injections::prepare(permit.injections(), self.ctx.sandbox.secrets());
        let injections = injections.map_err(|_| DenyReason::SecretUnavailable)?;
        let target = permit.query().map(|query| asked.with_query(query, self.ctx.sandbox.secrets())).transpose()?;
        let (port, tokens) = (self.flow.dst.port(), self.ctx.tokens.as_ref());
        let diverted = url.map(|url| Diverted::ready(url, &asked.authority, port, tokens)).transpose()?;
        let secrets = self.ctx.sandbox.secrets();
        let signature =
            permit.signing().map(|rule| Signature::read(rule, asked, known, secrets)).transpose()?.flatten();
        let replacer = if has_body { search::replacer(permit, &asked.headers, known, secrets)? } else { None };
        Ok(Box::new(Additions { injections, diverted, target, replacer, signature }))
    }

    fn wanted(&self, switch: Option<&Switch>) -> Wanted {
        let version = match self.version {
            HttpVersion::Http1 => Version::HTTP_11,
            HttpVersion::Http2 => Version::HTTP_2,
        };
        let kind = Kind { scheme: self.scheme, version };
        if switch.is_some() { Wanted::WebSocket(kind) } else { Wanted::Answer(kind) }
    }

    /// A connection for a permitted request; `None` if the policy changes before there is one.
    async fn lease_unless(
        &self,
        changes: &mut Changes,
        permit: &Permit,
        snapshot: &Snapshot,
        wanted: Wanted,
    ) -> Option<Result<Lease, DialError>> {
        // Where one is kept, nothing that could dial is made: it would be a large future.
        if let Some(lease) = self.upstreams.lease_now(&self.ctx, permit, snapshot, wanted) {
            return Some(Ok(lease));
        }
        tokio::select! {
            biased;
            () = changes.changed() => None,
            leased = Box::pin(self.lease(permit, snapshot, wanted)) => Some(leased),
        }
    }

    async fn lease(&self, permit: &Permit, snapshot: &Snapshot, wanted: Wanted) -> Result<Lease, DialError> {
        self.upstreams.lease(&self.ctx, permit, snapshot, wanted).await
    }

    /// What reads the answers of this permit's origin, where they may hold what rules send.
    fn scrub(&self, permit: &Permit, snapshot: &Snapshot) -> Option<Scrub> {
        let scrubber = permit.is_brokered().then(|| self.ctx.sandbox.scrubber(snapshot))?;
        (!scrubber.is_idle()).then(|| Scrub::new(scrubber, Arc::clone(&self.ledger)))
    }

    /// Sends a permitted request and brings its answer.
    async fn forward(
        &self,
        permitted: Permitted,
        asked: &Arc<Asked>,
        (mut request, client): (Request<Arriving>, Client),
        mut lease: Lease,
        switch: Option<Switch>,
    ) -> Result<Response<Payload>, PayloadError> {
        let Permitted { permit, generation, additions, live, known, scrub } = permitted;
        let wanted = self.wanted(switch.as_ref());
        additions.prepare(request.headers_mut(), scrub.as_ref());
        let (leave, wait) = request.headers().contains_key(header::EXPECT).then(interim::wait).unzip();
        let Some((mut request, sent, reading)) = self.outbound(request, asked, (additions, known), &lease, &live, wait)
        else {
            return Ok(self.fail("the request cannot be put for this upstream", StatusCode::BAD_GATEWAY));
        };
        if switch.is_some() {
            upgrade::put(&mut request);
        }
        let read = Read { ledger: &self.ledger, asked, basis: permit.basis(), breach: OnceLock::new() };
        let request = match reading {
            None => request,
            Some(reading) => match Box::pin(read.request(request, reading)).await {
                Ok(request) => request,
                Err(lack) => return self.lacking(lack, permit.basis(), read.denial(), asked),
            },
        };
        let hearing = asked.hears_interims.then(|| Hearing::new(leave.as_ref(), scrub.as_ref(), client));
        let mut cut = live.cut(Waiter::Handler);
        let answered = tokio::select! {
            biased;
            () = &mut cut => return Err(PayloadError::Revoked),
            answered = self.send(request, hearing.as_ref(), &mut lease, wanted, (&permit, generation)) => answered,
        };
        self.watch.answer_comes();
        leave.iter().for_each(Leave::answered);
        let response = match answered {
            Ok(response) => response,
            Err(sentence) => return Ok(self.broken(sentence, permit.basis(), read.denial(), asked)),
        };
        match upgrade::granted(switch, &response) {
            Ok(Some(switch)) => return Ok(self.switch(switch, response, live, scrub, lease)),
            Ok(None) => {}
            Err(sentence) => return Ok(self.fail(sentence, StatusCode::BAD_GATEWAY)),
        }
        let (mut head, body) = response.into_parts();
        headers::sanitise_response(&mut head.headers);
        head.extensions.clear();
        let held = Held::Returning(lease.returning(sent));
        let mut body = payload::passing(body, live.cut(Waiter::Answered), Vec::new(), held).leaving(leave);
        if let Some(scrub) = scrub {
            scrub.head(&mut head.headers);
            body = match scrub.body(&mut head.headers, body) {
                Ok(body) => body,
                Err(error) => return Ok(self.fail(&error.to_string(), StatusCode::BAD_GATEWAY)),
            };
        }
        Ok(Response::from_parts(head, body))
    }

    /// The request as it goes out: as it was judged, the origin set, and only then what the rule injects.
    fn outbound(
        &self,
        request: Request<Arriving>,
        asked: &Asked,
        (additions, known): (Box<Additions>, Option<Arc<Placeholders>>),
        lease: &Lease,
        live: &Arc<Live>,
        wait: Option<Wait>,
    ) -> Option<(Request<Payload>, Sent, Option<Reading>)> {
        let (mut parts, body) = request.into_parts();
        let Additions { injections, diverted, target, replacer, signature } = *additions;
        let requested = target.map(|target| Authority { target, ..asked.authority.clone() });
        let requested = requested.as_ref().unwrap_or(&asked.authority);
        let authority = diverted.as_ref().map_or(requested, |diverted| &diverted.authority);
        match &authority.host {
            Some(host) => parts.headers.insert(header::HOST, host.clone()),
            None => parts.headers.remove(header::HOST),
        };
        if lease.version() == Version::HTTP_11 && parts.headers.contains_key(header::TE) {
            parts.headers.append(header::CONNECTION, HeaderValue::from_static("te"));
        }
        let mut injected = injections.apply(&mut parts.headers);
        injected.extend(signature.iter().flat_map(Signature::headers));
        parts.extensions.clear();
        if let Some(diverted) = &diverted {
            diverted.apply(&mut parts.headers);
        }
        authority::write(&mut parts, authority, self.scheme, lease.version())?;
        let (sending, sent) = lease.sending();
        let body = payload::passing(body, live.cut(Waiter::Sent), injected, Held::Sending(sending, wait.map(Box::new)));
        let is_read = known.is_some() || signature.is_some();
        let reading = is_read.then_some(Reading { known, replacer, signature });
        Some((Request::from_parts(parts, body), sent, reading))
    }

    /// Sends; once more over another connection where no origin has begun with it.
    async fn send(
        &self,
        request: Request<Payload>,
        hearing: Option<&Hearing>,
        lease: &mut Lease,
        wanted: Wanted,
        (permit, generation): (&Permit, u64),
    ) -> Result<Response<Arriving>, &'static str> {
        const GONE: &str = "the upstream closed the connection before it answered";
        let mut request = request;
        for left in (0..limits::UPSTREAM_TRIES).rev() {
            let unsent = match lease.send(request, hearing).await {
                Ok(response) => return Ok(response),
                Err(SendError::Broken(error)) => return Err(sentence(&error)),
                Err(SendError::Unsent(request)) => request,
            };
            lease.retire();
            if left == 0 {
                break;
            }
            let snapshot = self.ctx.sandbox.snapshot();
            let again = Box::pin(self.lease(permit, &snapshot, wanted)).await.map_err(|_| GONE)?;
            if snapshot.generation != generation || again.version() != lease.version() {
                break;
            }
            *lease = again;
            request = *unsent;
        }
        Err(GONE)
    }

    /// Answers that a switch is granted. What follows begins once the answer is on its way.
    fn switch(
        &self,
        switch: Switch,
        mut response: Response<Arriving>,
        live: Arc<Live>,
        scrub: Option<Scrub>,
        lease: Lease,
    ) -> Response<Payload> {
        let stream = response.body_mut().take();
        let up = stream.unwrap_or_else(|| Leaving::Connection(hyper::upgrade::on(&mut response)));
        headers::sanitise_response(response.headers_mut());
        response.extensions_mut().clear();
        scrub.iter().for_each(|scrub| scrub.head(response.headers_mut()));
        switch.word(&mut response);
        let is_of_a_stream = switch.is_of_a_stream();
        self.relay(Switched { down: switch.down(), up, live, scrub, lease }, is_of_a_stream);
        response.map(|_| payload::whole(bytes::Bytes::new()))
    }

    fn relay(&self, switched: Switched, is_of_a_stream: bool) {
        if is_of_a_stream {
            self.watch.begin();
            let (busy, ledger) = (self.watch.answering(), Arc::clone(&self.ledger));
            let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
            relays.retain(|relay| !relay.is_over());
            relays.push(self.upstreams.lane().spawn(async move {
                serve::relay_switched(switched, &ledger).await;
                drop(busy);
            }));
            return;
        }
        self.watch.switch_protocol();
        *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched);
    }
}

/// Takes off what is for one connection alone, but for what is carried on: that the protocol is to be switched, and
/// that an answer is waited for.
fn sanitise(headers: &mut HeaderMap, switches: bool, awaits: bool) {
    headers::sanitise_request(headers);
    if switches {
        upgrade::restore(headers);
    }
    if awaits {
        interim::restore(headers);
    }
}

/// How requests end that are not sent.
impl Conversation {
    fn deny(&self, denial: &Denial, asked: &Asked) -> Response<Payload> {
        self.record_denial(denial, asked, self.word(denial, asked.host()))
    }

    fn record_denial(&self, denial: &Denial, asked: &Asked, answer: Answer) -> Response<Payload> {
        let mut judged = asked.judged(Err(denial.reason), &denial.basis);
        judged.status = Some(answer.status().as_u16());
        self.ledger.verdict(judged);
        answer.into_response()
    }

    /// A request for which something cannot be had, or that is not as its rule asks; `found` is what its body was
    /// broken off for.
    fn lacking(
        &self,
        lack: Lack,
        basis: &Basis,
        found: Option<Denial>,
        asked: &Asked,
    ) -> Result<Response<Payload>, PayloadError> {
        let denial = |reason| Denial { reason, basis: basis.clone() };
        match lack {
            Lack::Reason(reason) => Ok(self.deny(&denial(reason), asked)),
            Lack::Doubtful => {
                let denial = denial(DenyReason::PlaceholderMisdirected);
                Ok(self.record_denial(&denial, asked, refuse::doubtful(&denial, asked.host(), self.style())))
            }
            Lack::Signature(unsigned) => self.unsigned(unsigned, basis, found, asked),
        }
    }

    /// A request that cannot be signed.
    fn unsigned(
        &self,
        unsigned: Unsigned,
        basis: &Basis,
        found: Option<Denial>,
        asked: &Asked,
    ) -> Result<Response<Payload>, PayloadError> {
        let denial = |reason| Denial { reason, basis: basis.clone() };
        let fault = match unsigned {
            Unsigned::Fault(fault) => fault,
            Unsigned::Misdirected => return Ok(self.deny(&denial(DenyReason::PlaceholderMisdirected), asked)),
            // It was told when it was found.
            Unsigned::Body(error) => {
                return found.map(|denial| self.word(&denial, asked.host()).into_response()).ok_or(error);
            }
        };
        let is_ours = fault.is_of_the_key();
        let denial = denial(if is_ours { DenyReason::SecretUnavailable } else { DenyReason::SignatureRefused });
        let answer = refuse::unsigned(&fault, &denial, asked.host(), self.style());
        Ok(self.record_denial(&denial, asked, answer))
    }

    /// A request over what the sandbox may make in a time. It may come again.
    fn put_off(&self, spent: &Spent, asked: &Asked) -> Response<Payload> {
        let denial = self.denial(DenyReason::Limit);
        self.record_denial(&denial, asked, refuse::too_many(spent, &denial, asked.host(), self.style()))
    }

    /// A request whose authority or length is doubtful. With HTTP/1 its connection may end with it, for what follows is
    /// as doubtful.
    fn misdirected(&self, reason: DenyReason, parts: &Parts) -> Response<Payload> {
        let denial = self.denial(reason);
        let answer = self.word(&denial, None);
        let mut judged = ledger::denied(&denial, &self.flow.seen);
        judged.protocol = protocol(parts.version);
        judged.request = Some(audit::Request { method: parts.method.to_string(), path: parts.uri.path().to_owned() });
        judged.status = Some(answer.status().as_u16());
        self.ledger.verdict(judged);
        let mut response = answer.into_response();
        if reason == DenyReason::MalformedRequest && parts.version != Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Bytes that are no request, or too many: the answer, where one can be given.
    fn stop(&self, fault: Fault) -> Answer {
        let denial = match (&self.refusal, fault) {
            (Some(denial), _) => denial.clone(),
            (None, Fault::Malformed) => self.denial(DenyReason::MalformedRequest),
            (None, Fault::NotHttp) => self.denial(DenyReason::NotHttp),
            (None, Fault::TooLarge | Fault::TooSlow) => self.denial(DenyReason::Limit),
        };
        let answer = refuse::faulty(fault, &denial, self.style());
        if self.refusal.is_none() {
            let mut judged = ledger::denied(&denial, &self.flow.seen);
            judged.protocol = match self.version {
                HttpVersion::Http1 => Protocol::Http,
                HttpVersion::Http2 => Protocol::H2,
            };
            judged.status = Some(answer.status().as_u16());
            self.ledger.verdict(judged);
        }
        answer
    }

    fn answer_here(&self, local: &LocalResponse, basis: &Basis, asked: &Asked) -> Response<Payload> {
        let mut judged = asked.judged(Ok(RouteTaken::Respond), basis);
        judged.status = Some(local.status.as_u16());
        self.ledger.verdict(judged);
        let mut response = Response::new(payload::whole(local.body.clone()));
        *response.status_mut() = local.status;
        *response.headers_mut() = local.headers.clone();
        response
    }

    fn fail_dial(&self, error: &DialError, mut due: Due<'_>, asked: &Asked) -> Response<Payload> {
        if let DialError::Denied(denial) = error {
            due.withdraw();
            return self.deny(denial, asked);
        }
        let status = if error.is_timeout() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
        due.answered(status);
        self.fail(&crate::intercept::chain(error), status)
    }

    /// The exchange broke: by the sandbox's own body, where the guard or the search says so, by the upstream otherwise.
    fn broken(&self, sentence: &str, basis: &Basis, found: Option<Denial>, asked: &Asked) -> Response<Payload> {
        if let Some(denial) = found {
            return self.word(&denial, asked.host()).into_response();
        }
        let Some(fault) = self.watch.fault() else {
            return self.fail(sentence, StatusCode::BAD_GATEWAY);
        };
        let denial = Denial { reason: DenyReason::MalformedRequest, basis: basis.clone() };
        refuse::faulty(fault, &denial, self.style()).into_response()
    }

    fn fail(&self, sentence: &str, status: StatusCode) -> Response<Payload> {
        self.ledger.error(sentence);
        refuse::failed(status, sentence).into_response()
    }

    fn word(&self, denial: &Denial, host: Option<&str>) -> Answer {
        refuse::denied(denial, host, self.flow.dst.ip(), self.style())
    }

    fn style(&self) -> crate::policy::Denials {
        self.ctx.sandbox.snapshot().policy.denials()
    }

    /// A denial by no rule of the policy.
    fn denial(&self, reason: DenyReason) -> Denial {
        Denial { reason, basis: Basis { rule: None, revision: self.ctx.sandbox.snapshot().policy.revision() } }
    }
}

impl Asked {
    fn new(authority: Authority, parts: &Parts) -> Self {
        let protocol = protocol(parts.version);
        let hears_interims = parts.version != Version::HTTP_10;
        Self { authority, method: parts.method.clone(), headers: parts.headers.clone(), protocol, hears_interims }
    }

    fn head(&self, flow: &Flow, scheme: Scheme) -> RequestHead<'_> {
        RequestHead {
            scheme,
            authority: self.authority.name.as_ref(),
            dst: flow.dst,
            method: self.method.as_str(),
            path: self.authority.target.path(),
            query: self.authority.target.query(),
            headers: &self.headers,
        }
    }

    /// The target with another query, its values in their places.
    fn with_query(&self, query: &Text, secrets: &Secrets) -> Result<PathAndQuery, DenyReason> {
        let query = replace::query(query, secrets).map_err(|error| match error {
            InjectError::TooLong => DenyReason::Limit,
            _ => DenyReason::SecretUnavailable,
        })?;
        let target = [self.authority.target.path().as_bytes(), b"?", &query].concat();
        PathAndQuery::try_from(target).map_err(|_| DenyReason::Limit)
    }

    fn host(&self) -> Option<&str> {
        self.authority.name.as_ref().map(Domain::as_str)
    }

    fn permitted(&self, permit: &Permit, additions: &Additions) -> Judged {
        let route = if additions.diverted.is_some() { RouteTaken::Forward } else { RouteTaken::Terminate };
        let judged = self.judged(Ok(route), permit.basis());
        let signed = additions.signature.iter().flat_map(Signature::names);
        let elsewhere = [(":query", additions.target.is_some()), (":body", additions.replacer.is_some())];
        let elsewhere = elsewhere.into_iter().filter(|(_, is_so)| *is_so).map(|(place, _)| place.to_owned());
        let injected = additions.injections.names().into_iter().chain(signed).chain(elsewhere).collect();
        Judged { observed: permit.observed(), injected, ..judged }
    }

    fn judged(&self, outcome: Result<RouteTaken, DenyReason>, basis: &Basis) -> Judged {
        Judged {
            outcome,
            observed: None,
            rule: basis.rule.clone(),
            revision: basis.revision,
            protocol: self.protocol,
            name: self.authority.name.clone(),
            request: Some(audit::Request {
                method: self.method.to_string(),
                path: self.authority.target.path().to_owned(),
            }),
            injected: Vec::new(),
            status: None,
        }
    }
}

fn protocol(version: Version) -> Protocol {
    if version == Version::HTTP_2 { Protocol::H2 } else { Protocol::Http }
}

/// What a request claims to be for, before anything was compared; for wording alone.
fn claimed_host(request: &Request<Arriving>) -> Option<String> {
    let in_target = request.uri().host().map(str::to_owned);
    in_target.or_else(|| request.headers().get(header::HOST)?.to_str().ok().map(str::to_owned))
}

/// Why an exchange broke, whose fault it is first.
fn sentence(broken: &Broken) -> &'static str {
    let (is_gone, is_doubtful) = match broken {
        Broken::Message(error) => {
            (error.is_incomplete_message() || error.is_closed() || error.is_canceled(), error.is_parse())
        }
        Broken::Stream(error) => (false, error.is_library()),
        Broken::Switched => return upgrade::NOT_ASKED_FOR,
    };
    match (is_gone, is_doubtful) {
        (true, _) => "the upstream closed the connection before it answered",
        (false, true) => "the upstream's answer is no HTTP that can be read without doubt",
        (false, false) => "the connection to the upstream broke",
    }
}

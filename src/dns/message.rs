//! A question as it was read, and the answer as it is sent: RFC 1035 messages with EDNS (RFC 6891).
//!
//! `INVARIANT`: what is not one plain question gets an error or silence, and is not looked at further.

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Transport;
use crate::flow::Domain;
use crate::limits;
use crate::policy::verdict::DenyReason;

/// One standard question of class IN.
pub(super) struct Question {
    header: Metadata,
    query: Query,
    edns: Option<Edns>,
    name: Option<Domain>,
}

impl Question {
    /// Reads a message.
    pub(super) fn read(message: &[u8]) -> Result<Self, Unreadable> {
        let &[id_high, id_low, flags, _, _, _, _, _, _, _, _, _, ..] = message else { return Err(Unreadable::Silence) };
        if flags & 0x80 != 0 {
            return Err(Unreadable::Silence);
        }
        let id = u16::from_be_bytes([id_high, id_low]);
        let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
        let fault = |code| Unreadable::Fault(Box::new(Message::error_msg(id, op_code, code)));
        if op_code != OpCode::Query {
            return Err(fault(ResponseCode::NotImp));
        }
        let Ok(mut message) = Message::from_vec(message) else { return Err(fault(ResponseCode::FormErr)) };
        let (Some(query), true, true, true) = (
            message.queries.pop(),
            message.queries.is_empty(),
            message.answers.is_empty(),
            message.authorities.is_empty(),
        ) else {
            return Err(fault(ResponseCode::FormErr));
        };
        let name = domain(query.name());
        let question = Self { header: message.metadata, query, edns: message.edns, name };
        if question.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Err(Unreadable::Fault(Box::new(question.message(Reply::new(ResponseCode::BADVERS)))));
        }
        if question.query.query_class() != DNSClass::IN {
            return Err(Unreadable::Fault(Box::new(question.message(Reply::new(ResponseCode::Refused)))));
        }
        Ok(question)
    }

    /// The name asked for; `None` where it is none that POLICY §2 knows.
    pub(super) fn name(&self) -> Option<&Domain> {
        self.name.as_ref()
    }

    /// The type asked for.
    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The bytes that answer it: truncated (RFC 2181 §9) where the transport does not take them whole.
    pub(super) fn answer(&self, reply: Reply, transport: Transport) -> Option<Vec<u8>> {
        let room = match (transport, &self.edns) {
            (Transport::Stream, _) => usize::from(u16::MAX),
            (Transport::Datagram, None) => limits::DNS_UDP_BYTES,
            (Transport::Datagram, Some(edns)) => {
                usize::from(edns.max_payload()).clamp(limits::DNS_UDP_BYTES, limits::DNS_EDNS_BYTES)
            }
        };
        let message = self.message(reply);
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= room { Some(bytes) } else { message.truncate().to_vec().ok() }
    }

    /// The question is repeated as it was asked, letter for letter: clients compare its case.
    fn message(&self, reply: Reply) -> Message {
        let Reply { code, records, ttl, error } = reply;
        let mut message = Message::response(self.header.id, OpCode::Query);
        message.metadata.recursion_desired = self.header.recursion_desired;
        message.metadata.checking_disabled = self.header.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message.add_answers(records.into_iter().map(|data| Record::from_rdata(self.query.name().clone(), ttl, data)));
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(limits::DNS_EDNS_BYTES).unwrap_or(u16::MAX));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns.options_mut().options.extend(error.map(|option| ((&option).into(), option)));
            message.set_edns(edns);
        }
        message
    }
}

/// Why a message is no [`Question`].
pub(super) enum Unreadable {
    /// Too short to be answered, or itself an answer.
    Silence,
    /// Answered with this error.
    Fault(Box<Message>),
}

impl Unreadable {
    /// The bytes to answer with, if any.
    pub(super) fn answer(self) -> Option<Vec<u8>> {
        match self {
            Self::Silence => None,
            Self::Fault(message) => message.to_vec().ok(),
        }
    }
}

/// What a question is answered with.
pub(super) struct Reply {
    code: ResponseCode,
    records: Vec<RData>,
    ttl: u32,
    error: Option<EdnsOption>,
}

impl Reply {
    /// A code and nothing else.
    pub(super) fn new(code: ResponseCode) -> Self {
        Self { code, records: Vec::new(), ttl: 0, error: None }
    }

    /// The name exists; of the type there is nothing (RFC 2308 §2.2).
    pub(super) fn no_data() -> Self {
        Self::new(ResponseCode::NoError)
    }

    /// A refusal: Extended DNS Error 15, the reason as text.
    pub(super) fn denied(code: ResponseCode, reason: DenyReason) -> Self {
        Self::new(code).explained(ErrorCode::Blocked, reason.as_str())
    }

    /// Adds records of the question's name, and their TTL in seconds.
    pub(super) fn with_records(self, records: Vec<RData>, ttl: u32) -> Self {
        Self { records, ttl, ..self }
    }

    /// Adds an Extended DNS Error (RFC 8914 §2); left out where the client does not speak EDNS.
    pub(super) fn explained(self, code: ErrorCode, text: &str) -> Self {
        const OPTION: u16 = 15;
        let data = [&(code as u16).to_be_bytes(), text.as_bytes()].concat();
        Self { error: Some(EdnsOption::Unknown(OPTION, data)), ..self }
    }
}

/// The codes of RFC 8914 §4 that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    /// By policy.
    Blocked = 15,
    /// A type that we do not serve.
    NotSupported = 21,
    /// The host's resolvers do not answer.
    NoReachableAuthority = 22,
    /// They answer uselessly.
    NetworkError = 23,
}

/// Labels are bytes, and a byte may be a dot: only what spells a canonical name as it stands is one.
fn domain(name: &Name) -> Option<Domain> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    Domain::parse(&text).ok().filter(|domain| domain.as_str() == text)
}

//! A question as it was read, and the answer as it is sent: RFC 1035 messages with EDNS (RFC 6891).
//!
//! `INVARIANT`: what is not one plain question gets an error or silence, and is not looked at further.

use std::sync::Arc;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Transport;
use crate::flow::Domain;
use crate::limits;
use crate::policy::verdict::DenyReason;
use crate::resolve::Zone;

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
        let Reply { code, records, zone, ttl, error } = reply;
        let mut message = Message::response(self.header.id, OpCode::Query);
        message.metadata.recursion_desired = self.header.recursion_desired;
        message.metadata.checking_disabled = self.header.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message.add_answers(records.into_iter().map(|data| Record::from_rdata(self.query.name().clone(), ttl, data)));
        message.add_authorities(zone.map(|zone| {
            // Records at the end of an alias chain are given as the name's own, and so is their absence.
            let owner = if zone.name.zone_of(self.query.name()) { &zone.name } else { self.query.name() };
            Record::from_rdata(owner.clone(), ttl, RData::SOA(zone.soa.clone()))
        }));
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
    zone: Option<Arc<Zone>>,
    ttl: u32,
    error: Option<EdnsOption>,
}

impl Reply {
    /// A code and nothing else.
    pub(super) fn new(code: ResponseCode) -> Self {
        Self { code, records: Vec::new(), zone: None, ttl: 0, error: None }
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

    /// Adds the zone by whose word there is nothing, and for how many seconds: whoever asks may keep it as long.
    pub(super) fn with_zone(self, zone: Option<Arc<Zone>>, ttl: u32) -> Self {
        Self { zone, ttl, ..self }
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

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::opt::EdnsCode;
    use hickory_proto::rr::rdata::{A, TXT};

    use super::*;

    fn asking(name: Name, kind: RecordType) -> Message {
        let mut message = Message::new(0x1234, hickory_proto::op::MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        message
    }

    fn plain() -> Message {
        asking(Name::from_ascii("www.example.com.").unwrap(), RecordType::A)
    }

    fn with_edns(mut message: Message, size: u16) -> Message {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
        message
    }

    fn read(message: &Message) -> Result<Question, Unreadable> {
        Question::read(&message.to_vec().unwrap())
    }

    fn question(message: &Message) -> Question {
        read(message).unwrap_or_else(|_| panic!("{message} is a question"))
    }

    /// The error that a message is answered with; `None` for silence.
    fn fault(bytes: &[u8]) -> Option<ResponseCode> {
        match Question::read(bytes) {
            Ok(_) => panic!("{bytes:?} is no question"),
            Err(unreadable) => unreadable.answer().map(|bytes| Message::from_vec(&bytes).unwrap().response_code),
        }
    }

    fn texts(count: usize) -> Reply {
        Reply::no_data().with_records(vec![RData::TXT(TXT::new(vec!["x".repeat(100)])); count], 60)
    }

    #[test]
    fn what_is_no_message_gets_silence() {
        assert_eq!(fault(b""), None);
        assert_eq!(fault(&plain().to_vec().unwrap()[..11]), None);
    }

    #[test]
    fn an_answer_gets_silence_so_that_two_resolvers_do_not_talk_for_ever() {
        assert_eq!(fault(&plain().into_response().to_vec().unwrap()), None);
    }

    #[test]
    fn every_prefix_of_a_question_is_malformed() {
        let whole = with_edns(plain(), 1232).to_vec().unwrap();
        for length in 12..whole.len() {
            assert_eq!(fault(&whole[..length]), Some(ResponseCode::FormErr), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn only_one_plain_question_is_one() {
        let mut two = plain();
        two.add_query(plain().queries[0].clone());
        let mut none = plain();
        none.queries.clear();
        let mut answered = plain();
        answered.add_answer(Record::from_rdata(Name::root(), 0, RData::A(A::new(192, 0, 2, 1))));
        let mut authorised = plain();
        authorised.add_authority(Record::from_rdata(Name::root(), 0, RData::A(A::new(192, 0, 2, 1))));
        for message in [two, none, answered, authorised] {
            assert_eq!(fault(&message.to_vec().unwrap()), Some(ResponseCode::FormErr), "{message}");
        }
    }

    #[test]
    fn other_operations_classes_and_edns_versions_are_refused_by_name() {
        let mut update = plain().to_vec().unwrap();
        update[2] |= 5 << 3;
        assert_eq!(fault(&update), Some(ResponseCode::NotImp));
        let mut chaos = plain();
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(fault(&chaos.to_vec().unwrap()), Some(ResponseCode::Refused));
        let mut edns = with_edns(plain(), 1232);
        edns.edns.as_mut().unwrap().set_version(1);
        // Extended codes share their numbers: 16 reads as BADSIG, too.
        assert_eq!(fault(&edns.to_vec().unwrap()).map(u16::from), Some(ResponseCode::BADVERS.into()));
    }

    #[test]
    fn the_name_is_canonical_whatever_its_case() {
        let name = |name: &str| question(&asking(Name::from_ascii(name).unwrap(), RecordType::A)).name().cloned();
        assert_eq!(name("WwW.ExAmPlE.cOm."), Domain::parse("www.example.com").ok());
        assert_eq!(name("_dmarc.Example.com."), Domain::parse("_dmarc.example.com").ok());
    }

    #[test]
    fn labels_that_spell_another_name_are_none() {
        let name = |labels: &[&[u8]]| {
            question(&asking(Name::from_labels(labels.iter().copied()).unwrap(), RecordType::A)).name().cloned()
        };
        let labels: [&[&[u8]]; 8] = [
            &[b"www.example", b"com"],
            &[b"evil.test\0", b"allowed", b"test"],
            &[b"www", b"ex ample", b"com"],
            &["münchen".as_bytes(), b"example"],
            &["ａllowed".as_bytes(), b"test"],
            &[b"xn--zzzzzzzz-99999", b"test"],
            &[b"192", b"0", b"2", b"1"],
            &[],
        ];
        for labels in labels {
            assert_eq!(name(labels), None, "{labels:?}");
        }
    }

    #[test]
    fn the_answer_repeats_the_question_letter_for_letter() {
        let asked = asking(Name::from_ascii("WwW.ExAmPlE.cOm.").unwrap(), RecordType::A);
        let reply = Reply::no_data().with_records(vec![RData::A(A::new(192, 0, 2, 7))], 60);
        let answer = question(&asked).answer(reply, Transport::Datagram).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.id, 0x1234);
        assert!(answer.queries[0].name().eq_case(asked.queries[0].name()));
        assert!(answer.answers[0].name.eq_case(asked.queries[0].name()));
        assert!(answer.recursion_desired && answer.recursion_available && !answer.authentic_data);
        assert_eq!(answer.edns, None, "who does not speak EDNS is not spoken to in it");
    }

    #[test]
    fn datagrams_are_truncated_at_what_the_client_takes_and_we_allow() {
        for (size, room) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(1232), 1232), (Some(65535), 1232)] {
            let asked = size.map_or_else(plain, |size| with_edns(plain(), size));
            let fitting = (1..).take_while(|count| full(&question(&asked), *count).len() <= room).last().unwrap();
            let whole = question(&asked).answer(texts(fitting), Transport::Datagram).unwrap();
            assert!(!Message::from_vec(&whole).unwrap().truncation, "{size:?}");
            let over = question(&asked).answer(texts(fitting + 1), Transport::Datagram).unwrap();
            let message = Message::from_vec(&over).unwrap();
            assert!(message.truncation && message.answers.is_empty() && over.len() <= room, "{size:?}");
        }
    }

    fn full(question: &Question, count: usize) -> Vec<u8> {
        question.answer(texts(count), Transport::Stream).unwrap()
    }

    #[test]
    fn a_stream_takes_the_whole_answer() {
        let whole = full(&question(&plain()), 500);
        assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 500);
        let over = full(&question(&plain()), 1000);
        assert!(over.len() <= usize::from(u16::MAX) && Message::from_vec(&over).unwrap().truncation);
    }

    #[test]
    fn a_refusal_says_why_to_who_speaks_edns() {
        let asked = with_edns(plain(), 1232);
        let refusal = Reply::denied(ResponseCode::NXDomain, DenyReason::NoRule);
        let answer = question(&asked).answer(refusal, Transport::Datagram).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.response_code, ResponseCode::NXDomain);
        let edns = answer.edns.unwrap();
        assert_eq!(usize::from(edns.max_payload()), limits::DNS_EDNS_BYTES);
        let error = edns.option(EdnsCode::Unknown(15)).cloned();
        assert_eq!(error, Some(EdnsOption::Unknown(15, b"\x00\x0fno-rule".to_vec())));
    }
}

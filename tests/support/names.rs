//! A DNS server under the test's control: a zone of addresses, and a record of every question.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::place::Place;

/// The server. It answers over UDP and TCP for as long as its runtime lives.
pub(crate) struct Names {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    zone: HashMap<String, Vec<RData>>,
    asked: Vec<(String, RecordType)>,
    turn: usize,
    rotating: HashMap<String, Vec<IpAddr>>,
}

impl Names {
    /// Serves on `address`, in `place`, by tasks of `runtime`.
    pub(crate) fn serve(place: &Place, address: SocketAddr, runtime: &tokio::runtime::Handle) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (datagrams, streams) = (place.datagrams(address), place.listen(address));
        datagrams.set_nonblocking(true).expect("a socket option");
        streams.set_nonblocking(true).expect("a socket option");
        runtime.spawn(serve_datagrams(datagrams, Arc::clone(&state)));
        runtime.spawn(serve_streams(streams, Arc::clone(&state)));
        Self { state }
    }

    /// Answers `name` with these addresses from now on, TTL 0.
    pub(crate) fn set(&self, name: &str, addresses: &[IpAddr]) {
        let records = addresses.iter().map(|&address| address_record(address)).collect();
        self.state.lock().expect("no panic").zone.insert(name.to_owned(), records);
    }

    /// Adds a record of any type.
    pub(crate) fn add(&self, name: &str, record: RData) {
        self.state.lock().expect("no panic").zone.entry(name.to_owned()).or_default().push(record);
    }

    /// Answers each question for addresses of `name` with the next of these (rebinding).
    pub(crate) fn rotate(&self, name: &str, addresses: &[IpAddr]) {
        self.state.lock().expect("no panic").rotating.insert(name.to_owned(), addresses.to_vec());
    }

    /// Every name asked so far, lower-case, with its type.
    pub(crate) fn asked(&self) -> Vec<(String, RecordType)> {
        self.state.lock().expect("no panic").asked.clone()
    }
}

fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

async fn serve_datagrams(socket: std::net::UdpSocket, state: Arc<Mutex<State>>) {
    let socket = tokio::net::UdpSocket::from_std(socket).expect("a socket of this runtime");
    let mut buffer = vec![0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = answer(&buffer[..length], &state) {
            // The client may be gone: that is its affair.
            let _ = socket.send_to(&reply, client).await;
        }
    }
}

async fn serve_streams(listener: std::net::TcpListener, state: Arc<Mutex<State>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of this runtime");
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; usize::from(length)];
                if stream.read_exact(&mut question).await.is_err() {
                    return;
                }
                let Some(reply) = answer(&question, &state) else { return };
                let length = u16::try_from(reply.len()).expect("a short answer");
                if stream.write_u16(length).await.is_err() || stream.write_all(&reply).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn answer(question: &[u8], state: &Mutex<State>) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().to_ascii().to_lowercase().trim_end_matches('.').to_owned();
    let mut state = state.lock().expect("no panic");
    state.asked.push((name.clone(), query.query_type()));
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    for record in state.records(&name, query.query_type()) {
        reply.add_answer(Record::from_rdata(Name::from_ascii(&name).ok()?, 0, record));
    }
    if !state.zone.contains_key(&name) && !state.rotating.contains_key(&name) {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    reply.to_vec().ok()
}

impl State {
    fn records(&mut self, name: &str, kind: RecordType) -> Vec<RData> {
        let mut records = self.zone.get(name).cloned().unwrap_or_default();
        if let Some(addresses) = self.rotating.get(name).filter(|_| kind == RecordType::A) {
            records.push(address_record(addresses[self.turn % addresses.len()]));
            self.turn += 1;
        }
        records.retain(|record| record.record_type() == kind || record.record_type() == RecordType::CNAME);
        records
    }
}

//! A DNS server that says what a test tells it to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// Ends with the test's runtime.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    says: HashMap<(String, RecordType), Says>,
    asked: HashMap<(String, RecordType), usize>,
}

/// What a question is answered with; what has none, with NXDOMAIN.
#[derive(Clone)]
pub(super) enum Says {
    /// As in a zone file, but for class and type: `web.test. 5 10.0.0.1`. Behind `+` comes what is
    /// additional.
    Records(&'static str),
    Code(ResponseCode),
    Silence,
}

impl Server {
    pub(super) async fn start() -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let state = Arc::<Mutex<State>>::default();
        tokio::spawn(serve(socket, state.clone()));
        Server { address, state }
    }

    pub(super) fn says(&self, name: &str, kind: RecordType, says: Says) {
        self.state.lock().unwrap().says.insert((name.to_owned(), kind), says);
    }

    /// How often it was asked.
    pub(super) fn asked(&self, name: &str, kind: RecordType) -> usize {
        let state = self.state.lock().unwrap();
        state.asked.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
    }
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 4_096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let question = Message::from_vec(&buffer[..length]).expect("a message");
        let query = question.queries[0].clone();
        let key = (query.name().to_ascii(), query.query_type());
        let says = {
            let mut state = state.lock().unwrap();
            *state.asked.entry(key.clone()).or_default() += 1;
            state.says.get(&key).cloned().unwrap_or(Says::Code(ResponseCode::NXDomain))
        };
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query);
        match says {
            Says::Silence => continue,
            Says::Code(code) => answer.metadata.response_code = code,
            Says::Records(text) => {
                let (records, additional) = text.split_once('+').unwrap_or((text, ""));
                answer.add_answers(records.lines().filter_map(record));
                answer.add_additionals(additional.lines().filter_map(record));
            }
        }
        let bytes = answer.to_vec().expect("a message");
        socket.send_to(&bytes, client).await.expect("a datagram");
    }
}

/// `name ttl address`, `name ttl alias`, or `name ttl priority weight port target`.
fn record(line: &str) -> Option<Record> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, ttl, data) = match words.as_slice() {
        [] => return None,
        [name, ttl, data @ ..] => (*name, *ttl, data),
        _ => panic!("{line}"),
    };
    let number = |word: &str| word.parse().expect(line);
    let data = match data {
        [word] => match word.parse() {
            Ok(std::net::IpAddr::V4(ip)) => RData::A(A(ip)),
            Ok(std::net::IpAddr::V6(ip)) => RData::AAAA(AAAA(ip)),
            Err(_) => RData::CNAME(CNAME(name_of(word))),
        },
        [priority, weight, port, target] => {
            let target = name_of(target);
            RData::SRV(SRV::new(number(priority), number(weight), number(port), target))
        }
        _ => panic!("{line}"),
    };
    Some(Record::from_rdata(name_of(name), ttl.parse().expect(line), data))
}

fn name_of(text: &str) -> Name {
    Name::from_ascii(text).expect(text)
}

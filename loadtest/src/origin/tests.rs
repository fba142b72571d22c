//! The origin as clients see it, over real sockets, and what it counts of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;
use crate::response::{Framing, Reader};

/// Far more than any step here takes, and short enough for a hang to be seen.
const LIMIT: Duration = Duration::from_secs(20);
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

fn origin(script: &str) -> Running {
    origins(&[script])
}

fn origins(scripts: &[&str]) -> Running {
    let one = |script: &&str| Origin {
        address: "127.0.0.1:0".parse().expect("an address"),
        script: script.parse().unwrap_or_else(|error| panic!("{script}: {error}")),
    };
    start(scripts.iter().map(one).collect(), None).expect("started")
}

struct Client {
    stream: TcpStream,
    reader: Reader,
    /// Read and not looked at.
    held: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    framing: Framing,
    keep_alive: bool,
    interim: u8,
    body: Vec<u8>,
}

impl Client {
    fn of(running: &Running) -> Client {
        Client::at(running.addresses()[0])
    }

    fn at(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, reader: Reader::new(), held: Vec::new() }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("sent");
    }

    fn answer(&mut self, to_head: bool) -> Answer {
        self.reader.begin(to_head);
        let mut body = Vec::new();
        loop {
            let held = std::mem::take(&mut self.held);
            let read = self.reader.read(&held, |piece| body.extend_from_slice(piece));
            let read = read.expect("a right answer");
            self.held = held[read.taken..].to_vec();
            if let Some(message) = read.complete {
                let (head, interim) = (message.head, message.interim);
                let (status, framing, keep_alive) = (head.status, head.framing, head.keep_alive);
                return Answer { status, framing, keep_alive, interim, body };
            }
            assert!(self.receive().expect("more of the answer") > 0, "closed in an answer");
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut room = vec![0; 64 << 10];
        let bytes = self.stream.read(&mut room)?;
        self.held.extend_from_slice(&room[..bytes]);
        Ok(bytes)
    }

    fn get(&mut self) -> Answer {
        self.send(GET);
        self.answer(false)
    }

    /// What came until the origin closed.
    fn rest(mut self) -> io::Result<Vec<u8>> {
        while self.receive()? > 0 {}
        Ok(self.held)
    }

    fn counts(&mut self) -> serde_json::Value {
        self.send("GET /loadtest/counts HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = self.answer(false);
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

/// What the origins had counted when it was what was waited for.
fn counted(running: &Running, is_it: impl Fn(&Served) -> bool) -> Served {
    let began = Instant::now();
    loop {
        let total = running.counts().total;
        if is_it(&total) {
            return total;
        }
        assert!(began.elapsed() < LIMIT, "{total:#?}");
        std::thread::yield_now();
    }
}

fn adds_up(served: &Served) {
    let become_of = served.answered + served.resets + served.cuts + served.lost + served.waiting;
    assert_eq!(served.requests, become_of, "{served:#?}");
    assert_eq!(served.answered, served.statuses.values().sum::<u64>(), "{served:#?}");
}

#[test]
fn an_empty_script_is_128_bytes_at_once() {
    let running = origin("");
    let mut client = Client::of(&running);
    for _ in 0..3 {
        let answer = client.get();
        assert_eq!((answer.status, answer.keep_alive), (200, true));
        assert_eq!((answer.framing, answer.body.len()), (Framing::Length(128), 128));
    }
    client.send(HEAD);
    let head = client.answer(true);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let served = running.counts().total;
    adds_up(&served);
    assert_eq!((served.connections, served.requests, served.answered), (1, 4, 4));
    assert_eq!(served.body_bytes_out, 3 * 128);
}

#[test]
fn sizes_of_each_kind_arrive_whole() {
    let running = origins(&["size=0", "size=3m", "size=1..40k", "size=100k..300k chunked"]);
    let mut clients: Vec<_> = running.addresses().iter().map(|at| Client::at(*at)).collect();
    assert_eq!(clients[0].get().framing, Framing::Length(0));
    assert_eq!(clients[1].get().body.len(), 3 << 20);
    let mut sizes: Vec<usize> = (0..30).map(|_| clients[2].get().body.len()).collect();
    assert!(sizes.iter().all(|size| (1..=40 << 10).contains(size)), "{sizes:?}");
    let sum: usize = sizes.iter().sum();
    sizes.sort();
    sizes.dedup();
    assert!(sizes.len() > 20, "{sizes:?}");
    for _ in 0..3 {
        let answer = clients[3].get();
        assert_eq!(answer.framing, Framing::Chunked);
        assert!((100 << 10..=300 << 10).contains(&answer.body.len()));
    }
    let counts = running.counts();
    let out: Vec<u64> = counts.origins.iter().map(|(_, one)| one.body_bytes_out).collect();
    assert_eq!((out[0], out[1], out[2]), (0, 3 << 20, sum as u64));
    assert_eq!(out.iter().sum::<u64>(), counts.total.body_bytes_out);
    adds_up(&counts.total);
}

#[test]
fn a_delayed_answer_waits_and_holds_up_nobody_else() {
    let running = origin("latency=150ms");
    let began = Instant::now();
    let mut clients: Vec<_> = (0..40).map(|_| Client::of(&running)).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    clients.iter_mut().for_each(|client| assert_eq!(client.answer(false).status, 200));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(150), "{took:?}");
    assert!(took < Duration::from_secs(4), "40 after each other take 6 s: {took:?}");
    let short = origin("latency=200us");
    let mut client = Client::of(&short);
    let began = Instant::now();
    (0..50).for_each(|_| assert_eq!(client.get().status, 200));
    assert!(began.elapsed() >= Duration::from_millis(10));
}

#[test]
fn errors_resets_and_cuts_are_seen_and_counted() {
    let running =
        origins(&["errors=100%:503", "reset=100%", "cut=100% size=1000", "cut=100% size=0"]);
    let at = |number: usize| Client::at(running.addresses()[number]);
    let mut client = at(0);
    assert_eq!(client.get().status, 503);
    assert_eq!(client.get().status, 503, "and the connection goes on");
    let mut client = at(1);
    client.send(GET);
    assert_eq!(client.rest().map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    for number in [2, 3] {
        let mut client = at(number);
        client.send(GET);
        let part = client.rest().expect("closed");
        let mut reader = Reader::new();
        reader.begin(false);
        let read = reader.read(&part, |_| {}).expect("right as far as it goes");
        assert!(read.complete.is_none() && !part.is_empty());
        assert!(reader.end().is_err(), "it ended in the middle");
    }
    let total = running.counts().total;
    adds_up(&total);
    assert_eq!((total.requests, total.resets, total.cuts), (5, 1, 2));
    assert_eq!(total.statuses, [(503, 2)].into());

    let mixed = origin("errors=30%");
    let mut client = Client::of(&mixed);
    let failed = (0..500).filter(|_| client.get().status == 500).count();
    assert!((100..200).contains(&failed), "{failed} of 500, seed 1");
    let statuses = mixed.counts().total.statuses;
    assert_eq!(statuses, [(200, 500 - failed as u64), (500, failed as u64)].into());
}

#[test]
fn a_slow_body_takes_its_time_and_comes_piece_by_piece() {
    for script in ["size=8k rate=32k/s", "size=8k rate=32k/s chunked"] {
        let running = origin(script);
        let mut client = Client::of(&running);
        let began = Instant::now();
        client.send(GET);
        assert!(client.receive().expect("a beginning") < 8 << 10);
        assert_eq!(running.counts().total.waiting, 1);
        assert_eq!(client.answer(false).body.len(), 8 << 10);
        assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
        let total = running.counts().total;
        assert_eq!((total.answered, total.body_bytes_out), (1, 8 << 10));
    }
}

#[test]
fn chunks_are_for_those_who_know_them() {
    let running = origin("chunked size=20k");
    let mut client = Client::of(&running);
    let answer = client.get();
    assert_eq!((answer.framing, answer.body.len()), (Framing::Chunked, 20 << 10));
    client.send("GET / HTTP/1.0\r\n\r\n");
    let old = client.answer(false);
    assert_eq!((old.framing, old.keep_alive), (Framing::Length(20 << 10), false));
    assert_eq!(client.rest().expect("closed"), b"");
}

#[test]
fn a_connection_ends_after_its_last_answer_which_says_so() {
    let running = origin("close_after=3");
    for _ in 0..2 {
        let mut client = Client::of(&running);
        // One more than is answered.
        client.send(&GET.repeat(4));
        let kept: Vec<bool> = (0..3).map(|_| client.answer(false).keep_alive).collect();
        assert_eq!(kept, [true, true, false]);
        assert_eq!(client.rest().expect("closed, not reset"), b"");
    }
    let mut client = Client::of(&running);
    client.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(!client.answer(false).keep_alive);
    assert_eq!(client.rest().expect("closed"), b"");
    let total = counted(&running, |total| total.requests == 7);
    assert_eq!((total.answered, total.connections), (7, 3));
}

#[test]
fn a_stall_holds_answers_until_it_ends() {
    let began = Instant::now();
    let running = origin("400ms stall; size=5");
    let mut client = Client::of(&running);
    client.send(&GET.repeat(3));
    for _ in 0..3 {
        assert_eq!(client.answer(false).body, b"abcde");
        assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    }
    // The second half of each second, as it were.
    let began = Instant::now();
    let running = origin("100ms size=5; 100ms stall");
    let mut client = Client::of(&running);
    let mut longest = Duration::ZERO;
    while began.elapsed() < Duration::from_millis(500) {
        let sent = Instant::now();
        client.get();
        longest = longest.max(sent.elapsed());
    }
    assert!(longest > Duration::from_millis(50), "{longest:?}");
    adds_up(&running.counts().total);
}

#[test]
fn counts_are_told_in_a_stall_and_not_counted() {
    let running = origins(&["stall", ""]);
    let mut stalled = Client::of(&running);
    stalled.send(GET);
    stalled.send("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    Client::at(running.addresses()[1]).get();
    counted(&running, |total| total.requests == 2);
    for address in running.addresses() {
        let mut client = Client::at(*address);
        for _ in 0..2 {
            let counts = client.counts();
            let addresses: Vec<_> = running.addresses().iter().map(|at| at.to_string()).collect();
            let origins = counts["origins"].as_array().expect("a list");
            let told: Vec<_> = origins.iter().map(|one| one["address"].as_str()).collect();
            assert_eq!(told, [Some(&*addresses[0]), Some(&*addresses[1])]);
            assert_eq!(origins[0]["waiting"], 1);
            assert_eq!(origins[0]["answered_total"], 0);
            assert_eq!(origins[1]["statuses"]["200"], 1);
            assert_eq!(counts["total"]["requests_total"], 2);
            assert_eq!(counts["total"]["connections_total"], 2);
            assert_eq!(counts["total"], running.counts().json()["total"]);
        }
    }
    // Until the connection is used for something else.
    let mut client = Client::at(running.addresses()[1]);
    client.counts();
    client.get();
    assert_eq!(running.counts().total.connections, 3);
    stalled.stream.set_nonblocking(true).expect("set");
    assert_eq!(stalled.receive().map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for script in ["", "latency=100us..1ms size=1..2k", "chunked size=70k", "size=1m"] {
        let running = origin(&format!("{script} close_after=60"));
        let mut client = Client::of(&running);
        // Each answer to HEAD has no body: in any other order they could not be told apart.
        client.send(&format!("{GET}{HEAD}{HEAD}").repeat(20));
        for number in 0..60 {
            let to_head = number % 3 > 0;
            let answer = client.answer(to_head);
            assert_eq!(answer.body.is_empty(), to_head, "{script} {number}");
            assert_eq!(answer.keep_alive, number < 59, "{script} {number}");
        }
        assert_eq!(client.rest().expect("closed"), b"");
        let total = running.counts().total;
        adds_up(&total);
        assert_eq!((total.answered, total.waiting), (60, 0), "{script}");
    }
}

#[test]
fn ids_seen_twice_are_told_by_origin_and_in_all() {
    let running = origins(&["", ""]);
    let mut clients: Vec<_> = running.addresses().iter().map(|at| Client::at(*at)).collect();
    let mut send = |to: usize, id: u64| {
        clients[to].send(&format!("GET / HTTP/1.1\r\nX-Loadtest-Id: {id:016X}\r\n\r\n"));
        assert_eq!(clients[to].answer(false).status, 200);
    };
    // Two cores, a hundred numbers each; one is sent again to the same, one to the other origin.
    for number in 0..100 {
        send(0, number);
        send(1, 1 << 48 | number);
    }
    send(0, 42);
    send(0, 42);
    send(0, 1 << 48 | 7);
    let counts = running.counts();
    let ids = |served: &Served| {
        let ids = served.ids;
        (ids.total, ids.different, ids.repeated, ids.untracked)
    };
    assert_eq!(ids(&counts.origins[0].1), (103, 101, 1, 0));
    assert_eq!(ids(&counts.origins[1].1), (100, 100, 0, 0));
    assert_eq!(ids(&counts.total), (203, 200, 2, 0));
    adds_up(&counts.total);
    assert_eq!(counts, running.stop(), "and nothing came since");
}

#[test]
fn bodies_are_taken_in_whatever_their_form() {
    let running = origin("");
    let mut client = Client::of(&running);
    client.send("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    while client.held.is_empty() {
        client.receive().expect("100 Continue");
    }
    assert_eq!(client.held, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    let answer = client.answer(false);
    assert_eq!((answer.status, answer.interim), (200, 1));
    let chunk = format!("20000\r\n{}\r\n", "x".repeat(0x20000));
    client.send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    (0..16).for_each(|_| client.send(&chunk));
    client.send("0\r\n\r\n");
    assert_eq!(client.answer(false).status, 200);
    let total = running.counts().total;
    assert_eq!((total.requests, total.body_bytes_in), (2, 5 + 16 * 0x20000));
}

#[test]
fn bad_requests_get_400_and_the_connection_ends() {
    let running = origin("");
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    let long = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(request::MAX_HEAD_BYTES));
    for bad in ["GET / HTTP/3\r\n\r\n", "\x16\x03\x01\n", chunked, &long] {
        let mut client = Client::of(&running);
        client.send(&format!("{GET}{bad}"));
        assert_eq!(client.answer(false).status, 200, "what came before is answered");
        let answer = client.answer(false);
        assert_eq!((answer.status, answer.keep_alive), (400, false));
        assert!(!answer.body.is_empty());
        assert_eq!(client.rest().expect("closed"), b"");
    }
    let total = running.counts().total;
    adds_up(&total);
    assert_eq!((total.requests, total.answered, total.bad_requests), (4, 4, 4));
}

#[test]
fn a_client_that_goes_before_its_answer_has_lost_it() {
    let running = origin("latency=1000s");
    let mut client = Client::of(&running);
    client.send(GET);
    counted(&running, |total| total.waiting == 1);
    let socket = Socket::from(client.stream);
    socket.set_linger(Some(Duration::ZERO)).expect("to be reset");
    drop(socket);
    let total = counted(&running, |total| total.lost == 1);
    adds_up(&total);
    // Who only says that nothing more will come is answered.
    let running = origin("latency=50ms");
    let mut client = Client::of(&running);
    client.send(&GET.repeat(2));
    client.stream.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!([client.answer(false).status, client.answer(false).status], [200, 200]);
    assert_eq!(client.rest().expect("closed"), b"");
}

#[test]
fn a_client_that_never_reads_is_no_longer_read_from() {
    const REQUEST_BYTES: usize = 8 << 10;
    // More than all buffers of both kernels' ends hold.
    const MANY: usize = (128 << 20) / REQUEST_BYTES;
    for script in ["size=16k", "size=16k..17k", "size=16k latency=1ns"] {
        let running = origin(script);
        let mut client = Client::of(&running);
        client.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a time limit");
        let fields = format!("A: {}\r\n", "a".repeat(REQUEST_BYTES - 64));
        let request = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let whole = (0..MANY).take_while(|_| client.stream.write_all(request.as_bytes()).is_ok());
        let whole = whole.count();
        assert!(whole < MANY, "{script}: the origin takes in whatever comes");
        let total = running.counts().total;
        assert!(total.waiting <= 64, "{script}: {total:#?}");
        // It goes on where it stopped, and others were served meanwhile.
        assert_eq!(Client::of(&running).get().status, 200);
        for _ in 0..whole {
            assert!(client.answer(false).body.len() >= 16 << 10);
        }
        adds_up(&running.counts().total);
    }
}

#[test]
fn what_is_dropped_is_closed() {
    let running = origins(&["", "latency=1000s"]);
    let addresses = running.addresses().to_vec();
    let mut clients: Vec<_> = addresses.iter().map(|at| Client::at(*at)).collect();
    clients[0].get();
    clients[1].send(GET);
    counted(&running, |total| total.waiting == 1);
    drop(running);
    for (client, address) in clients.into_iter().zip(addresses) {
        match client.rest() {
            Ok(rest) => assert!(rest.is_empty()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let refused = TcpStream::connect(address).map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    }
}

#[test]
fn why_an_origin_cannot_start_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address");
    let origin = |address| vec![Origin { address, script: Script::default() }];
    let error = start(origin(address), None).err().expect("no start").to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    let any = "127.0.0.1:0".parse().expect("an address");
    for core in [1_000_000, 1_000] {
        let error = start(origin(any), Some(core)).err().expect("no such core").to_string();
        assert!(error.starts_with(&format!("cannot pin the origin to core {core}: ")), "{error}");
    }
    let allowed = rustix::thread::sched_getaffinity(None).expect("the cores of this process");
    let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|core| allowed.is_set(*core));
    let pinned = start(origin(any), core).expect("started");
    assert_eq!(Client::of(&pinned).get().status, 200);
}

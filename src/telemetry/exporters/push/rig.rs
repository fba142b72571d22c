//! For tests: batches, what is counted of them, an exporter that runs, and a collector on a port of
//! its own that answers as it is told, over TCP or TLS.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::config::ExporterSettings;
use crate::telemetry::exporters::Kind;
use crate::telemetry::feed::Hub;
use crate::telemetry::sample;
use crate::telemetry::spans::Batch;
use crate::telemetry::trace::Span;

/// Longer than anything takes here.
const DEADLINE: Duration = Duration::from_secs(20);

pub(in super::super) const EPOCH: Duration = Duration::from_micros(1_700_000_000_000_000);

pub(in super::super) fn batch(spans: Vec<Span>) -> Arc<Batch> {
    let layout = sample::layout(&["127.0.0.1:8080", "unix:/run/web.sock"]);
    Batch::of(spans, layout, EPOCH)
}

/// A runtime whose time is real.
pub(in super::super) fn real<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async { tokio::time::timeout(DEADLINE, work).await.expect("it takes too long") };
    runtime.block_on(work)
}

/// What became of spans, by what is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Counted {
    pub(in super::super) sent: u64,
    pub(in super::super) dropped: u64,
    pub(in super::super) failures: u64,
}

impl Counted {
    pub(in super::super) fn of(hub: &Hub, kind: &str) -> Counted {
        hub.update(|_| {});
        hub.read(|state| {
            let told = &state.telemetry;
            let all = [&told.spans_sent, &told.spans_dropped, &told.export_failures];
            let of = |split: &crate::telemetry::state::Split| {
                split.iter().find(|(label, _)| *label == kind).map_or(0, |(_, count)| count)
            };
            let [sent, dropped, failures] = all.map(of);
            Counted { sent, dropped, failures }
        })
    }
}

/// An exporter that runs.
pub(in super::super) struct Running {
    kind: &'static str,
    hub: Hub,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    pub(in super::super) fn new(kind: Kind, settings: &ExporterSettings) -> Running {
        let hub = sample::hub();
        let (end, ends) = watch::channel(false);
        let exporter = (kind.make)(settings).expect("valid settings");
        let task = exporter.task(hub.feed(kind.spec.kind), ends).expect("it pushes");
        Running { kind: kind.spec.kind, hub, end, task: tokio::spawn(task) }
    }

    pub(in super::super) fn offer(&self, batch: &Arc<Batch>) {
        self.hub.offer(batch);
    }

    pub(in super::super) fn counted(&self) -> Counted {
        Counted::of(&self.hub, self.kind)
    }

    /// What was counted, once it has ended.
    pub(in super::super) async fn end(self) -> Counted {
        self.end.send_replace(true);
        self.task.await.unwrap();
        Counted::of(&self.hub, self.kind)
    }
}

/// What a collector does with one request.
#[derive(Clone, Debug)]
pub(in super::super) enum Act {
    Answer(u16),
    /// 200, with that for a body.
    Say(Vec<u8>),
    /// Answers 200 and breaks off in the body, or says no more and keeps the connection.
    BreakOff,
    Stall,
    /// Closes the connection, or keeps it and says nothing.
    Close,
    Hang,
}

/// What came.
#[derive(Clone, Debug)]
pub(in super::super) struct Received {
    /// Counts the connections.
    pub(in super::super) connection: usize,
    /// In lower case.
    pub(in super::super) head: String,
    pub(in super::super) body: Vec<u8>,
}

pub(in super::super) struct Server {
    pub(in super::super) port: u16,
    received: mpsc::UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers 202 to whatever comes after the acts that it was told.
    pub(in super::super) fn new(acts: impl IntoIterator<Item = Act>) -> Server {
        Server::on(0, acts, None)
    }

    pub(in super::super) fn on(
        port: u16,
        acts: impl IntoIterator<Item = Act>,
        tls: Option<TlsAcceptor>,
    ) -> Server {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], port).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let port = listener.local_addr().unwrap().port();
        let acts = Arc::new(Mutex::new(acts.into_iter().collect::<VecDeque<Act>>()));
        let (sender, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(listen(listener, acts, sender, tls));
        Server { port, received, task }
    }

    pub(in super::super) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.port)
    }

    /// The next request.
    pub(in super::super) async fn next(&mut self) -> Received {
        self.received.recv().await.expect("it listens")
    }

    /// Whether there was one that nobody has asked for.
    pub(in super::super) fn try_next(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }

    /// Neither listens nor answers any more, from when this returns.
    pub(in super::super) async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn listen(
    listener: TcpListener,
    acts: Arc<Mutex<VecDeque<Act>>>,
    sender: mpsc::UnboundedSender<Received>,
    tls: Option<TlsAcceptor>,
) {
    // They end with this task.
    let mut connections = tokio::task::JoinSet::new();
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let (acts, sender, tls) = (acts.clone(), sender.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, connection, &acts, &sender).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, connection, &acts, &sender).await,
                    // Its certificate is not believed.
                    Err(_) => None,
                },
            }
        });
    }
}

/// `None`: the connection is at its end.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    acts: &Mutex<VecDeque<Act>>,
    sender: &mpsc::UnboundedSender<Received>,
) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut stream, &mut bytes).await?;
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().unwrap();
        while bytes.len() < end + length {
            more(&mut stream, &mut bytes).await?;
        }
        let body = bytes[end..end + length].to_vec();
        bytes.drain(..end + length);
        // Nobody may be interested any more.
        let _ = sender.send(Received { connection, head, body });
        let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Answer(202));
        let (status, length, body) = match act {
            Act::Answer(status) => (status, 0, Vec::new()),
            Act::Say(ref body) => (200, body.len(), body.clone()),
            Act::BreakOff | Act::Stall => (200, 10, b"half".to_vec()),
            Act::Close => return None,
            Act::Hang => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &body].concat()).await.ok()?;
        stream.flush().await.ok()?;
        match act {
            Act::BreakOff => return None,
            Act::Stall => std::future::pending().await,
            _ => {}
        }
    }
}

async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Option<()> {
    let mut chunk = vec![0; 64 << 10];
    let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
    bytes.extend_from_slice(&chunk[..count]);
    Some(())
}

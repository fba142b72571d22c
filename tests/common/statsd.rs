//! What a statsd receiver adds up, in Etsy's dialect.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Adds the counters of whole lines; gauges are looked at and left.
    #[track_caller]
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            let parts = line.split_once(':').and_then(|(name, rest)| {
                let (value, kind) = rest.split_once('|')?;
                Some((name, value, kind))
            });
            let (name, value, kind) = parts.unwrap_or_else(|| panic!("no metric: {line:?}"));
            assert!(matches!(kind, "c" | "g"), "{line:?}");
            if kind == "c" {
                let delta: u64 = value.parse().unwrap_or_else(|_| panic!("no count: {line:?}"));
                *self.0.entry(name.to_owned()).or_default() += delta;
            }
        }
    }

    /// 0 where there never was one.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What a path of the tree is called here.
    pub fn at(&self, path: &str) -> u64 {
        let safe = |byte: char| if byte == '.' { '_' } else { byte };
        let name: String = path.chars().map(safe).collect();
        self.get(&format!("ringlane.{}", name.replace('/', ".")))
    }
}

/// Receives datagrams on a thread until it is stopped.
pub struct Collector {
    pub address: SocketAddr,
    counters: Arc<Mutex<Counters>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub fn start(socket: UdpSocket) -> Collector {
        // The thread looks that often whether it is to end.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
        let address = socket.local_addr().expect("an address");
        let (counters, stopped) = (Arc::<Mutex<Counters>>::default(), Arc::default());
        let (sums, ends): (_, Arc<AtomicBool>) = (counters.clone(), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            let mut datagram = vec![0; 65_536];
            loop {
                // Asked before it looks: what had come by then is read.
                let last = ends.load(Ordering::SeqCst);
                match socket.recv(&mut datagram) {
                    Ok(length) => {
                        let text = std::str::from_utf8(&datagram[..length]).expect("text");
                        sums.lock().unwrap().add(text);
                    }
                    Err(_) if last => return,
                    Err(_) => {}
                }
            }
        });
        Collector { address, counters, stopped, thread: Some(thread) }
    }

    /// The sums so far.
    pub fn counters(&self) -> Counters {
        self.counters.lock().unwrap().clone()
    }

    /// The sums once nothing more comes.
    pub fn finish(mut self) -> Counters {
        self.end().expect("every line was a metric");
        self.counters()
    }

    fn end(&mut self) -> thread::Result<()> {
        self.stopped.store(true, Ordering::SeqCst);
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

//! Discovery: what is pure by itself (`lines`, `answers`), files in a folder of the test's own
//! (`files`), a DNS server that says what the test tells it to (`names`), and a real one
//! (`dnsmasq`).

mod answers;
mod dnsmasq;
mod files;
mod lines;
mod log;
mod names;
mod server;

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{Discovery, Update};
use crate::config::{self, Endpoint};

/// By then whatever is waited for has happened, or never will.
const DEADLINE: Duration = Duration::from_secs(30);

/// What discovery tells, service by service.
struct Told {
    updates: UnboundedReceiver<Update>,
    /// Those that came while others were waited for.
    waiting: Vec<Update>,
}

fn discovery() -> (Discovery, Told) {
    let (sender, updates) = unbounded_channel();
    let discovery = Discovery::new(move |update| {
        // A test that has ended listens no more.
        let _ = sender.send(update);
    });
    (discovery, Told { updates, waiting: Vec::new() })
}

/// For the service `web`.
fn reporter() -> (super::Reporter, Told) {
    let (discovery, told) = discovery();
    let report = discovery.report.clone();
    (super::Reporter { service: "web".into(), report, last: None }, told)
}

impl Told {
    /// The next set of a service, as text.
    async fn next(&mut self, service: &str) -> Vec<String> {
        if let Some(at) = self.waiting.iter().position(|it| it.service == service) {
            return written(&self.waiting.remove(at).endpoints);
        }
        loop {
            let update = timeout(DEADLINE, self.updates.recv()).await;
            let update = update.unwrap_or_else(|_| panic!("{service}: nothing in {DEADLINE:?}"));
            let update = update.expect("discovery lives");
            if update.service == service {
                return written(&update.endpoints);
            }
            self.waiting.push(update);
        }
    }

    /// Until the set of a service is this one. A and AAAA are two questions: one may see a change
    /// that the other has not seen yet.
    async fn until(&mut self, service: &str, expected: &[&str]) {
        while self.next(service).await != expected {}
    }

    /// Whether a service has told something that nobody has asked for yet.
    fn has_news_of(&mut self, service: &str) -> bool {
        while let Ok(update) = self.updates.try_recv() {
            self.waiting.push(update);
        }
        self.waiting.iter().any(|it| it.service == service)
    }
}

/// `127.0.0.1:80`, or `127.0.0.1:80*3` where the weight is not 1.
fn written(endpoints: &[Endpoint]) -> Vec<String> {
    let endpoint = |Endpoint { address, weight }: &Endpoint| match weight {
        1 => address.to_string(),
        weight => format!("{address}*{weight}"),
    };
    endpoints.iter().map(endpoint).collect()
}

/// What `apply` takes.
fn wanted(services: &[(&str, &config::Discovery)]) -> Vec<(String, config::Discovery)> {
    services.iter().map(|(name, it)| ((*name).to_owned(), (*it).clone())).collect()
}

#[tokio::test]
async fn what_is_told_differs_from_what_was_told_before() {
    let (mut reporter, mut told) = reporter();
    let set = |text: &str| super::lines::parse(text.as_bytes()).expect(text);
    reporter.tell(set("[::1]:1\n127.0.0.1:2\n127.0.0.1:1\n"));
    assert_eq!(told.next("web").await, ["127.0.0.1:1", "127.0.0.1:2", "[::1]:1"]);
    // The same in another order, and nothing.
    reporter.tell(set("127.0.0.1:2\n127.0.0.1:1\n[::1]:1\n"));
    reporter.tell(Vec::new());
    // Another weight.
    reporter.tell(set("127.0.0.1:2 5\n127.0.0.1:1\n[::1]:1\n"));
    assert_eq!(told.next("web").await, ["127.0.0.1:1", "127.0.0.1:2*5", "[::1]:1"]);
    assert!(!told.has_news_of("web"));
}

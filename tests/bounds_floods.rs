//! More connections than there may be: beyond `max_connections` and beyond the process's
//! descriptors. Who is there already is served as ever, who comes too much is told so or waits, and
//! when they have gone everybody is served again.

mod common;
#[path = "common/crowd.rs"]
mod crowd;
#[path = "common/held.rs"]
mod held;

use std::collections::BTreeMap;
use std::time::Instant;

use common::{Origin, Proxy, Wire, both, config, eventually, ok};
use crowd::as_many_as;
use held::Held;

const MANY: usize = if cfg!(debug_assertions) { 500 } else { 5_000 };
const POOLED: &str = "rt/http/client/web/pool_cached";
/// Descriptors of a process that has few.
const FEW: usize = 320;

fn yaml(origin: &Origin) -> String {
    let yaml = config(&[origin.address], "", "pool: {idle_ms: 500}");
    format!("telemetry: {{flush_interval_ms: 100}}\n{yaml}")
}

fn sized() -> Origin {
    Origin::answering(|request| {
        let size = request.head.target()[1..].parse().unwrap_or(2);
        ok(vec![b'x'; size])
    })
}

/// Shed: with each shard's `max_connections` taken, 503, `overloaded`, for up to 1,024 more at a
/// time on each shard; beyond that a close without a word. Both count as `overloaded`.
#[test]
fn a_flood_beyond_max_connections_leaves_those_who_are_there_alone() {
    const MOST: usize = 50;
    both(|cores| {
        let origin = sized();
        let runtime = format!("drain_ms: 300, shard: {{max_connections: {MOST}}}");
        let proxy = Proxy::start_with(&runtime, &yaml(&origin), cores);
        let shards = cores.split(',').count();
        let base = Held::by_nobody(&proxy);
        let mut inside: Vec<Wire> = (0..shards * MOST).map(|_| proxy.connect()).collect();
        inside.iter_mut().for_each(|it| assert_eq!(it.get("/200").status(), 200));
        // Who says nothing, and who asks: they are told without having asked.
        let count = as_many_as(MANY);
        let mut flood: Vec<Wire> = (0..count).map(|_| proxy.connect()).collect();
        flood.iter_mut().step_by(2).for_each(|it| {
            let _ = it.try_send("GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
        });
        let began = Instant::now();
        inside.iter_mut().for_each(|it| assert_eq!(it.get("/200").status(), 200));
        eprintln!("{} inside were served in {:?}", inside.len(), began.elapsed());
        let mut told: BTreeMap<u16, usize> = BTreeMap::new();
        for wire in &mut flood {
            let status = wire.try_answer_to("GET").map_or(0, |answer| answer.status());
            *told.entry(status).or_default() += 1;
        }
        eprintln!("{count} were told {told:?}");
        assert!(told.keys().all(|status| [0, 503].contains(status)), "{told:?}");
        assert!(told.get(&503).is_some_and(|told| *told > 0), "{told:?}");
        let overloaded = format!("{}/failures/overloaded", proxy.server(0));
        let metrics =
            proxy.metrics_when("each is counted", |it| it.get(&overloaded) >= count as u64);
        assert_eq!(metrics.get(&overloaded), count as u64);
        drop((flood, inside));
        base.is_back(&proxy);
        for _ in 0..shards * MOST {
            assert_eq!(proxy.connect().get("/200").status(), 200);
        }
        proxy.stop();
    });
}

/// Who is told that there is no place has none: those inside leave, and others come in at once,
/// however long the refused stay connected.
#[test]
fn the_refused_take_no_place() {
    const MOST: usize = 8;
    both(|cores| {
        let origin = sized();
        let runtime = format!("drain_ms: 300, shard: {{max_connections: {MOST}}}");
        let yaml = config(&[origin.address], "timeouts: {linger_ms: 60000}", "");
        let proxy = Proxy::start_with(&runtime, &yaml, cores);
        let places = cores.split(',').count() * MOST;
        let mut inside: Vec<Wire> = (0..places).map(|_| proxy.connect()).collect();
        inside.iter_mut().for_each(|it| assert_eq!(it.get("/200").status(), 200));
        let refused: Vec<Wire> = (0..2 * places)
            .map(|_| {
                let mut client = proxy.connect();
                assert_eq!(client.answer().status(), 503);
                client
            })
            .collect();
        drop(inside);
        for _ in 0..places / 2 {
            eventually("there is a place", || {
                let mut client = proxy.connect();
                let sent = client.try_send("GET /200 HTTP/1.1\r\nHost: h\r\n\r\n");
                sent.and_then(|()| client.try_answer_to("GET")).is_ok_and(|it| it.status() == 200)
            });
        }
        drop(refused);
        proxy.stop();
    });
}

/// Shed: whoever comes when only an eighth of the descriptors is left, by 503, `overloaded`, and in
/// the last half of that by a close without a word, which counts as the same. The rest is kept for
/// connections to endpoints, so that who is inside is served, and for who scrapes.
#[test]
fn a_flood_beyond_the_descriptors_leaves_those_who_are_there_alone() {
    both(|cores| {
        let origin = sized();
        let proxy = Proxy::start_with_descriptors(FEW, "drain_ms: 300", &yaml(&origin), cores);
        let base = Held::by_nobody(&proxy);
        let mut inside: Vec<Wire> = (0..10).map(|_| proxy.connect()).collect();
        inside.iter_mut().for_each(|it| assert_eq!(it.get("/200").status(), 200));
        let mut flood: Vec<Wire> = (0..3 * FEW).map(|_| proxy.connect()).collect();
        let overloaded = format!("{}/failures/overloaded", proxy.server(0));
        proxy.metrics_when("some are refused", |it| it.get(&overloaded) > 0);
        assert!(proxy.descriptors() > FEW / 2, "{}", proxy.descriptors());
        let (spent, began) = (proxy.cpu_secs(), Instant::now());
        for _ in 0..3 {
            // New connections to the endpoint are needed, and there are descriptors for them.
            proxy.metrics_when("pooled connections go", |it| it.get(POOLED) == 0);
            inside.iter_mut().for_each(|it| assert_eq!(it.get("/200").status(), 200));
        }
        let share = (proxy.cpu_secs() - spent) / began.elapsed().as_secs_f64();
        assert!(share < 0.5, "{share} of a core for those who only stay");
        let mut told: BTreeMap<u16, usize> = BTreeMap::new();
        for wire in &mut flood {
            let sent = wire.try_send("GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
            let answer = sent.and_then(|()| wire.try_answer_to("GET"));
            *told.entry(answer.map_or(0, |answer| answer.status())).or_default() += 1;
        }
        eprintln!("{} beyond the descriptors were told {told:?}", flood.len());
        assert!(told.keys().all(|status| [0, 200, 503].contains(status)), "{told:?}");
        assert!(told[&200] >= FEW / 2, "{told:?}");
        let refused = (flood.len() - told[&200]) as u64;
        eprintln!("{:?}", proxy.metrics().between(&format!("{}/failures/", proxy.server(0)), ""));
        let metrics = proxy.metrics_when("each is counted", |it| it.get(&overloaded) >= refused);
        assert_eq!(metrics.get(&overloaded), refused);
        drop((flood, inside));
        base.is_back(&proxy);
        let mut again: Vec<Wire> = (0..FEW / 2).map(|_| proxy.connect()).collect();
        again.iter_mut().for_each(|it| assert_eq!(it.get("/200").status(), 200));
        drop(again);
        proxy.stop();
    });
}

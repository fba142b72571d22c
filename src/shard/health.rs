//! The health checker: asks endpoints whether they are well, whatever requests say.
//!
//! One for the process, on the first shard. A scheduler knows whose check is due and starts a task
//! for each; the verdict is shared state that every shard sees at its next pick (`accrual`). First
//! checks are spread over an interval, and the intervals vary a little, so that a service's checks
//! do not come in bursts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::context::Context;
use super::rules::Rules;
use super::transport::Transport;
use super::upstream::{Endpoint, Upstream};
use crate::config::{Address, HealthCheck, Probe};
use crate::http::Method;
use crate::http1::{FieldStorage, ResponseParser};
use crate::policy::health::{Health, Thresholds};
use crate::ring::{self, Chunk, End, Ring, Timer};

/// By how much an interval may be shorter or longer.
const JITTER: f64 = 0.1;

/// An endpoint whose checks are due from time to time.
struct Watched {
    upstream: Rc<Upstream>,
    endpoint: Rc<Endpoint>,
    rules: Rc<Rules>,
    health: RefCell<Health>,
    /// Nobody else watches the endpoint now.
    is_current: Cell<bool>,
}

/// Whose check is due when; a number tells those that are due at the same time apart.
#[derive(Default)]
struct Schedule {
    due: BTreeMap<(Duration, u64), Rc<Watched>>,
    so_far: u64,
}

impl Schedule {
    fn add(&mut self, watched: Rc<Watched>, at: Duration) {
        self.so_far += 1;
        self.due.insert((at, self.so_far), watched);
    }
}

/// Runs on the first shard alone.
pub(super) async fn check_health(context: Rc<Context>) {
    let waker = ring::current_waker().await;
    let timer = context.ring.timer(waker.clone());
    let schedule = Rc::new(RefCell::new(Schedule::default()));
    context.set_health_checker(waker.clone());
    let mut watched: Vec<Rc<Watched>> = Vec::new();
    let mut applied = 0;
    loop {
        if applied != context.plans_applied() {
            applied = context.plans_applied();
            watched = renew(&context, &watched, &mut schedule.borrow_mut());
        }
        let now = context.ring.now();
        while let Some(entry) = schedule.borrow_mut().due.first_entry()
            && entry.key().0 <= now
        {
            let it = entry.remove();
            context.ring.spawn(check(context.clone(), it, schedule.clone(), waker.clone()));
        }
        match schedule.borrow().due.first_key_value() {
            Some(((at, _), _)) => timer.set(*at),
            None => timer.clear(),
        }
        ring::wait().await;
    }
}

/// Who is to be watched now. Those that were keep what is known of them and when they are due.
fn renew(context: &Context, before: &[Rc<Watched>], schedule: &mut Schedule) -> Vec<Rc<Watched>> {
    let mut watched = Vec::new();
    let by_endpoint = |it: &Rc<Watched>| (Rc::as_ptr(&it.endpoint), it.clone());
    let known: std::collections::HashMap<_, _> = before.iter().map(by_endpoint).collect();
    for upstream in context.upstreams.borrow().iter() {
        let rules = upstream.rules().clone();
        let Some(check) = &rules.config.health_check else { continue };
        for endpoint in upstream.endpoints() {
            let same = known.get(&Rc::as_ptr(&endpoint));
            if let Some(same) =
                same.filter(|it| it.rules.config.health_check == Some(check.clone()))
            {
                watched.push(same.clone());
                continue;
            }
            let health = same.map(|it| it.health.borrow().clone()).unwrap_or_default();
            let it = Rc::new(Watched {
                upstream: upstream.clone(),
                endpoint,
                rules: rules.clone(),
                health: RefCell::new(health),
                is_current: Cell::new(true),
            });
            let first = check.interval.mul_f64(context.rng.borrow_mut().unit());
            schedule.add(it.clone(), context.ring.now() + first);
            watched.push(it);
        }
    }
    before.iter().for_each(|it| it.is_current.set(false));
    watched.iter().for_each(|it| it.is_current.set(true));
    schedule.due.retain(|_, it| it.is_current.get());
    watched
}

/// One check of one endpoint, and when its next is due.
async fn check(
    context: Rc<Context>,
    watched: Rc<Watched>,
    schedule: Rc<RefCell<Schedule>>,
    scheduler: Waker,
) {
    let Some(rules) = &watched.rules.config.health_check else { return };
    let waker = ring::current_waker().await;
    let begun = context.ring.now();
    let timer = context.ring.timer(waker.clone());
    timer.set(begun + rules.timeout);
    let is_well = probe(&context.ring, &watched.endpoint, &rules.probe, &timer, &waker).await;
    drop(timer);
    watched.upstream.count(&context, |counts| {
        counts.health_checks += 1;
        counts.health_failures += u64::from(!is_well);
    });
    if watched.is_current.get() {
        conclude(&watched, rules, is_well);
        let vary = 1.0 + JITTER * (2.0 * context.rng.borrow_mut().unit() - 1.0);
        let next = begun + rules.interval.mul_f64(vary);
        schedule.borrow_mut().add(watched, next.max(context.ring.now()));
        context.ring.wake(&scheduler);
    }
}

fn conclude(watched: &Watched, rules: &HealthCheck, is_well: bool) {
    let HealthCheck { unhealthy_after, healthy_after, .. } = *rules;
    let thresholds = Thresholds { unhealthy_after, healthy_after };
    let verdict = watched.health.borrow_mut().observe(is_well, thresholds);
    if let Some(is_healthy) = verdict {
        let (service, endpoint) = (&watched.upstream.name, watched.endpoint.address());
        tracing::info!(service, %endpoint, is_healthy, "health changed");
        watched.upstream.shared.accrual.set_health(&watched.endpoint.state, is_healthy);
    }
}

/// Whether the endpoint is well.
async fn probe(
    ring: &Ring,
    endpoint: &Endpoint,
    probe: &Probe,
    timer: &Timer,
    waker: &Waker,
) -> bool {
    let Ok(mut transport) = endpoint.connect(ring, waker) else { return false };
    while transport.progress().connecting {
        if timer.has_fired() {
            return false;
        }
        ring::wait().await;
    }
    if transport.progress().end != End::Open {
        return false;
    }
    let Probe::Http { path, host, expect } = probe else { return true };
    let host = host.clone().unwrap_or_else(|| match endpoint.address() {
        Address::Ip(address) => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    });
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ringlane-health\r\n\
         Connection: close\r\n\r\n"
    );
    transport.send(Chunk::heap(request.into_bytes()));
    let status = answer(&mut transport, timer).await;
    status.is_some_and(|status| expect.contains(&status))
}

/// The status of the final answer, if one comes in time.
async fn answer(transport: &mut Transport, timer: &Timer) -> Option<u16> {
    let mut parser = ResponseParser::default();
    loop {
        while transport.has_input() {
            let status = transport.with_input(|bytes| {
                let mut storage = FieldStorage::new();
                match parser.parse(bytes, &mut storage, Method::Get) {
                    Ok(None) => (0, Ok(None)),
                    Ok(Some((response, consumed))) => (consumed, Ok(Some(response.status))),
                    Err(reason) => (bytes.len(), Err(reason)),
                }
            });
            match status {
                Ok(Some(100..=199)) => {}
                Ok(Some(status)) => return Some(status),
                Ok(None) if transport.progress().has_piece => {}
                Ok(None) => break,
                Err(_) => return None,
            }
        }
        let is_over = transport.has_ended().is_some() || transport.progress().end != End::Open;
        if is_over || timer.has_fired() {
            return None;
        }
        transport.socket().receive(false);
        ring::wait().await;
    }
}

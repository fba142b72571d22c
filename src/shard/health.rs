//! The health checker: asks endpoints whether they are well, whatever requests say.
//!
//! One for the process, on the first shard. A keeper follows the plans, and each endpoint that is
//! to be watched has a task of its own for as long as that is so: not one for each check, since a
//! task of glommio's that has ended leaves memory behind. A verdict is shared state, which every
//! shard sees at its next pick (`accrual`). First checks are spread over an interval, and the
//! intervals vary a little, so that a service's checks do not come in bursts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Waker;

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

/// An endpoint that is checked from time to time.
struct Watched {
    upstream: Rc<Upstream>,
    endpoint: Rc<Endpoint>,
    rules: Rc<Rules>,
    health: RefCell<Health>,
    /// Nobody else watches the endpoint, and it is to be watched.
    is_current: Cell<bool>,
    /// The task that watches it.
    task: RefCell<Option<Waker>>,
}

impl Watched {
    fn rules(&self) -> Option<&HealthCheck> {
        self.rules.config.health_check.as_ref()
    }
}

/// Runs on the first shard alone.
pub(super) async fn check_health(context: Rc<Context>) {
    context.set_health_checker(ring::current_waker().await);
    let mut watched: Vec<Rc<Watched>> = Vec::new();
    let mut applied = 0;
    loop {
        if applied != context.plans_applied() {
            applied = context.plans_applied();
            watched = renew(&context, &watched);
        }
        ring::wait().await;
    }
}

/// Who is to be watched now. Those that were keep what is known of them and when they are due.
fn renew(context: &Rc<Context>, before: &[Rc<Watched>]) -> Vec<Rc<Watched>> {
    let by_endpoint = |it: &Rc<Watched>| (Rc::as_ptr(&it.endpoint), it.clone());
    let mut known: HashMap<_, _> = before.iter().map(by_endpoint).collect();
    let (mut watched, mut new) = (Vec::new(), Vec::new());
    for upstream in context.upstreams.borrow().iter() {
        let rules = upstream.rules().clone();
        let Some(check) = &rules.config.health_check else { continue };
        for endpoint in upstream.endpoints() {
            let same = known.remove(&Rc::as_ptr(&endpoint));
            if let Some(same) = &same
                && same.rules() == Some(check)
            {
                watched.push(same.clone());
                continue;
            }
            let health = same.as_ref().map(|it| it.health.borrow().clone());
            // Its successor goes on from there.
            same.iter().for_each(|it| end(context, it));
            let it = Rc::new(Watched {
                upstream: upstream.clone(),
                endpoint,
                rules: rules.clone(),
                health: RefCell::new(health.unwrap_or_default()),
                is_current: Cell::new(true),
                task: RefCell::new(None),
            });
            new.push(it.clone());
            watched.push(it);
        }
    }
    for it in known.into_values() {
        end(context, &it);
        // A verdict that came after the plan was made would stay for ever.
        if it.endpoint.state.is_unhealthy.load(Ordering::Relaxed) {
            it.upstream.shared.accrual.set_health(&it.endpoint.state, true);
        }
    }
    for it in new {
        context.ring.spawn(watch(context.clone(), it));
    }
    watched
}

/// The endpoint is not watched any more, or by somebody else.
fn end(context: &Context, watched: &Watched) {
    watched.is_current.set(false);
    if let Some(task) = &*watched.task.borrow() {
        context.ring.wake(task);
    }
}

/// Checks one endpoint for as long as that is wanted.
async fn watch(context: Rc<Context>, watched: Rc<Watched>) {
    let Some(rules) = watched.rules() else { return };
    let waker = ring::current_waker().await;
    *watched.task.borrow_mut() = Some(waker.clone());
    let timer = context.ring.timer(waker.clone());
    let first = rules.interval.mul_f64(context.rng.borrow_mut().unit());
    let mut due = context.ring.now() + first;
    loop {
        timer.set(due);
        while watched.is_current.get() && !timer.has_fired() {
            ring::wait().await;
        }
        if !watched.is_current.get() {
            return;
        }
        let vary = 1.0 + JITTER * (2.0 * context.rng.borrow_mut().unit() - 1.0);
        due = context.ring.now() + rules.interval.mul_f64(vary);
        timer.set(context.ring.now() + rules.timeout);
        let is_well = probe(&context.ring, &watched.endpoint, &rules.probe, &timer, &waker).await;
        watched.upstream.count(&context, |counts| {
            counts.health_checks += 1;
            counts.health_failures += u64::from(!is_well);
        });
        if watched.is_current.get() {
            conclude(&watched, rules, is_well);
        }
        due = due.max(context.ring.now());
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

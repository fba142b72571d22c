//! From ready to drain: what operators, signals and discovery ask for while requests are served.
//!
//! Each change becomes a plan that every shard applies. The next waits until all have: so no shard
//! is ever more than one generation behind, and an operator's answer says that it is done.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use signal_hook::consts::SIGHUP;

use super::control::ControlThread;
use super::listen::{Bound, Listening};
use super::planner::Planner;
use super::{Commands, RunError, restart, send};
use crate::admin;
use crate::config::Config;
use crate::control::{Done, EndpointChange, Event, TracingChange};
use crate::shard::{Command, Listeners, Plan};
use crate::telemetry::feed::Hub;
use crate::telemetry::layout::Occupied;

/// How long a shard may take to apply a plan: it does so between two turns, each of which is over
/// in milliseconds.
const APPLIED_WITHIN: Duration = Duration::from_secs(30);
/// How long a start waits for the first answers of discovery, as Envoy's `initial_fetch_timeout`
/// does, though a proxy on the same machine can be quicker.
const FIRST_DISCOVERY: Duration = Duration::from_secs(5);

/// How long endpoints that are found are gathered before a plan is made of them.
const GATHER: Duration = Duration::from_millis(50);

pub(super) struct Reign<'a> {
    pub(super) inbox: &'a Receiver<Event>,
    pub(super) commands: &'a [Commands],
    pub(super) control: &'a ControlThread,
    pub(super) planner: Planner,
    pub(super) listening: Listening,
    /// `None`: `telemetry: off`.
    pub(super) hub: Option<Hub>,
    pub(super) state: admin::State,
    pub(super) reread: Box<dyn Fn() -> Result<Config, String>>,
    /// What came while something else was being done.
    pub(super) later: VecDeque<Event>,
}

/// What a reload applies, and by shard the listening sockets that are new.
type Prepared = (Arc<Plan>, Vec<Listeners>);

impl Reign<'_> {
    /// Serves until something ends the process.
    pub(super) fn last(&mut self) -> Result<(), RunError> {
        loop {
            let next = match self.later.pop_front() {
                Some(event) => Ok(event),
                None => self.inbox.recv(),
            };
            match next {
                Ok(Event::Signal(SIGHUP)) => self.reload(Box::new(tell_log))?,
                Ok(Event::Reload { done }) => self.reload(done)?,
                Ok(Event::SetEndpoint { change, done }) => self.set_endpoint(&change, done)?,
                Ok(Event::SetTracing { change, done }) => self.set_tracing(&change, done)?,
                Ok(Event::Discovered { service, endpoints }) => {
                    let is_new = self.planner.discovered(service, endpoints);
                    if self.gather_discovered() | is_new {
                        // Why not stands in the log.
                        let _ = self.apply_changes()?;
                    }
                }
                Ok(Event::Signal(_) | Event::Shutdown | Event::Drain) => return Ok(()),
                Ok(Event::ShardReady { .. } | Event::Applied { .. }) => {}
                Ok(Event::ShardDone { shard } | Event::ShardFailed { shard, .. }) => {
                    return Err(RunError(format!("shard {shard} has died")));
                }
                Err(_) => return Err(RunError("every shard has gone".into())),
            }
        }
    }

    /// Waits for the endpoints that are to be discovered before the first request comes.
    pub(super) fn begin(&mut self) -> Result<(), RunError> {
        if self.await_endpoints(&HashSet::new())? { self.apply_changes().map(drop) } else { Ok(()) }
    }

    /// Waits until all services but for those `without` have their endpoints, but not for long: a
    /// name server that is down must not keep other services from being served. Whether some came.
    fn await_endpoints(&mut self, without: &HashSet<String>) -> Result<bool, RunError> {
        let until = Instant::now() + FIRST_DISCOVERY;
        let mut is_new = self.take_discovered();
        while self.planner.undiscovered().difference(without).next().is_some()
            && !self.later.iter().any(ends_reign)
        {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Discovered { service, endpoints }) => {
                    is_new |= self.planner.discovered(service, endpoints);
                }
                Ok(Event::ShardDone { shard } | Event::ShardFailed { shard, .. }) => {
                    return Err(RunError(format!("shard {shard} has died")));
                }
                Ok(other) => self.later.push_back(other),
                Err(_) => break,
            }
        }
        Ok(is_new)
    }

    /// Waits a moment for more of them, since each plan costs every shard something.
    fn gather_discovered(&mut self) -> bool {
        let until = Instant::now() + GATHER;
        let mut is_new = false;
        loop {
            is_new |= self.take_discovered();
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => self.later.push_back(event),
                Err(_) => return is_new,
            }
        }
    }

    /// Notes all endpoints that have been found meanwhile, the latest last.
    fn take_discovered(&mut self) -> bool {
        let mut is_new = false;
        let waiting: Vec<Event> = self.later.drain(..).chain(self.inbox.try_iter()).collect();
        for event in waiting {
            match event {
                Event::Discovered { service, endpoints } => {
                    is_new |= self.planner.discovered(service, endpoints);
                }
                other => self.later.push_back(other),
            }
        }
        is_new
    }

    /// Reads the configuration and takes it over, whole or not at all.
    fn reload(&mut self, done: Done) -> Result<(), RunError> {
        let begun = Instant::now();
        // One for all that came so far: none of them knew another file.
        self.later.extend(self.inbox.try_iter());
        self.later.retain(|event| !matches!(event, Event::Signal(SIGHUP)));
        match self.prepare()? {
            Ok((plan, sockets)) => {
                self.apply(&plan)?;
                self.listening.keep(&plan.config, &plan.servers);
                for (number, (shard, sockets)) in self.commands.iter().zip(sockets).enumerate() {
                    if !sockets.is_empty() {
                        send(number, shard, Command::Listen(sockets))?;
                    }
                }
                let config = &plan.config;
                let text = format!(
                    "reloaded: generation {}, {} routers, {} services, in {} ms",
                    plan.generation,
                    config.routers.len(),
                    config.services.len(),
                    begun.elapsed().as_millis()
                );
                tracing::info!("{text}");
                done(Ok(text));
            }
            Err(why) => {
                tracing::error!("not reloaded, nothing has changed:\n{why}");
                done(Err(format!("not reloaded, nothing has changed:\n{why}")));
            }
        }
        Ok(())
    }

    /// All of a reload that may fail.
    fn prepare(&mut self) -> Result<Result<Prepared, String>, RunError> {
        let bound = (self.reread)().and_then(|config| {
            restart::check(self.planner.config(), &config)?;
            let bound = self.listening.bind(&config).map_err(|why| why.to_string())?;
            Ok((Arc::new(config), bound))
        });
        let (config, Bound { servers, sockets }) = match bound {
            Ok(bound) => bound,
            Err(why) => return Ok(Err(why)),
        };
        let undiscovered = self.planner.undiscovered();
        let before = self.planner.adopt(config.clone(), servers);
        self.control.discover(&config);
        // A service that is new has its endpoints before it is asked for them.
        self.await_endpoints(&undiscovered)?;
        let occupied = self.occupied();
        match self.planner.plan(&occupied) {
            Ok(plan) => {
                self.planner.forget();
                let listeners = self.planner.addresses();
                let tracing = self.planner.tracing();
                self.state.set_current(admin::Current { config, listeners, tracing });
                Ok(Ok((plan, sockets)))
            }
            Err(why) => {
                self.control.discover(&before.config);
                self.planner.go_back(before);
                self.planner.forget();
                Ok(Err(why.to_string()))
            }
        }
    }

    fn set_endpoint(&mut self, change: &EndpointChange, done: Done) -> Result<(), RunError> {
        match self.planner.set_endpoint(change) {
            Ok(services) => match self.apply_changes()? {
                Ok(()) => {
                    let text = format!("{} in {}: done", change.address, services.join(", "));
                    tracing::info!(?change, "{text}");
                    done(Ok(text));
                }
                Err(why) => done(Err(why)),
            },
            Err(why) => done(Err(why)),
        }
        Ok(())
    }

    fn set_tracing(&mut self, change: &TracingChange, done: Done) -> Result<(), RunError> {
        match self.planner.set_tracing(change) {
            Ok(before) => match self.apply_changes()? {
                Ok(()) => {
                    self.state.set_tracing(self.planner.tracing());
                    tracing::info!(?change, "tracing has been set");
                    done(Ok("done".to_owned()));
                }
                Err(why) => {
                    self.planner.unset_tracing(before);
                    done(Err(why));
                }
            },
            Err(why) => done(Err(why)),
        }
        Ok(())
    }

    /// Takes over what is known of endpoints now; or says why they stay as they were.
    fn apply_changes(&mut self) -> Result<Result<(), String>, RunError> {
        let occupied = self.occupied();
        match self.planner.plan(&occupied) {
            Ok(plan) => self.apply(&plan).map(Ok),
            Err(why) => {
                tracing::error!("endpoints stay as they were: {why}");
                Ok(Err(why.to_string()))
            }
        }
    }

    /// Has all shards apply a plan, and waits until they have.
    fn apply(&mut self, plan: &Arc<Plan>) -> Result<(), RunError> {
        if let (Some(hub), Some(layout)) = (&self.hub, &plan.layout) {
            // Before a shard counts by these ids.
            hub.update(|merger| merger.apply(layout.clone(), Instant::now()));
        }
        let mut until = Instant::now() + APPLIED_WITHIN;
        for (number, shard) in self.commands.iter().enumerate() {
            send(number, shard, Command::Apply(plan.clone()))?;
        }
        let mut left = self.commands.len();
        while left > 0 {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Applied { generation, .. }) if generation == plan.generation => left -= 1,
                Ok(Event::ShardDone { shard } | Event::ShardFailed { shard, .. }) => {
                    return Err(RunError(format!("shard {shard} has died")));
                }
                Ok(other) => self.later.push_back(other),
                // A process that was stopped for a while goes on where it was.
                Err(RecvTimeoutError::Timeout) if self.later.iter().any(ends_reign) => break,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!(left, "shards are late to apply a configuration");
                    until = Instant::now() + APPLIED_WITHIN;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(RunError("every shard has gone".into()));
                }
            }
        }
        Ok(())
    }

    fn occupied(&self) -> Occupied {
        self.hub.as_ref().map_or_else(Occupied::default, |hub| hub.read(|state| state.occupied()))
    }
}

/// Whether the process is to drain and end.
fn ends_reign(event: &Event) -> bool {
    match event {
        Event::Signal(signal) => *signal != SIGHUP,
        Event::Shutdown | Event::Drain => true,
        _ => false,
    }
}

/// Who sent a signal reads the log, where it stands already.
fn tell_log(_: Result<String, String>) {}

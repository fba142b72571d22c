//! What the shard is told: configurations, and the plans that a supervisor would make of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{self, Config, Host};
use crate::shard::{Plan, ServerPlan, ServicePlan, Shared, SocketAddresses, Wanted};

/// Timeouts are what the weather makes of them.
const CONFIG: &str = "
runtime: {cores: 1}
telemetry: off
routers:
- label: http
  servers: [{port: 4140}]
  timeouts:
    {head_timeout_ms: HEAD, idle_timeout_ms: IDLE, stall_timeout_ms: HEAD, linger_ms: 500}
  routes:
  - {host: retrying, service: retrying}
  - {host: limited, service: limited}
  - {service: plain}
services:
  plain:
    endpoints: ['127.0.0.1:1001', '127.0.0.1:1002', '127.0.0.1:1003']
    timeouts: {connect_ms: 500, attempt_ms: WHOLE, expect_timeout_ms: 500}
    failure_accrual: {kind: none}
  retrying:
    endpoints: ['127.0.0.1:2001', '127.0.0.1:2002']
    timeouts: {connect_ms: 500, attempt_ms: WHOLE, request_ms: WHOLE}
    failure_accrual: {kind: none}
    retries: {classifier: retryable_read_5xx, backoff: {kind: constant, ms: 20}}
  limited:
    endpoints: ['127.0.0.1:3001']
    balancer: {kind: round_robin}
    pool: {max_idle: 1, idle_ms: 1000}
    timeouts: {connect_ms: 500, attempt_ms: WHOLE}
    failure_accrual: {kind: none}
    limits: {max_concurrent: 2, max_queue: 100, queue_timeout_ms: WHOLE}
";

/// What a reload changes.
const CHANGES: [(&str, &str); 4] = [
    ("'127.0.0.1:1002'", "'127.0.0.1:1004'"),
    ("balancer: {kind: round_robin}", "balancer: {kind: least_loaded}"),
    ("max_concurrent: 2", "max_concurrent: 3"),
    ("backoff: {kind: constant, ms: 20}", "backoff: {kind: none}"),
];

/// Makes plans, as the supervisor does.
pub(super) struct Planner {
    seed: u64,
    is_rough: bool,
    started: Instant,
    services: Vec<Arc<Shared>>,
    generation: u64,
}

impl Planner {
    pub(super) fn new(seed: u64, is_rough: bool) -> Planner {
        Planner { seed, is_rough, started: Instant::now(), services: Vec::new(), generation: 0 }
    }

    /// The next generation: as at the start and with the changes, by turns.
    pub(super) fn plan(&mut self) -> Arc<Plan> {
        let config = self.config();
        self.generation += 1;
        let services = config.services.iter().enumerate();
        let services = services.map(|(at, service)| self.service(at, service)).collect();
        let address = SocketAddr::from(([127, 0, 0, 1], 4140));
        Arc::new(Plan {
            generation: self.generation,
            config: Arc::new(config),
            servers: vec![ServerPlan { number: 1, address }],
            services,
            layout: None,
            tracing: None,
        })
    }

    fn config(&self) -> Config {
        let (head, idle, whole) = match self.is_rough {
            true => ("2000", "5000", "20000"),
            false => ("100000", "100000", "500000"),
        };
        let text = CONFIG.replace("HEAD", head).replace("IDLE", idle).replace("WHOLE", whole);
        let changes = if self.generation % 2 == 1 { &CHANGES[..] } else { &[] };
        let text = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let host = Host::with_cores([0]);
        Config::from_yaml(&text, "the simulation", &host, &[]).expect("a configuration")
    }

    fn service(&mut self, at: usize, service: &config::Service) -> ServicePlan {
        if at == self.services.len() {
            let shared = Shared::new(at as u32 + 1, 1, self.started, self.seed);
            self.services.push(Arc::new(shared));
        }
        let wanted = service.endpoints.iter().map(|it| Wanted {
            address: it.address.clone(),
            weight: it.weight,
            drained: false,
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let addresses = SocketAddresses::of(&wanted).expect("addresses");
        ServicePlan::new(&self.services[at], service, &wanted, addresses)
    }
}

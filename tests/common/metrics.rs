//! What `/admin/metrics.json` says, and the equations that must hold in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Proxy, Wire, eventually};

/// One answer of `/admin/metrics.json`, flat.
#[derive(Clone, Debug)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// With histograms over the last minute.
    pub fn scrape(admin: SocketAddr) -> Metrics {
        Metrics::read(admin, "recent")
    }

    /// With histograms since the start.
    pub fn since_start(admin: SocketAddr) -> Metrics {
        Metrics::read(admin, "total")
    }

    fn read(admin: SocketAddr, window: &str) -> Metrics {
        let answer = Wire::connect(admin).get(&format!("/admin/metrics.json?window={window}"));
        assert_eq!(answer.status(), 200, "{answer:?}");
        Metrics(serde_json::from_slice(&answer.body).expect("numbers by name"))
    }

    /// 0 where there is none: series begin with their first count.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0.0) as u64
    }

    pub fn float(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0.keys()))
    }

    /// Names that begin and end so, without that, and their values.
    pub fn between(&self, begins: &str, ends: &str) -> Vec<(String, u64)> {
        let inner = |name: &String| Some(name.strip_prefix(begins)?.strip_suffix(ends)?.to_owned());
        self.0.iter().filter_map(|(name, value)| Some((inner(name)?, *value as u64))).collect()
    }

    /// What DESIGN section 7 calls conservation, in every scope that there is.
    #[track_caller]
    pub fn check_conservation(&self) {
        self.check_conservation_without_endpoints();
        for (service, attempts) in self.between("rt/http/client/", "/requests") {
            if service.contains('/') {
                continue;
            }
            let endpoints =
                self.between(&format!("rt/http/client/{service}/endpoint/"), "/requests");
            let of_endpoints: u64 = endpoints.iter().map(|(_, count)| count).sum();
            assert_eq!(of_endpoints, attempts, "{service}");
        }
    }

    /// The same where endpoints have gone, and their series with them.
    #[track_caller]
    pub fn check_conservation_without_endpoints(&self) {
        let mut scopes = 0;
        for name in self.0.keys() {
            let Some(scope) = name.strip_suffix("/pending") else { continue };
            let of = |key: &str| self.get(&format!("{scope}/{key}"));
            let ended = of("success") + of("failures");
            assert_eq!(of("requests"), ended + of("pending"), "{scope}: {:#?}", self.scope(scope));
            scopes += 1;
            let reasons = self.between(&format!("{scope}/failures/"), "");
            if !scope.contains("/endpoint/") {
                let reasons: u64 = reasons.iter().map(|(_, count)| count).sum();
                assert_eq!(of("failures"), reasons, "{scope}: {:#?}", self.scope(scope));
            }
        }
        assert!(scopes >= 3, "only {scopes} scopes in {:#?}", self.0.keys());
        for (service, requests) in self.between("rt/http/service/", "/requests") {
            let of = |key: &str| self.get(&format!("rt/http/service/{service}/{key}"));
            let attempts = self.get(&format!("rt/http/client/{service}/requests"));
            let again = of("retries/total") + of("retries/requeues") + of("hedges/total");
            assert_eq!(
                attempts + of("answered_here") + of("waiting"),
                requests + again,
                "{service}: {:#?}",
                self.scope(&format!("rt/http/service/{service}"))
            );
        }
    }

    fn scope(&self, scope: &str) -> BTreeMap<&String, &f64> {
        self.0.iter().filter(|(name, _)| name.starts_with(scope)).collect()
    }
}

impl Proxy {
    pub fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin)
    }

    /// The metrics once they hold what the test waits for.
    #[track_caller]
    pub fn metrics_when(&self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        let mut last = None;
        eventually(what, || holds(last.insert(self.metrics())));
        last.expect("scraped at least once")
    }

    /// The key of a listener's scope.
    pub fn server(&self, number: usize) -> String {
        let address = self.addresses[number];
        format!("rt/http/server/{}/{}", address.ip(), address.port())
    }
}

//! The whole, and how its parts hang together.
//!
//! `runtime`, `admin`, `telemetry`, `routers` and `services` are each the only place that spells
//! the defaults and the ranges of their part.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::cores::Host;
use super::errors::{Path, Report};
use super::leaves::Check;
use super::{
    Admin, Config, ExporterSpec, Router, admin, raw, routers, runtime, services, telemetry,
};

/// 0 is any free port; the line at start names what the kernel picked.
pub(super) const PORTS: std::ops::RangeInclusive<u64> = 0..=65_535;

/// What could be read; valid only if `report` has no issue.
pub(super) fn config(
    root: &raw::Root,
    host: &Host,
    specs: &[&'static ExporterSpec],
    report: &mut Report,
) -> Config {
    let check = &mut Check { host, report };
    let top = Path::default();
    let runtime = runtime::runtime(&root.runtime.0, &top.key("runtime"), check);
    let admin = admin::admin(&root.admin.0, &top.key("admin"), check);
    let telemetry = telemetry::telemetry(&root.telemetry.0, &top.key("telemetry"), specs, check);
    let services = services::services(&root.services, &top.key("services"), check);
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let routers = routers::routers(&root.routers, &names, &top.key("routers"), check);
    listeners_differ(admin.as_ref(), &routers, check);
    Config { runtime, admin, telemetry, routers, services }
}

/// Two listeners that would fight over an address: the same one, or one address and all addresses
/// of its family. IPv6 sockets are opened for IPv6 alone, so 0.0.0.0 and :: get along.
fn listeners_differ(admin: Option<&Admin>, routers: &[Router], check: &mut Check) {
    let mut by_port: HashMap<u16, Vec<(IpAddr, Path)>> = HashMap::new();
    let mut add = |address: SocketAddr, at: Path| {
        if check.report.is_broken(&at.key("ip")) || check.report.is_broken(&at.key("port")) {
            return;
        }
        let taken = by_port.entry(address.port()).or_default();
        let ip = address.ip();
        let clash = taken.iter().find(|(other, _)| {
            let all = ip.is_unspecified() || other.is_unspecified();
            let same = *other == ip || (all && other.is_ipv4() == ip.is_ipv4());
            same && address.port() != 0
        });
        match clash {
            Some((other, first)) => {
                let other = SocketAddr::new(*other, address.port());
                let wrong = format!("duplicate listener ({address}: {first} has {other})");
                let allowed = "an address and port that nothing else here listens on";
                check.report.value(&at, wrong, allowed);
            }
            None => taken.push((ip, at)),
        }
    };
    let top = Path::default();
    if let Some(admin) = admin {
        add(admin.address, top.key("admin"));
    }
    for (i, router) in routers.iter().enumerate() {
        for (j, server) in router.servers.iter().enumerate() {
            add(server.address, top.key("routers").index(i).key("servers").index(j));
        }
    }
}

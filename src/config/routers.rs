//! `routers`: where to listen, what goes to which service, how clients are treated.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::errors::Path;
use super::leaves::Check;
use super::near;
use super::raw::{self, Leaf, List};
use super::validate::PORTS;
use super::{ClientTimeouts, Forwarding, Mode, Route, Router, Server};

const LABEL: &str = "http";
/// Reachable from outside only where the operator says so.
const SERVER_IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Whoever can reach a server that expects it can say that he is anybody.
const PROXY_PROTOCOL: bool = false;
const HEAD_TIMEOUT_MS: u64 = 10_000;
const IDLE_TIMEOUT_MS: u64 = 60_000;
const STALL_TIMEOUT_MS: u64 = 60_000;
const LINGER_MS: u64 = 2_000;
const TUNNEL_TIMEOUT_MS: u64 = 3_600_000;
/// 0: no limit.
const MAX_BODY_BYTES: u64 = 0;
const UPGRADES: [&str; 1] = ["websocket"];
const VIA: &str = "ringlane";
const X_FORWARDED: Mode = Mode::Append;
const FORWARDED: Mode = Mode::Off;

const MODES: [(&str, Mode); 3] =
    [("off", Mode::Off), ("append", Mode::Append), ("overwrite", Mode::Overwrite)];

pub(super) fn routers(
    raw: &List<raw::Router>,
    services: &[&str],
    list: &Path,
    check: &mut Check,
) -> Vec<Router> {
    let raw = raw.as_deref().unwrap_or_default();
    if raw.is_empty() {
        check.missing(list, "a list of at least one router");
    }
    let mut routers: Vec<Router> = Vec::new();
    for (i, raw) in raw.iter().enumerate() {
        let at = list.index(i);
        let router = router(&raw.0, services, &at, check);
        // A label in error reads as the default: it must not be said to clash with others.
        let label_at = at.key("label");
        let sound = |first: usize| !check.report.is_touched(&list.index(first).key("label"));
        let same = |first: &usize| routers[*first].label == router.label && sound(*first);
        if let Some(first) = (0..i).find(same) {
            let wrong = format!("duplicate label ({:?}, as routers[{first}] has)", router.label);
            let allowed = "a label that no other router has (it is \"http\" where none is given)";
            check.report.value(&label_at, wrong, allowed);
        }
        routers.push(router);
    }
    routers
}

fn router(raw: &raw::Router, services: &[&str], at: &Path, check: &mut Check) -> Router {
    let label_at = at.key("label");
    let label = check.text(&label_at, &raw.label, "text").unwrap_or(LABEL);
    check.name(&label_at, label);
    let limit_at = at.key("max_body_bytes");
    let limit = check.number(&limit_at, &raw.max_body_bytes, MAX_BODY_BYTES, 0..=u64::MAX);
    Router {
        label: label.to_owned(),
        servers: servers(&raw.servers, &at.key("servers"), check),
        routes: routes(&raw.routes, services, &at.key("routes"), check),
        timeouts: timeouts(&raw.timeouts.0, &at.key("timeouts"), check),
        max_body_bytes: (limit > 0).then_some(limit),
        upgrades: upgrades(raw.upgrades.as_deref(), &at.key("upgrades"), check),
        forwarding: forwarding(&raw.forwarding.0, &at.key("forwarding"), check),
    }
}

fn servers(raw: &List<raw::Server>, at: &Path, check: &mut Check) -> Vec<Server> {
    let raw = raw.as_deref().unwrap_or_default();
    if raw.is_empty() {
        check.missing(at, "a list of at least one {ip, port}");
    }
    let server = |(i, raw): (usize, &raw::Section<raw::Server>)| {
        let at = at.index(i);
        let ip = check.ip(&at.key("ip"), &raw.0.ip, SERVER_IP);
        if raw.0.port.is_none() {
            check.missing(&at.key("port"), "a whole number from 0 to 65535");
        }
        let port = check.number(&at.key("port"), &raw.0.port, 0, PORTS) as u16;
        let flag_at = at.key("proxy_protocol");
        let proxy_protocol = check.flag(&flag_at, &raw.0.proxy_protocol, PROXY_PROTOCOL);
        Server { address: SocketAddr::new(ip, port), proxy_protocol }
    };
    raw.iter().enumerate().map(server).collect()
}

fn routes(raw: &List<raw::Route>, services: &[&str], at: &Path, check: &mut Check) -> Vec<Route> {
    let raw = raw.as_deref().unwrap_or_default();
    if raw.is_empty() {
        check.missing(at, "a list of at least one route, such as {service: NAME}");
    }
    let mut routes: Vec<Route> = Vec::new();
    for (i, raw) in raw.iter().enumerate() {
        let own = at.index(i);
        let route = Route {
            host: host(&raw.0.host, &own.key("host"), check),
            path_prefix: path_prefix(&raw.0.path_prefix, &own.key("path_prefix"), check),
            service: service(&raw.0.service, services, &own.key("service"), check),
        };
        let hides = |first: &Route| {
            (first.host.is_none() || first.host == route.host)
                && (first.path_prefix.is_none() || first.path_prefix == route.path_prefix)
        };
        // A route in error reads as one without conditions: it must not be said to hide others.
        let sound = |first: usize| !check.report.is_touched(&at.index(first));
        if let Some(first) = (0..i).find(|&first| hides(&routes[first]) && sound(first)) {
            let wrong = format!("never reached: routes[{first}] takes all that this would match");
            check.report.value(&own, wrong, "routes from the most special to the most general");
        }
        routes.push(route);
    }
    routes
}

/// As requests are matched: lower case, without port.
fn host(leaf: &Leaf, at: &Path, check: &mut Check) -> Option<String> {
    const ALLOWED: &str = "a host name or address without port, such as api.example.com or [::1]";
    let text = check.text(at, leaf, ALLOWED)?;
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let literal = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let valid = match literal {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => (1..=255).contains(&text.len()) && text.bytes().all(name),
    };
    if !valid {
        check.report.value(at, format!("not a host ({text:?})"), ALLOWED);
    }
    Some(text.to_ascii_lowercase())
}

/// Requests are matched with dot segments resolved, so a prefix that has some would never match.
fn path_prefix(leaf: &Leaf, at: &Path, check: &mut Check) -> Option<String> {
    const ALLOWED: &str = "a path that begins with /, without query, dot segments or spaces";
    let text = check.text(at, leaf, ALLOWED)?;
    let printable = |byte: u8| (0x21..=0x7e).contains(&byte) && !b"?#".contains(&byte);
    let dots = |segment: &str| segment == "." || segment == "..";
    let valid = text.starts_with('/') && text.bytes().all(printable) && !text.split('/').any(dots);
    if !valid {
        check.report.value(at, format!("not a path ({text:?})"), ALLOWED);
    }
    Some(text.to_owned())
}

fn service(leaf: &Leaf, services: &[&str], at: &Path, check: &mut Check) -> usize {
    // Without a list of services that could be read, no name can be said to be unknown.
    if check.report.is_broken(&Path::default().key("services")) {
        return 0;
    }
    let allowed = services.join(", ");
    if leaf.is_none() {
        check.missing(at, &allowed);
    }
    let Some(name) = check.text(at, leaf, &allowed) else {
        return 0;
    };
    services.iter().position(|service| *service == name).unwrap_or_else(|| {
        let hint = near::hint(name, services);
        check.report.value(at, format!("unknown service ({name:?}{hint})"), allowed);
        0
    })
}

fn timeouts(raw: &raw::RouterTimeouts, at: &Path, check: &mut Check) -> ClientTimeouts {
    let key = |name| at.key(name);
    ClientTimeouts {
        head: check.millis(&key("head_timeout_ms"), &raw.head_timeout_ms, HEAD_TIMEOUT_MS),
        idle: check.millis(&key("idle_timeout_ms"), &raw.idle_timeout_ms, IDLE_TIMEOUT_MS),
        stall: check.millis(&key("stall_timeout_ms"), &raw.stall_timeout_ms, STALL_TIMEOUT_MS),
        linger: check.millis_or_zero(&key("linger_ms"), &raw.linger_ms, LINGER_MS),
        tunnel: check.millis(&key("tunnel_timeout_ms"), &raw.tunnel_timeout_ms, TUNNEL_TIMEOUT_MS),
    }
}

fn upgrades(raw: Option<&[Leaf]>, at: &Path, check: &mut Check) -> Vec<String> {
    const ALLOWED: &str = "a protocol name such as websocket (h2c is never forwarded)";
    let Some(raw) = raw else {
        return UPGRADES.map(str::to_owned).to_vec();
    };
    let mut upgrades: Vec<String> = Vec::new();
    for (i, leaf) in raw.iter().enumerate() {
        let at = at.index(i);
        if leaf.is_none() {
            check.missing(&at, ALLOWED);
        }
        let Some(text) = check.text(&at, leaf, ALLOWED) else {
            continue;
        };
        let lower = text.to_ascii_lowercase();
        // Upgrade holds protocol-name ["/" protocol-version] (RFC 9110 7.8).
        let is_protocol = text.splitn(2, '/').all(is_token);
        if !is_protocol || lower == "h2c" {
            check.report.value(&at, format!("not a protocol to forward ({text:?})"), ALLOWED);
        } else if !upgrades.contains(&lower) {
            upgrades.push(lower);
        }
    }
    upgrades
}

fn forwarding(raw: &raw::Forwarding, at: &Path, check: &mut Check) -> Forwarding {
    Forwarding {
        via: via(&raw.via, &at.key("via"), check),
        x_forwarded: check.word(&at.key("x_forwarded"), &raw.x_forwarded, X_FORWARDED, &MODES),
        forwarded: check.word(&at.key("forwarded"), &raw.forwarded, FORWARDED, &MODES),
    }
}

fn via(leaf: &Leaf, at: &Path, check: &mut Check) -> Option<String> {
    const ALLOWED: &str = "a pseudonym of letters and digits, or off";
    let text = check.text(at, leaf, ALLOWED).unwrap_or(VIA);
    if !is_token(text) {
        check.report.value(at, format!("not a pseudonym ({text:?})"), ALLOWED);
    }
    (text != "off").then(|| text.to_owned())
}

/// `token` of RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

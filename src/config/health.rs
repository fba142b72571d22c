//! `health_check` of a service: how its endpoints are asked whether they are well.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml::Value;

use super::errors::Path;
use super::leaves::{Check, MAX_MS};
use super::of_kind::OfKind;
use super::raw;
use super::secrets::without_query;

const INTERVAL_MS: u64 = 5_000;
const TIMEOUT_MS: u64 = 1_000;
const UNHEALTHY_AFTER: u64 = 3;
const HEALTHY_AFTER: u64 = 2;
const IN_A_ROW_MAX: u64 = 1_000;
const REQUEST_PATH: &str = "/";
/// What is no error and no interim answer.
const EXPECT: RangeInclusive<u16> = 200..=399;
const STATUSES: RangeInclusive<u16> = 100..=599;

const PATHS: &str = "a path that begins with /, without spaces, controls and #";
const HOSTS: &str = "a host name or an address, with a port or without; null for the endpoint's";
const EXPECTED: &str = "a status from 100 to 599, or two with a hyphen between, such as 200-399";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    /// Between two checks of an endpoint.
    pub interval: Duration,
    /// For each check.
    pub timeout: Duration,
    /// So many failures in a row make an endpoint unhealthy; at least 1.
    pub unhealthy_after: u32,
    /// So many successes in a row make it healthy again; at least 1.
    pub healthy_after: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Connects, and no more.
    Tcp,
    /// Sends a GET and looks at the status.
    Http {
        /// Begins with `/`; may have a query.
        path: String,
        /// What `Host` says. `None`: the endpoint's address.
        host: Option<String>,
        /// What is a success; both ends from 100 to 599, and it is not empty.
        expect: RangeInclusive<u16>,
    },
}

impl Probe {
    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Probe::Tcp => TCP,
            Probe::Http { .. } => HTTP,
        }
    }
}

const NONE: &str = "none";
const TCP: &str = "tcp";
const HTTP: &str = "http";

/// `None`: endpoints are not checked.
pub(super) fn health_check(
    raw: &raw::HealthCheck,
    at: &Path,
    check: &mut Check,
) -> Option<HealthCheck> {
    let kinds = [NONE, TCP, HTTP].map(|kind| (kind, kind));
    let kind = check.word(&at.key("kind"), &raw.kind, NONE, &kinds);
    let of = OfKind { at, key: "kind", kind };
    let mut number =
        |name, leaf, default, most| of.number(check, &[TCP, HTTP], (name, leaf), default, 1..=most);
    let interval_ms = number("interval_ms", &raw.interval_ms, INTERVAL_MS, MAX_MS);
    let timeout_ms = number("timeout_ms", &raw.timeout_ms, TIMEOUT_MS, MAX_MS);
    let unhealthy_after =
        number("unhealthy_after", &raw.unhealthy_after, UNHEALTHY_AFTER, IN_A_ROW_MAX);
    let healthy_after = number("healthy_after", &raw.healthy_after, HEALTHY_AFTER, IN_A_ROW_MAX);
    for key in [("path", &raw.path), ("host", &raw.host), ("expect", &raw.expect)] {
        of.has(check, &[HTTP], key);
    }
    let probe = match kind {
        TCP => Probe::Tcp,
        HTTP => Probe::Http {
            path: path(raw, &at.key("path"), check),
            host: host(raw, &at.key("host"), check),
            expect: expect(raw, &at.key("expect"), check),
        },
        _ => return None,
    };
    Some(HealthCheck {
        probe,
        interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(timeout_ms),
        unhealthy_after: unhealthy_after as u32,
        healthy_after: healthy_after as u32,
    })
}

fn path(raw: &raw::HealthCheck, at: &Path, check: &mut Check) -> String {
    let path = check.text(at, &raw.path, PATHS).unwrap_or(REQUEST_PATH);
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !path.starts_with('/') || !path.bytes().all(plain) {
        check.report.value(at, format!("not a path ({:?})", without_query(path)), PATHS);
    }
    path.to_owned()
}

fn host(raw: &raw::HealthCheck, at: &Path, check: &mut Check) -> Option<String> {
    let host = check.text(at, &raw.host, HOSTS)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        check.report.value(at, format!("not a host ({host:?})"), HOSTS);
    }
    Some(host.to_owned())
}

/// One status, as a number or as text, or a range of them.
fn expect(raw: &raw::HealthCheck, at: &Path, check: &mut Check) -> RangeInclusive<u16> {
    let Some(value) = &raw.expect else {
        return EXPECT;
    };
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => {
            check.refuse(at, "wrong type", value, EXPECTED);
            return EXPECT;
        }
    };
    let (least, most) = text.split_once('-').unwrap_or((&text, &text));
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|status| digits && STATUSES.contains(status))
    };
    match (status(least), status(most)) {
        (Some(least), Some(most)) if least <= most => least..=most,
        _ => {
            check.refuse(at, "no range of statuses", value, EXPECTED);
            EXPECT
        }
    }
}

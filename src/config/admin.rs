//! `admin`: where the operator's interface is, and who may use what of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::errors::Path;
use super::leaves::Check;
use super::raw::{self, Leaf};
use super::validate::PORTS;
use super::{Admin, PathPattern};

const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PORT: u64 = 9990;
/// Shorter ones can be guessed.
const LEAST_TOKEN_BYTES: usize = 16;

/// `None`: `admin: off`.
pub(super) fn admin(raw: &raw::Admin, at: &Path, check: &mut Check) -> Option<Admin> {
    if check.is_off(raw.word.as_deref(), at) {
        return None;
    }
    let ip = check.ip(&at.key("ip"), &raw.ip, IP);
    let port = check.number(&at.key("port"), &raw.port, PORT, PORTS) as u16;
    let categories = at.key("categories");
    let mut flag = |name, leaf| check.flag(&categories.key(name), leaf, true);
    let raw_categories = &raw.categories.0;
    Some(Admin {
        address: SocketAddr::new(ip, port),
        ui: flag("ui", &raw_categories.ui),
        control: flag("control", &raw_categories.control),
        diagnostics: flag("diagnostics", &raw_categories.diagnostics),
        token: token(&raw.token, &at.key("token"), check),
        hosts: hosts(raw.hosts.as_deref(), &at.key("hosts"), check),
        allow: patterns(raw.allow.as_deref(), &at.key("allow"), check),
        deny: patterns(raw.deny.as_deref(), &at.key("deny"), check).unwrap_or_default(),
    })
}

fn token(leaf: &Leaf, at: &Path, check: &mut Check) -> Option<String> {
    const ALLOWED: &str = "16 to 512 letters, digits and other visible ASCII characters";
    // Never with the value, of whatever type: errors end up in logs.
    let Some(text) = leaf.as_ref()?.as_str() else {
        check.report.value(at, "wrong type".to_owned(), format!("{ALLOWED}, in quotes"));
        return None;
    };
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible || !(LEAST_TOKEN_BYTES..=512).contains(&text.len()) {
        check.report.value(at, "no token".to_owned(), ALLOWED);
    }
    Some(text.to_owned())
}

/// Names by which browsers may ask. Not patterns: whoever owns a name below one could point it
/// here.
fn hosts(raw: Option<&[Leaf]>, at: &Path, check: &mut Check) -> Vec<String> {
    const ALLOWED: &str = "names without a port, such as proxy1.example.com";
    let names = raw.unwrap_or_default().iter().enumerate().filter_map(|(i, leaf)| {
        let at = at.index(i);
        if leaf.is_none() {
            check.missing(&at, ALLOWED);
        }
        let text = check.text(&at, leaf, ALLOWED)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=253).contains(&text.len()) || !text.bytes().all(plain) {
            check.report.value(&at, format!("not a name ({text:?})"), ALLOWED);
        }
        Some(text.trim_end_matches('.').to_ascii_lowercase())
    });
    names.collect()
}

fn patterns(raw: Option<&[Leaf]>, at: &Path, check: &mut Check) -> Option<Vec<PathPattern>> {
    const ALLOWED: &str = "a path such as /admin/ping, or its beginning and * (/admin/metrics*)";
    let patterns = raw?.iter().enumerate().filter_map(|(i, leaf)| {
        let at = at.index(i);
        if leaf.is_none() {
            check.missing(&at, ALLOWED);
        }
        let text = check.text(&at, leaf, ALLOWED)?;
        let pattern = PathPattern::new(text);
        if pattern.is_none() {
            check.report.value(&at, format!("no path ({text:?})"), ALLOWED);
        }
        pattern
    });
    Some(patterns.collect())
}

//! Which keys a running process cannot take over: what threads, rings and the admin listener were
//! made of. A reload that changes one is refused, and names it.

use crate::config::{Config, Difference};

/// Below these, nothing can change.
const FIXED: [&str; 3] = ["runtime", "admin", "telemetry"];
/// But for these.
const LOOSE: [&str; 2] = ["runtime.drain_ms", "runtime.drain_grace_ms"];

/// Refuses a configuration that needs a restart, with a line for each key that does.
pub(super) fn check(before: &Config, after: &Config) -> Result<(), String> {
    let is_fixed = |path: &str| {
        let within = |top: &str| path == top || path.starts_with(&format!("{top}."));
        FIXED.iter().any(|top| within(top)) && !LOOSE.contains(&path)
    };
    let differences = before.differences(after).into_iter().filter(|it| is_fixed(&it.path));
    let lines: Vec<String> = differences
        .map(|Difference { path, before, after }| {
            format!("{path}: needs a restart (it is {before}, and would be {after})")
        })
        .collect();
    if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    fn config(top: &str, services: &str) -> Config {
        let text = format!(
            "{top}\nrouters: [{{servers: [{{port: 4140}}], routes: [{{service: web}}]}}]\n\
             services: {{web: {{{services}}}}}\n"
        );
        Config::from_yaml(&text, "test", &Host::with_cores(0..4), &[])
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn routers_services_and_drains_may_change_and_nothing_else() {
        let before = config("runtime: {cores: \"0\"}", "endpoints: [\"127.0.0.1:80\"]");
        let services = "endpoints: [\"127.0.0.1:81\"], balancer: {kind: round_robin}";
        let after = config("runtime: {cores: \"0\", drain_ms: 5, drain_grace_ms: 7}", services);
        assert_eq!(check(&before, &after), Ok(()));
        let after = config(
            "runtime: {cores: \"0\", shard: {spin_us: 3}}\n\
             admin: {token: 0123456789abcdefghij}\ntelemetry: off",
            services,
        );
        let refused = check(&before, &after).expect_err("three keys need a restart");
        let lines: Vec<&str> = refused.lines().collect();
        assert_eq!(lines.len(), 3, "{refused}");
        assert!(lines[0].starts_with("runtime.shard.spin_us: needs a restart (it is 0,"));
        assert!(lines[1].starts_with("admin.token: needs a restart"), "{refused}");
        assert!(!refused.contains("abcdef"), "secrets are not told: {refused}");
        assert!(lines[2].starts_with("telemetry: needs a restart"), "{refused}");
    }
}

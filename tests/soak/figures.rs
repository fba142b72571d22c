//! What the process holds, at one moment, and what of it is more than it was.

use super::common::{Metrics, Proxy, Wire};

/// Sums over all shards, services and routers.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) values: Vec<(&'static str, u64)>,
    /// Names and labels on Prometheus's page.
    pub(crate) series: Vec<String>,
}

/// What may be more at the end than it was, and why.
const SLACK: [(&str, u64); 3] = [
    // Pages that the allocator keeps, and the kernel's own moods.
    ("resident KiB", 16 << 10),
    // Tables that grow by doubling and come never back, buffers kept for the next of their kind.
    ("heap KiB", 1 << 10),
    // Linux keeps one with each ring that has ever needed it (`io_wq_worker`), and a shard has ours
    // and three of glommio's.
    ("kernel's threads", 4 * 4),
];

impl Figures {
    pub(crate) fn of(proxy: &Proxy) -> Figures {
        let metrics = Metrics::scrape(proxy.admin);
        let series = series(proxy);
        let (own_threads, kernels_threads) = proxy.threads();
        let sum = |begins: &str, ends: &str| -> u64 {
            metrics.between(begins, ends).iter().map(|(_, value)| value).sum()
        };
        let values = vec![
            ("resident KiB", proxy.memory().resident),
            ("heap KiB", metrics.get("heap/allocated") >> 10),
            ("descriptors", proxy.descriptors() as u64),
            ("threads", own_threads as u64),
            ("kernel's threads", kernels_threads as u64),
            ("ring slots", sum("shard/", "/slots")),
            ("buffers in use", sum("shard/", "/buffers_in_use")),
            ("buffered bytes", sum("shard/", "/buffered_bytes")),
            ("connections", sum("shard/", "/connections")),
            ("pending", sum("rt/", "/pending") + sum("rt/", "/waiting")),
            ("tunnels", sum("rt/", "/tunnels")),
            ("pooled", sum("rt/", "/pool_size")),
            ("waiters", sum("rt/", "/pool_waiters")),
            ("load", sum("rt/", "/load")),
            ("series", series.len() as u64),
        ];
        Figures { values, series }
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        let value = self.values.iter().find(|(it, _)| *it == name);
        value.unwrap_or_else(|| panic!("no figure {name}")).1
    }

    /// Nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        let busy = ["connections", "pending", "tunnels", "pooled", "waiters", "load"];
        let busy = busy.into_iter().chain(["buffers in use", "buffered bytes"]);
        busy.map(|name| self.get(name)).sum::<u64>() == 0
    }

    /// What is more than `base` has, beyond its slack.
    pub(crate) fn grown(&self, base: &Figures) -> Vec<String> {
        let beyond = |(name, value): &(&'static str, u64)| {
            let slack = SLACK.iter().find(|(it, _)| it == name).map_or(0, |it| it.1);
            let most = base.get(name) + slack;
            (*value > most).then(|| format!("{name}: {value}, and {} before", base.get(name)))
        };
        let grown = self.values.iter().filter(|(name, _)| *name != "series").filter_map(beyond);
        // A reason or a status may be met for the first time after an hour; there are so many of
        // them and no more.
        let is_new = |it: &&String| !base.series.contains(it);
        let is_bounded = |it: &&String| it.contains("reason=\"") || it.contains("code=\"");
        let new = self.series.iter().filter(is_new).filter(|it| !is_bounded(it));
        grown.chain(new.map(|name| format!("a series that was not there: {name}"))).collect()
    }
}

fn series(proxy: &Proxy) -> Vec<String> {
    let text = Wire::connect(proxy.admin).get("/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.rsplit_once(' ').map(|(name, _)| name.to_owned());
    lines.filter_map(name).collect()
}

//! What a process has open after its runs. Alone in its program: others would open sockets too.

mod common;

use std::fs;
use std::time::Duration;

use common::{constant, origins, plan, wait_until};
use ringlane_loadtest::engine::{self, Stop};

/// One run after the other in one process: none leaves connections open behind it.
#[test]
fn a_run_closes_what_it_opened() {
    let origins = origins(&[""]);
    let plan = plan(origins.addresses(), constant(500.0), Duration::from_millis(200));
    let own_sockets = || {
        let links = fs::read_dir("/proc/self/fd")
            .expect("open files")
            .flatten()
            .filter_map(|at| fs::read_link(at.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    };
    let before = own_sockets();
    for _ in 0..3 {
        engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    }
    // The origin, in this process too, closes its ends when it sees ours closed.
    wait_until(|| own_sockets() <= before);
}

//! A ring on the calling thread, for one task and those that it starts: what a tool needs, where a
//! shard has more to set up.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;

use glommio::LocalExecutorBuilder;

use super::{Ring, Settings};

/// glommio's own rings carry nothing here, but registering their memory counts against what a
/// process may lock (facts/glommio.md).
const GLOMMIO_IO_BYTES: usize = 64 << 10;
const GLOMMIO_RING_DEPTH: usize = 8;

/// Why a task has no result.
#[derive(Debug)]
pub enum RunError {
    Executor(String),
    Ring(io::Error),
    /// What it said has gone to stderr.
    Panicked,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Executor(why) => write!(f, "cannot start an executor: {why}"),
            RunError::Ring(error) => write!(f, "cannot make a ring: {error}"),
            RunError::Panicked => write!(f, "a task panicked"),
        }
    }
}

impl std::error::Error for RunError {}

/// Ends the driver when the task does, be it by a panic.
struct StopWhenDropped(Ring);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs `task` on a ring of its own and the driver beside it, and returns when the task has. Blocks
/// the calling thread, on which all of it happens. Tasks that it started have to have ended by
/// then: one that still waits stays where it is, and what it owns with it.
pub fn run<F, T>(settings: &Settings, task: impl FnOnce(Ring) -> F) -> Result<T, RunError>
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let executor = LocalExecutorBuilder::default()
        .io_memory(GLOMMIO_IO_BYTES)
        .ring_depth(GLOMMIO_RING_DEPTH)
        .make()
        .map_err(|error| RunError::Executor(error.to_string()))?;
    executor.run(async {
        let ring = Ring::new(settings).map_err(RunError::Ring)?;
        let result = Rc::new(RefCell::new(None));
        let (stop, returned) = (StopWhenDropped(ring.clone()), result.clone());
        let task = task(ring.clone());
        ring.spawn(async move {
            let _stop = stop;
            let value = task.await;
            *returned.borrow_mut() = Some(value);
        });
        ring.drive(settings).await;
        result.borrow_mut().take().ok_or(RunError::Panicked)
    })
}

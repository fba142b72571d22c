//! Memory that a proxy needs for connections that have carried a request and then rest.
//!
//! Measured before any load, so that nothing it grew by then is used again.

use std::thread;
use std::time::{Duration, Instant};

use super::turns::Lane;
use super::{CompareError, probe, usage};
use crate::engine::Stop;

/// Connections are made in so many steps, after each of which memory is read.
const STEPS: usize = 4;
/// Requests before, so that what a proxy needs once is there.
const WARM_REQUESTS: usize = 200;
/// For what a proxy does only when it has nothing to do, such as giving back buffers.
const SETTLES: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(50);

/// By how much a proxy's memory (Pss) had grown at so many connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// Connections, and bytes more than without them.
    pub steps: Vec<(usize, f64)>,
}

impl Idle {
    /// From the first step to the last: what a proxy takes in one go, and would not take again for
    /// more connections, has been taken by the first.
    pub fn bytes_per_connection(&self) -> Option<f64> {
        match self.steps.as_slice() {
            [] => None,
            [(connections, bytes)] => Some(bytes / *connections as f64),
            [(few, bytes_of_few), .., (all, bytes_of_all)] => {
                Some((bytes_of_all - bytes_of_few) / (all - few) as f64)
            }
        }
    }
}

pub fn measure(lane: &Lane, connections: usize, stop: &Stop) -> Result<Idle, CompareError> {
    let wrong = |why| CompareError::Answer { name: lane.name.clone(), why };
    let pss = || usage::pss_bytes(lane.pid).map_err(|error| lane.usage(error));
    // The smallest bodies: it is the connection that is measured.
    let site = lane.sites[0];
    let connect = || {
        let mut client = probe::connect(site.listen)?;
        probe::ask(&mut client, site.body_bytes, |_| {})?;
        Ok(client)
    };
    let mut first = connect().map_err(wrong)?;
    for _ in 0..WARM_REQUESTS {
        probe::ask(&mut first, site.body_bytes, |_| {}).map_err(wrong)?;
    }
    settle(stop)?;
    let before = pss()?;
    let (mut held, mut steps) = (Vec::with_capacity(connections), Vec::new());
    for step in 1..=STEPS.min(connections) {
        let until = connections * step / STEPS.min(connections);
        while held.len() < until {
            held.push(connect().map_err(wrong)?);
        }
        settle(stop)?;
        steps.push((until, pss()? as f64 - before as f64));
    }
    Ok(Idle { steps })
}

fn settle(stop: &Stop) -> Result<(), CompareError> {
    let until = Instant::now() + SETTLES;
    while Instant::now() < until {
        if stop.is_asked() {
            return Err(CompareError::Stopped);
        }
        thread::sleep(EVERY);
    }
    Ok(())
}

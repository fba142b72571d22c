//! What the benchmarks share: the inputs, which those of time and those of instructions have in
//! common, and the bounds that times are held against.

// Each benchmark is a crate of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod balancers;
pub mod bounds;
pub mod heads;
pub mod recorders;

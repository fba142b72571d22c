//! Ringlane's pure modules under its own name, from its own files, and nothing else of it: with a
//! sanitizer in all that an executor, TLS and exporters bring along, a build would take half an
//! hour of a core, for code that no target can reach.
//!
//! Whatever a module comes to import has to be here too, or the targets do not build.

#[path = "../../../src/config/mod.rs"]
pub mod config;
#[path = "../../../src/http/mod.rs"]
pub mod http;
#[path = "../../../src/http1/mod.rs"]
pub mod http1;
pub mod telemetry;

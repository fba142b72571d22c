//! statsd stub.

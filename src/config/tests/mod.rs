//! Configurations as an operator writes them: `wrong` ones and what is said of them, what `right`
//! ones mean, and where the `members` of a service come from.

mod members;
mod right;
mod wrong;

use super::{Config, Host};

const GOOD: &str = "\
routers:
- servers: [{port: 4140}]
  routes: [{service: web}]
services:
  web: {endpoints: ['127.0.0.1:8080']}
";

fn read(text: &str) -> Result<Config, String> {
    let host = Host::with_cores(0..4);
    Config::from_yaml(text, "ringlane.yaml", &host, &[]).map_err(|errors| errors.to_string())
}

fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|errors| panic!("{errors}\nof:\n{text}"))
}

/// The lines that an operator sees.
fn bad(text: &str) -> Vec<String> {
    let errors = read(text).expect_err(text);
    errors.lines().map(str::to_owned).collect()
}

/// `GOOD` with one part replaced.
fn with(part: &str, other: &str) -> String {
    assert!(GOOD.contains(part), "{part}");
    GOOD.replacen(part, other, 1)
}

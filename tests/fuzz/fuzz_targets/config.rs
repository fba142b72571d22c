//! Configurations: any text is one, or is said to be wrong, line by line; and what is shown of one
//! can be read again and is the same.
//!
//! Input: YAML.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlane::config::{Config, ExporterKey, ExporterSpec, Host, Shape};

/// Exporters with keys of every shape.
static SPECS: [ExporterSpec; 2] = [
    ExporterSpec {
        kind: "spans",
        keys: &[
            ExporterKey { name: "sample_rate", shape: Shape::Share { default: 0.5 } },
            ExporterKey { name: "dialect", shape: Shape::Word(&["etsy", "dogstatsd"]) },
            ExporterKey { name: "endpoint", shape: Shape::Text { default: None, allowed: "one" } },
        ],
        by_default: false,
    },
    ExporterSpec {
        kind: "recent",
        keys: &[
            ExporterKey {
                name: "capacity",
                shape: Shape::Number { default: 5, least: 1, most: 100 },
            },
            ExporterKey {
                name: "name",
                shape: Shape::Text { default: Some("it"), allowed: "any" },
            },
        ],
        by_default: true,
    },
];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let host = Host::with_cores(0..4);
    let specs: Vec<&'static ExporterSpec> = SPECS.iter().collect();
    let config = match Config::from_yaml(text, "input", &host, &specs) {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.issues().is_empty());
            assert!(!errors.to_string().is_empty());
            return;
        }
    };
    let shown = config.to_value();
    let text = serde_yaml::to_string(&shown).expect("what is shown is YAML");
    let again = Config::from_yaml(&text, "shown", &host, &specs)
        .unwrap_or_else(|errors| panic!("{errors}\nof what is shown:\n{text}"));
    assert_eq!(again.to_value(), shown);
    // Only secrets differ, and those are not told.
    assert!(config.differences(&again).iter().all(|it| it.before == it.after));
});

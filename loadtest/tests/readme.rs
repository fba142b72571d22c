//! Holds what the README says of the load tester to its own help.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const NAME: &str = "ringlane-loadtest";
const COMMANDS: [&str; 5] = ["run", "sweep", "capacity", "origin", "compare"];

fn help(command: &str) -> String {
    let mut asked = Command::new(env!("CARGO_BIN_EXE_ringlane-loadtest"));
    let helped = asked.args([command, "--help"]).output().expect("run");
    assert!(helped.status.success(), "{command} --help");
    String::from_utf8(helped.stdout).expect("text")
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    fs::read_to_string(path).expect("README.md")
}

fn options(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    words.filter(|word| word.starts_with("--") && word.len() > 3)
}

/// Lines that end in a backslash go on.
#[test]
fn its_commands_have_the_options_that_are_shown() {
    let readme = readme().replace("\\\n", " ");
    let mut seen = BTreeSet::new();
    let lines = readme.lines().filter(|line| !line.contains('`'));
    for line in lines {
        let Some((_, arguments)) = line.split_once(&format!("{NAME} ")) else { continue };
        let command = arguments.split_whitespace().next().expect("a command");
        assert!(COMMANDS.contains(&command), "{line}");
        let help = help(command);
        for option in options(arguments) {
            assert!(
                help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
                "{option} of `{line}` is not in\n{help}"
            );
        }
        seen.insert(command.to_owned());
    }
    assert_eq!(seen.len(), COMMANDS.len(), "only {seen:?} are shown");
}

#[test]
fn options_in_its_text_are_there() {
    let readme = readme();
    let (_, section) = readme.split_once("### The load tester\n").expect("its section");
    let (section, _) = section.split_once("\n### ").expect("a section after it");
    let all: String = COMMANDS.iter().map(|command| help(command)).collect();
    let codes = section.split('`').skip(1).step_by(2);
    let mut seen = 0;
    for option in codes.flat_map(options).filter(|option| *option != "--release") {
        seen += 1;
        assert!(all.contains(&format!("{option} ")), "{option} is in no help");
    }
    assert!(seen > 3, "only {seen} options were found: the reader of this test is broken");
}

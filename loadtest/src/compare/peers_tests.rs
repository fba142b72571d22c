//! Who is found, and whether those that are installed take their configurations.

use ringlane::config::{Config, Host};

use super::*;

fn sites() -> Vec<Site> {
    let address = |port: u16| ([127, 0, 0, 1], port).into();
    let site = |size, ports: [u16; 3]| Site {
        body_bytes: size,
        listen: address(ports[0]),
        origins: ports[1..].iter().map(|port| address(*port)).collect(),
    };
    vec![site(128, [18_080, 18_001, 18_002]), site(1 << 20, [18_081, 18_003, 18_004])]
}

#[test]
fn proxies_as_operators_write_them() {
    let found: Candidate = "new=/a/ringlane --x {config}".parse().expect("right");
    assert_eq!((found.name.as_str(), found.peer), ("new", None));
    assert_eq!(found.command, ["/a/ringlane", "--x", "{config}"]);
    let mut wrong = vec!["", "new", "=a {config}", "new=/a/ringlane", "a/b=a {config}"];
    wrong.push("a b=a {config}");
    for text in wrong {
        let parsed = text.parse::<Candidate>();
        assert!(parsed.is_err_and(|why| why.contains("allowed: ")), "{text}");
    }
    assert_eq!("nginx".parse(), Ok(Peer::Nginx));
    assert!("apache".parse::<Peer>().is_err_and(|why| why.contains("allowed: ")));
}

#[test]
fn a_configuration_is_written_and_named_in_the_command() {
    let folder = env::temp_dir().join(format!("peers-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let candidates = Peer::ALL.map(|peer| peer.candidate(Path::new("/x/y")));
    let ours = Candidate::ringlane("ringlane", Path::new("/x/y"));
    for candidate in candidates.into_iter().chain([ours]) {
        let command = candidate.configure(&sites(), 3, &folder).expect("written");
        let path = command.last().expect("it ends with the path");
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for port in 18_001..=18_004 {
            assert!(text.contains(&port.to_string()), "{path} without {port}");
        }
    }
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn ringlane_takes_its_configuration() {
    let text = configs::ringlane(&sites(), 3);
    let config = Config::from_yaml(&text, "test", &Host::with_cores(0..4), &[]);
    config.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
}

/// Needs haproxy and nginx (HAPROXY, NGINX or PATH); Envoy, of which there is no package, is held
/// to its configuration where it is.
#[test]
#[ignore = "needs haproxy and nginx"]
fn peers_take_their_configurations() {
    let folder = env::temp_dir().join(format!("accepted-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    for peer in Peer::ALL {
        let Some(program) = peer.find() else {
            assert_eq!(peer, Peer::Envoy, "{} is not installed", peer.name());
            continue;
        };
        let mut candidate = peer.candidate(&program);
        assert!(candidate.version().contains(char::is_numeric), "{}", candidate.version());
        candidate.command = peer.check(&program);
        let command = candidate.configure(&sites(), 0, &folder).expect("written");
        let said = Command::new(&command[0]).args(&command[1..]).output().expect("it runs");
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(said.status.success(), "{command:?}: {text}");
        assert!(!text.to_lowercase().contains("warning"), "{command:?}: {text}");
    }
    fs::remove_dir_all(folder).expect("removed");
}

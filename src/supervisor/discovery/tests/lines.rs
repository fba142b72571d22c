//! What endpoint files may say, and what is said of those that are refused.

use super::super::lines::parse;
use super::written;

fn read(text: &str) -> Result<Vec<String>, String> {
    let read = parse(text.as_bytes());
    read.map(|it| written(&it)).map_err(|refusal| refusal.to_string())
}

#[test]
fn every_form_of_an_endpoint() {
    let text = "\
# web, since 2024
127.0.0.1:8080

  127.0.0.1:8081 3\t# the big one
127.0.0.1 8082
::1 8083
[::1]:80\r
unix:/run/web#1.sock 1000
#127.0.0.1:9
";
    assert_eq!(
        read(text).unwrap(),
        [
            "127.0.0.1:8080",
            "127.0.0.1:8081*3",
            "127.0.0.1:8082",
            "[::1]:8083",
            "[::1]:80",
            "unix:/run/web#1.sock*1000",
        ]
    );
}

#[test]
fn what_is_wrong_names_the_line() {
    for (text, error) in [
        ("localhost:80\n", "line 1: bad address (\"localhost:80\"); allowed: an IP address with"),
        ("127.0.0.1:80\n\n127.0.0.1:0\n", "line 3: bad address (\"127.0.0.1:0\")"),
        ("127.0.0.1\n", "line 1: bad address (\"127.0.0.1\")"),
        ("unix:run\n", "line 1: bad address"),
        ("127.0.0.1:80 0\n", "line 1: bad weight (\"0\"); allowed: a whole number from 1 to 1000"),
        ("127.0.0.1:80 1001\n", "line 1: bad weight (\"1001\")"),
        ("127.0.0.1:80 +5\n", "line 1: bad weight (\"+5\")"),
        ("127.0.0.1:80 1.5\n", "line 1: bad weight"),
        ("127.0.0.1 0\n", "line 1: bad port (\"0\"); allowed: a whole number from 1 to 65535"),
        ("127.0.0.1 65536\n", "line 1: bad port"),
        ("127.0.0.1:80 3 4\n", "line 1: \"4\" is one word too many"),
        ("127.0.0.1:80\n#\n127.0.0.1 80\n", "line 3: 127.0.0.1:80 stands on line 1 already"),
        ("127.0.0.1:80\n127.0.0.1:8", "line 2: the last line does not end in a newline"),
        ("127.0.0.1:80\n# half a comm", "line 2: the last line does not end in a newline"),
        ("", "no endpoint in it"),
        ("\n# nobody\n", "no endpoint in it"),
    ] {
        let refusal = read(text).expect_err(text);
        assert!(refusal.starts_with(error), "{text:?}: {refusal}");
    }
    let refusal = parse(b"127.0.0.1:80\n\xff\n").unwrap_err();
    assert_eq!(refusal.to_string(), "line 2: not UTF-8");
}

#[test]
fn no_content_panics_and_no_part_of_a_file_passes_for_the_whole() {
    let text = "127.0.0.1:8080\n[::1]:80 7 # ä\n::1 8083\nunix:/run/web.sock\n";
    let whole = text.lines().count();
    for end in 0..text.len() {
        let part = &text.as_bytes()[..end];
        // What ends with a line cannot be told from a whole; anything else is refused.
        if let Ok(endpoints) = parse(part) {
            assert!(part.ends_with(b"\n") && endpoints.len() < whole, "{end}");
        }
    }
    for at in 0..text.len() {
        for byte in [0, b'\n', b' ', b'#', b':', b'9', 0x7f, 0xff] {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}

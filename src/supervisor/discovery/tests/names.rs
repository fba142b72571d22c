//! Names at a server that fails in every way that a test can tell it to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType::{A, AAAA, SRV};

use super::super::answers::Missing;
use super::super::ask::Resolvers;
use super::super::dns::{Follower, Wanted};
use super::log::Log;
use super::server::Says::{Code, Records, Silence};
use super::server::Server;
use super::{DEADLINE, Told, discovery, reporter, wanted, written};
use crate::config::{Asking, Discovery};

/// Quick, so that TTLs do not matter: everything is asked for again after 10 ms.
fn asking(resolvers: &[SocketAddr]) -> Asking {
    Asking {
        resolvers: resolvers.to_vec(),
        min_ttl: Duration::from_millis(10),
        max_ttl: Duration::from_millis(10),
        // A busy machine must not make a server look dead.
        timeout: Duration::from_secs(2),
    }
}

fn dns(resolvers: &[SocketAddr]) -> Discovery {
    Discovery::Dns { name: "web.test".into(), port: 80, asking: asking(resolvers) }
}

fn srv(resolvers: &[SocketAddr]) -> Discovery {
    Discovery::DnsSrv { name: "_http._tcp.web.test.".into(), asking: asking(resolvers) }
}

fn follow(settings: &Discovery) -> (super::Discovery, Told) {
    let (mut discovery, told) = discovery();
    discovery.apply(wanted(&[("web", settings)]));
    (discovery, told)
}

/// Until a question has been asked twice more: what was answered to the first has been seen then.
async fn asked(server: &Server, name: &str, kind: hickory_resolver::proto::rr::RecordType) {
    let (before, ends) = (server.asked(name, kind), Instant::now() + DEADLINE);
    while server.asked(name, kind) < before + 2 {
        assert!(Instant::now() < ends, "{name} is not asked for any more");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_family_that_fails_keeps_its_addresses() {
    let log = Log::new();
    let server = Server::start().await;
    server.says("web.test.", A, Records("web.test. 0 10.0.0.1"));
    server.says("web.test.", AAAA, Records("web.test. 0 fd00::1"));
    let (_discovery, mut told) = follow(&dns(&[server.address]));
    assert_eq!(told.next("web").await, ["10.0.0.1:80", "[fd00::1]:80"]);
    for failure in [Code(ResponseCode::ServFail), Silence, Code(ResponseCode::Refused)] {
        server.says("web.test.", AAAA, failure);
        asked(&server, "web.test.", AAAA).await;
    }
    assert!(!told.has_news_of("web"));
    server.says("web.test.", A, Records("web.test. 0 10.0.0.2"));
    assert_eq!(told.next("web").await, ["10.0.0.2:80", "[fd00::1]:80"]);
    let warnings = log.with("only a part of an answer");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // What a server says is not there, is not there.
    server.says("web.test.", AAAA, Records(""));
    assert_eq!(told.next("web").await, ["10.0.0.2:80"]);
    log.until("INFO the name is answered again").await;
}

#[tokio::test]
async fn whatever_fails_keeps_the_last_good_answer_and_is_said_once() {
    let log = Log::new();
    let server = Server::start().await;
    let both = |says: super::server::Says| {
        server.says("web.test.", A, says.clone());
        server.says("web.test.", AAAA, says);
    };
    both(Silence);
    let (_discovery, mut told) = follow(&dns(&[server.address]));
    log.until("no endpoints yet").await;
    both(Records("web.test. 0 10.0.0.1"));
    assert_eq!(told.next("web").await, ["10.0.0.1:80"]);
    log.until("INFO the name is answered again").await;
    let failures = [
        Silence,
        Code(ResponseCode::ServFail),
        Code(ResponseCode::NXDomain),
        Records(""),
        Records("web.test. 0 0.0.0.0"),
        Records("other.test. 0 10.0.0.9"),
        Records("web.test. 0 alias.test.\nalias.test. 0 web.test."),
    ];
    for failure in failures {
        both(failure);
        asked(&server, "web.test.", A).await;
        assert!(!told.has_news_of("web"));
    }
    let warnings = log.with("the name has no answer");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].starts_with("WARN") && warnings[1].contains("last good 1 endpoints stay"));
    both(Records("web.test. 0 10.0.0.2"));
    assert_eq!(told.next("web").await, ["10.0.0.2:80"]);
}

#[tokio::test]
async fn the_other_server_is_asked_where_one_fails() {
    let (dead, lame, good) = (Server::start().await, Server::start().await, Server::start().await);
    for kind in [A, AAAA] {
        dead.says("web.test.", kind, Silence);
        lame.says("web.test.", kind, Code(ResponseCode::Refused));
    }
    good.says("web.test.", A, Records("web.test. 0 10.0.0.1"));
    good.says("web.test.", AAAA, Records(""));
    let (_discovery, mut told) = follow(&dns(&[dead.address, lame.address, good.address]));
    assert_eq!(told.next("web").await, ["10.0.0.1:80"]);
    // From then on it is the first.
    asked(&good, "web.test.", A).await;
    let before = dead.asked("web.test.", A);
    asked(&good, "web.test.", A).await;
    assert_eq!(dead.asked("web.test.", A), before);
    // Until it fails.
    good.says("web.test.", A, Code(ResponseCode::ServFail));
    dead.says("web.test.", A, Records("web.test. 0 10.0.0.2"));
    assert_eq!(told.next("web").await, ["10.0.0.2:80"]);
}

#[tokio::test]
async fn other_names_are_followed() {
    let server = Server::start().await;
    // Both steps in one answer, and one step at a time.
    let alias = Records("web.test. 0 a.test.\na.test. 0 b.test.\nb.test. 0 10.0.0.1");
    server.says("web.test.", A, alias);
    server.says("web.test.", AAAA, Records("web.test. 0 c.test."));
    server.says("c.test.", AAAA, Records("C.test. 0 fd00::1"));
    let (_discovery, mut told) = follow(&dns(&[server.address]));
    assert_eq!(told.next("web").await, ["10.0.0.1:80", "[fd00::1]:80"]);
}

#[tokio::test]
async fn targets_with_and_without_their_addresses() {
    let server = Server::start().await;
    // Behind another name; one target's address comes along, the other's has to be asked for.
    let targets = Records(
        "_http._tcp.web.test. 9 srv.test.
        srv.test. 9 1 0 8080 a.test.
        srv.test. 9 1 5000 8081 b.test.
        srv.test. 9 2 1 8082 c.test.
        + A.test. 9 10.0.0.1
        c.test. 9 10.0.0.3",
    );
    server.says("_http._tcp.web.test.", SRV, targets);
    server.says("b.test.", A, Records("b.test. 9 10.0.0.2"));
    server.says("b.test.", AAAA, Records("b.test. 9 fd00::2"));
    let (_discovery, mut told) = follow(&srv(&[server.address]));
    assert_eq!(
        told.next("web").await,
        ["10.0.0.1:8080", "10.0.0.2:8081*1000", "[fd00::2]:8081*1000"]
    );
    assert_eq!(server.asked("a.test.", A), 0);
    assert_eq!(server.asked("c.test.", A), 0);
    // A target that nobody can say anything about keeps its addresses.
    server.says("b.test.", A, Code(ResponseCode::Refused));
    server.says("b.test.", AAAA, Code(ResponseCode::ServFail));
    asked(&server, "_http._tcp.web.test.", SRV).await;
    assert!(!told.has_news_of("web"));
    // The root for a target says that there is no such service, which is no answer either.
    server.says("_http._tcp.web.test.", SRV, Records("_http._tcp.web.test. 9 0 0 0 ."));
    asked(&server, "_http._tcp.web.test.", SRV).await;
    assert!(!told.has_news_of("web"));
    let targets = Records(
        "_http._tcp.web.test. 9 1 2 80 a.test.
        + a.test. 9 10.0.0.1",
    );
    server.says("_http._tcp.web.test.", SRV, targets);
    assert_eq!(told.next("web").await, ["10.0.0.1:80*2"]);
}

#[tokio::test]
async fn a_search_list_is_gone_through_for_both_families_together() {
    let server = Server::start().await;
    let mut resolvers = Resolvers::at(&[server.address]);
    (resolvers.search, resolvers.ndots) = (vec!["a.test".into(), "b.test".into()], 1);
    let wanted = Wanted::Addresses { port: 80 };
    let (reporter, _told) = reporter();
    let mut follower = Follower::new(wanted, "web".into(), asking(&[server.address]), reporter);
    let says = |name: &str, a, aaaa| {
        server.says(name, A, a);
        server.says(name, AAAA, aaaa);
    };
    // One that no server can say anything about is passed over.
    says("web.a.test.", Code(ResponseCode::ServFail), Code(ResponseCode::ServFail));
    let missing = follower.find(&resolvers).await.unwrap_err();
    assert!(matches!(missing, Missing::Failed(_)), "{missing:?}");
    says("web.b.test.", Records("web.b.test. 0 10.0.0.2"), Records("web.b.test. 0 fd00::2"));
    let found = follower.find(&resolvers).await.unwrap();
    assert_eq!(written(&found.what), ["10.0.0.2:80", "[fd00::2]:80"]);
    // The first that has any is taken, and the second's AAAA has nothing to do with it.
    says("web.a.test.", Records("web.a.test. 0 10.0.0.1"), Records(""));
    let found = follower.find(&resolvers).await.unwrap();
    assert_eq!(written(&found.what), ["10.0.0.1:80"]);
    // While it fails, the others are no replacement.
    says("web.a.test.", Code(ResponseCode::ServFail), Records(""));
    let missing = follower.find(&resolvers).await.unwrap_err();
    assert!(matches!(missing, Missing::Failed(_)), "{missing:?}");
    // Once it is gone, they are.
    says("web.a.test.", Code(ResponseCode::NXDomain), Code(ResponseCode::NXDomain));
    let found = follower.find(&resolvers).await.unwrap();
    assert_eq!(written(&found.what), ["10.0.0.2:80", "[fd00::2]:80"]);
    says("web.b.test.", Code(ResponseCode::NXDomain), Code(ResponseCode::NXDomain));
    let missing = follower.find(&resolvers).await.unwrap_err();
    assert!(matches!(missing, Missing::Nothing(_)), "{missing:?}");
}

#[tokio::test]
async fn what_resolv_conf_says() {
    let text = b"nameserver 10.0.0.2\nsearch ns.svc.local example.com\noptions ndots:5\n";
    let resolvers = Resolvers::from_resolv_conf(text).expect("it is good");
    assert_eq!(resolvers.ndots, 5);
    let search: Vec<&str> = resolvers.search.iter().map(|it| it.trim_matches('.')).collect();
    assert_eq!(search, ["ns.svc.local", "example.com"]);
    assert!(Resolvers::from_resolv_conf(b"search example.com\n").is_err(), "nobody to ask");
    // Servers of one's own come without a search list.
    let resolvers = Resolvers::at(&["10.0.0.2:5353".parse().unwrap()]);
    assert!(resolvers.search.is_empty());
}

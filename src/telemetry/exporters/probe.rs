//! Asks an exporter's routes over a socket, for tests.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::Kind;
use crate::config::ExporterSettings;
use crate::telemetry::feed::Hub;

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    /// In lower case, with the status line before it.
    pub(super) head: String,
    pub(super) body: String,
}

/// `GET target` of an exporter with its default settings.
pub(super) fn get(kind: Kind, hub: &Hub, target: &str) -> Answer {
    let exporter = (kind.make)(&ExporterSettings::defaults(kind.spec)).expect("it has defaults");
    let routes = exporter.routes(&hub.feed(kind.spec.kind));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, routes).await });
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let asked = tokio::task::spawn_blocking(move || {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = asked.await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    })
}

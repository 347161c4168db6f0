//! The API over a real socket: what only shows between the server and the router.

use crate::http::auth::BAD_TRIES_MAX;
use crate::http::serve::{Drain, Limits, serve};
use crate::warmup::api::testing::{FakeStore, api};
use crate::warmup::store::Store;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The API on a port of its own; it ends when the guard is dropped.
async fn start() -> (SocketAddr, Arc<FakeStore>, DropGuard) {
    let (router, store, _) = api();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let drain = CancellationToken::new();
    tokio::spawn(serve(listener, router, Drain { begins: drain.clone(), ends: drain.clone() }, Limits::default()));
    (address, store, drain.drop_guard())
}

/// Sends octets on a connection of their own and reads until the server closes it.
async fn exchange(address: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(octets).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str, key: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn unknown_keys_are_counted_by_the_address_that_they_come_from() {
    let (address, _, _running) = start().await;
    for _ in 0..BAD_TRIES_MAX {
        assert!(exchange(address, &get("/users", "guess")).await.starts_with("HTTP/1.1 401 "));
    }
    let limited = exchange(address, &get("/users", "guess")).await;
    assert!(limited.starts_with("HTTP/1.1 429 ") && limited.contains("retry-after: 60"), "{limited}");
    assert!(exchange(address, &get("/users", "key-acme")).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_upload_far_over_the_body_limit_streams_into_the_store() {
    let (address, store, _running) = start().await;
    let rows: String = (0..60_000).map(|n| format!("Some Longer Name {n},user{n}@example.com\n")).collect();
    assert!(rows.len() > 2 * crate::http::body::BODY_OCTETS_MAX);
    let head = "POST /users/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-acme\r\nContent-Type: text/csv\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
    for part in rows.as_bytes().chunks(7_777) {
        request.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        request.extend_from_slice(part);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = exchange(address, &request).await;
    assert!(answer.contains(r#"{"created":60000,"existing":0,"invalid":0,"errors":[]}"#), "{answer}");
    let org = store.organization(&crate::model::name::OrgName::parse("acme").expect("a name")).await.expect("no failure is set");
    assert_eq!(store.users(org, crate::model::name::UserNumber(0), 100_000).await.expect("no failure is set").len(), 60_000);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_problem_and_the_next_request_is_served() {
    let (address, _, _running) = start().await;
    let head = "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-acme\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n";
    assert!(exchange(address, head.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    assert!(exchange(address, &get("/users", "key-acme")).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn two_lengths_are_refused_before_any_route() {
    let (address, store, _running) = start().await;
    let smuggle = "POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcdGET / HTTP/1.1\r\n\r\n";
    assert!(exchange(address, smuggle.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    assert!(store.accepted(1).is_empty());
}

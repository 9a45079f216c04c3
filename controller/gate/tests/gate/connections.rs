//! Clients that do everything wrong, and those who must not suffer for it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{DEADLINE, Host, LOG, append, client::Client, record};

#[tokio::test]
async fn the_certificate_that_is_served_is_the_one_that_is_published() {
    let host = Host::new().await;
    let (_, digest) = Client::connect(host.address, None).await.unwrap();
    assert_eq!(digest, host.digest);
}

#[tokio::test]
async fn what_is_no_tls_is_closed() {
    let host = Host::new().await;
    let mut tcp = TcpStream::connect(host.address).await.unwrap();
    tcp.write_all(format!("{LOG} HTTP/1.1\r\nHost: gate\r\n\r\n").as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // Some clients see the reset before the end.
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut all)).await.unwrap();
    assert!(!all.starts_with(b"HTTP/"), "{all:?}");
    assert_eq!(host.ask(LOG).await.code, 200);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let host = Host::new().await;
    let long = format!("Authorization: Bearer {}\r\n", "x".repeat(200_000));
    let many = "X-More: 1\r\n".repeat(100);
    for headers in [long, many] {
        assert_eq!(host.ask_as(LOG, &headers).await.code, 431);
    }
    // A long token is none that is too long.
    let token = format!("Authorization: Bearer {}\r\n", "x".repeat(30_000));
    assert_eq!(host.ask_as(LOG, &token).await.code, 401);
}

#[tokio::test]
async fn a_connection_carries_one_request() {
    let host = Host::new().await;
    let mut client = host.client().await;
    let one = format!("{LOG} HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer jane-token\r\n\r\n");
    client.send(&format!("{one}{one}")).await;
    let mut all = Vec::new();
    while let Ok(more) = client.read().await
        && !more.is_empty()
    {
        all.extend(more);
    }
    assert_eq!(String::from_utf8_lossy(&all).matches("HTTP/1.1 200").count(), 1);
}

#[tokio::test]
async fn those_who_hang_keep_nobody_out_and_those_who_were_let_in_stay() {
    let host = Host::new().await;
    append(&host.path("workload.log"), &record(0, "a"));
    let mut reader = host.client().await;
    reader.send(&format!("{LOG}?follow=true HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer jane-token\r\n\r\n")).await;
    assert_eq!(reader.head().await.0, 200);
    assert!(reader.chunk().await.is_some());
    let mut hanging = Vec::new();
    for n in 0..150 {
        let mut tcp = TcpStream::connect(host.address).await.unwrap();
        if n % 2 == 0 {
            tcp.write_all(&[22, 3, 1]).await.unwrap();
        }
        hanging.push(tcp);
    }
    assert_eq!(host.ask(LOG).await.code, 200);
    append(&host.path("workload.log"), &record(1, "b"));
    assert!(reader.chunk().await.is_some());
}

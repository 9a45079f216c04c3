//! Logs: what is there, what comes, and how it ends.

use std::fs;

use microagent_crds::Phase;
use tokio::task::yield_now;

use crate::{Host, LOG, append, client::Client, record};

async fn follow(host: &Host, query: &str) -> Client {
    let mut client = host.client().await;
    client
        .send(&format!("{LOG}?follow=true{query} HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer jane-token\r\n\r\n"))
        .await;
    assert_eq!(client.head().await.0, 200);
    client
}

/// The next so many lines.
async fn lines(client: &mut Client, count: usize) -> Vec<String> {
    let mut text = String::new();
    while text.lines().count() < count {
        text += std::str::from_utf8(&client.chunk().await.unwrap()).unwrap();
    }
    text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_log_is_the_bytes_on_the_host_the_older_file_first() {
    let host = Host::new().await;
    assert_eq!(host.ask(LOG).await.text(), "", "nothing was written yet");
    let (older, newer) = (record(1, "one"), record(2, "two") + "2026-11-22T10:00:03.000000000Z stdout P thr");
    append(&host.path("workload.log.1"), &older);
    append(&host.path("workload.log"), &newer);
    append(&host.path("console.log"), "boot\n");
    let answer = host.ask(LOG).await;
    assert_eq!((answer.code, answer.text()), (200, older + &newer));
    assert_eq!(host.ask(&format!("{LOG}?console=true")).await.text(), "boot\n");
}

#[tokio::test]
async fn parts_of_a_log_can_be_asked_for() {
    let host = Host::new().await;
    for n in 0..10 {
        append(&host.path("workload.log"), &record(n, &n.to_string()));
    }
    for (query, expected) in [
        ("tail=2", vec![8, 9]),
        ("tail=0", vec![]),
        ("tail=99", (0..10).collect()),
        ("since=2026-11-22T10:00:07Z", vec![7, 8, 9]),
        ("since=2026-11-22T12:00:07.5%2B02:00", vec![8, 9]),
        ("since=2026-11-22T10:00:07Z&tail=1", vec![9]),
        ("since=2026-11-22T10:00:30Z&tail=1", vec![]),
    ] {
        let answer = host.ask(&format!("{LOG}?{query}")).await;
        let expected: String = expected.into_iter().map(|n: u32| record(n, &n.to_string())).collect();
        assert_eq!(answer.text(), expected, "{query}");
    }
}

#[tokio::test]
async fn ten_thousand_bytes_and_a_million_arrive_as_they_are() {
    let host = Host::new().await;
    let line = record(0, &"x".repeat(10_000));
    for _ in 0..300 {
        append(&host.path("workload.log"), &line);
    }
    append(&host.path("workload.log"), &record(1, &"y".repeat(1_000_000)));
    let expected = fs::read(host.path("workload.log")).unwrap();
    assert!(host.ask(LOG).await.body == expected);
}

#[tokio::test]
async fn following_goes_on_across_a_rotation_and_ends_with_the_workload() {
    let host = Host::new().await;
    let log = host.path("workload.log");
    append(&log, &(record(0, "a") + &record(1, "b")));
    let mut client = follow(&host, "&tail=1").await;
    assert_eq!(lines(&mut client, 1).await, ["b"]);
    append(&log, &record(2, "c"));
    assert_eq!(lines(&mut client, 1).await, ["c"]);
    append(&log, &record(3, "d"));
    fs::rename(&log, host.path("workload.log.1")).unwrap();
    append(&log, &record(4, "e"));
    assert_eq!(lines(&mut client, 2).await, ["d", "e"]);
    append(&log, "2026-11-22T10:00:05.000000000Z stdout P last");
    host.set(|found| found.phase = Phase::Succeeded);
    assert_eq!(lines(&mut client, 1).await, ["last"]);
    assert_eq!(client.chunk().await, None, "it ends as it should");
}

#[tokio::test]
async fn following_ends_when_another_workspace_has_the_name_or_none() {
    let host = Host::new().await;
    append(&host.path("workload.log"), &record(0, "a"));
    for change in [(|host: &Host| host.set(|found| found.uid = "u-2".to_owned())) as fn(&Host), |host: &Host| {
        *host.node.0.lock().unwrap() = None
    }] {
        let mut client = follow(&host, "").await;
        assert_eq!(lines(&mut client, 1).await, ["a"]);
        change(&host);
        assert_eq!(client.chunk().await, None);
    }
}

#[tokio::test]
async fn a_client_that_goes_frees_its_place_and_one_that_takes_nothing_holds_up_nobody() {
    let host = Host::new().await;
    let log = host.path("workload.log");
    for _ in 0..100 {
        append(&log, &record(0, &"x".repeat(100_000)));
    }
    // All places but one are taken by clients that read nothing.
    let mut slow = Vec::new();
    for _ in 0..127 {
        let mut client = host.client().await;
        client
            .send(&format!("{LOG}?follow=true HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer jane-token\r\n\r\n"))
            .await;
        assert_eq!(client.head().await.0, 200);
        slow.push(client);
    }
    assert!(host.ask(LOG).await.body == fs::read(&log).unwrap());
    slow.push(follow(&host, "").await);
    let full = host.ask(LOG).await;
    assert_eq!((full.code, full.status().0.as_str()), (429, "TooManyRequests"));
    slow.clear();
    let deadline = tokio::time::Instant::now() + crate::DEADLINE;
    while host.ask(&format!("{LOG}?tail=0")).await.code == 429 {
        assert!(tokio::time::Instant::now() < deadline, "no place becomes free");
        yield_now().await;
    }
}

#[tokio::test]
async fn a_gate_that_closes_breaks_off_so_that_nobody_takes_it_for_the_end() {
    let host = Host::new().await;
    append(&host.path("workload.log"), &record(0, "a"));
    let mut client = follow(&host, "").await;
    assert_eq!(lines(&mut client, 1).await, ["a"]);
    host.shutdown.cancel();
    host.task.await.unwrap();
    let end = client.read().await;
    assert!(end.is_err(), "{end:?}");
}

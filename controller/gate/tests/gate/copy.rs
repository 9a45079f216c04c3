//! Copies: what passes, what does not, and how they end.

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

use microagent_guest_protocol::{
    CopyIn, CopyOut, CopyReply, CopyWhat, FileName, Request,
    frame::{self, Frame, Kind},
};

use crate::{
    COPY, Host,
    exec::{HEADERS, bytes, exec, frame_of, message, upgraded_by, write},
    guest,
};

fn copy_out() -> Request {
    Request::CopyOut(CopyOut { path: "/work/out".to_owned(), follow: true })
}

fn copy_in(user: Option<&str>) -> Request {
    let what = CopyWhat::Named(FileName(b"in \xff".to_vec()));
    Request::CopyIn(CopyIn { path: "/work".to_owned(), what, keep_owners: false, user: user.map(str::to_owned) })
}

const COPIED: CopyReply = CopyReply::Copied { left_out: None };

#[tokio::test]
async fn an_archive_goes_in_as_the_workloads_user_and_is_replied_to() {
    for (asked, heard) in [(None, "app:app"), (Some("root"), "root")] {
        let host = Host::new().await;
        let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
            let request = frame::read_message::<Request>(&mut wire).unwrap();
            let mut bytes = Vec::new();
            while let Some(Frame { payload, .. }) = frame::read(&mut wire).unwrap().filter(|f| !f.payload.is_empty()) {
                bytes.extend(payload);
            }
            frame::write_message(&mut wire, &COPIED).unwrap();
            (request, bytes)
        });
        let mut client = upgraded_by(&host, COPY).await;
        write(&mut client, &message(&copy_in(asked))).await;
        let sent = vec![7; 300_000];
        for chunk in sent.chunks(60_000).chain([&[][..]]) {
            write(&mut client, &bytes(Kind::Stdin, chunk)).await;
        }
        assert_eq!(frame_of(&mut client).await.message::<CopyReply>().unwrap(), COPIED);
        assert_eq!(client.read().await.unwrap(), b"", "the guest closed, so the gate closes");
        let (request, bytes) = guest.await.unwrap();
        assert_eq!(request, copy_in(Some(heard)));
        assert!(bytes == sent);
    }
}

#[tokio::test]
async fn an_archive_comes_out_with_its_reply() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
        let request = frame::read_message::<Request>(&mut wire).unwrap();
        (0..20).for_each(|n| frame::write(&mut wire, Kind::Output, &[n; 50_000]).unwrap());
        frame::write_message(&mut wire, &COPIED).unwrap();
        request
    });
    let mut client = upgraded_by(&host, COPY).await;
    write(&mut client, &message(&copy_out())).await;
    for n in 0..20 {
        assert_eq!(frame_of(&mut client).await, Frame { kind: Kind::Output, payload: vec![n; 50_000] });
    }
    assert_eq!(frame_of(&mut client).await.message::<CopyReply>().unwrap(), COPIED);
    assert_eq!(guest.await.unwrap(), copy_out());
}

#[tokio::test]
async fn nothing_but_a_copy_reaches_the_guest() {
    for (first, why) in [
        (message(&Request::Exec(exec())), "commands have one of their own"),
        (message(&Request::Shutdown { grace_seconds: 0 }), "shut down through its Workspace"),
        (message(&serde_json::json!({"request": "copyOut", "path": "/etc", "more": 1})), "no request"),
        (bytes(Kind::Stdin, b"x"), "must be a message"),
    ] {
        let host = Host::new().await;
        let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
            let mut all = Vec::new();
            wire.read_to_end(&mut all).unwrap();
            all
        });
        let mut client = upgraded_by(&host, COPY).await;
        write(&mut client, &first).await;
        let reply = frame_of(&mut client).await.message().unwrap();
        let CopyReply::Failed { code, message, .. } = reply else { panic!("{why}") };
        assert_eq!(code, "RequestNotAllowed");
        assert!(message.contains(why), "{message}");
        assert_eq!(client.read().await.unwrap(), b"");
        assert_eq!(guest.await.unwrap(), b"", "the guest heard something of {why:?}");
    }
}

#[tokio::test]
async fn a_guest_that_breaks_off_gives_no_reply() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
        frame::read_message::<Request>(&mut wire).unwrap();
        frame::write(&mut wire, Kind::Output, b"part").unwrap();
        wire.shutdown(Shutdown::Both).unwrap();
    });
    let mut client = upgraded_by(&host, COPY).await;
    write(&mut client, &message(&copy_out())).await;
    assert_eq!(frame_of(&mut client).await.payload, b"part");
    assert_eq!(client.read().await.unwrap(), b"", "an end, and nothing that says that it is whole");
    guest.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_takes_nothing_slows_the_client() {
    let host = Host::new().await;
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let guest = guest::serve(&host.path("vsock.sock"), move |mut wire| {
        frame::read_message::<Request>(&mut wire).unwrap();
        wait.recv().unwrap();
        wire.write_all(b"").unwrap();
    });
    let mut client = upgraded_by(&host, COPY).await;
    write(&mut client, &message(&copy_in(None))).await;
    let chunk = bytes(Kind::Stdin, &[7; 60_000]);
    let mut written = 0;
    // It goes on for as long as somebody takes it.
    while tokio::time::timeout(Duration::from_millis(500), write(&mut client, &chunk)).await.is_ok() {
        written += chunk.len();
        assert!(written < 1 << 30, "nobody reads, and all of it goes somewhere");
    }
    done.send(()).unwrap();
    guest.await.unwrap();
}

#[tokio::test]
async fn a_copy_needs_the_right_to_commands() {
    let host = Host::new().await;
    let answer = host.ask_as(COPY, &HEADERS.replace("jane-token", "joe-token")).await;
    let text = answer.text();
    assert!(answer.code == 403 && text.contains("cannot create resource \\\"workspaces/exec\\\""), "{text}");
    let answer = host.ask_as(COPY, "Authorization: Bearer jane-token\r\n").await;
    assert_eq!(answer.code, 400);
}

//! Commands: what passes, what does not, and how the bytes flow.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    time::Duration,
};

use microagent_guest_protocol::{
    CopyOut, Exec, ExecInput, ExecReply, Exit, Process, Request, Terminal,
    frame::{self, Frame, Kind},
};
use tokio::io::AsyncWriteExt;

use crate::{EXEC, Host, client::Client, guest};

pub(crate) const HEADERS: &str =
    "Authorization: Bearer jane-token\r\nConnection: Upgrade\r\nUpgrade: microagent-guest\r\n";

pub(crate) fn exec() -> Exec {
    let process = Process { argv: vec!["sh".to_owned()], env: Vec::new(), working_dir: None, user: None };
    Exec { process, terminal: Some(Terminal { rows: 24, columns: 80 }), stdin: true }
}

pub(crate) fn bytes(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, kind, payload).unwrap();
    bytes
}

pub(crate) fn message(message: &impl serde::Serialize) -> Vec<u8> {
    bytes(Kind::Message, &serde_json::to_vec(message).unwrap())
}

async fn upgraded(host: &Host) -> Client {
    upgraded_by(host, EXEC).await
}

/// A connection that has become the guest's.
pub(crate) async fn upgraded_by(host: &Host, line: &str) -> Client {
    let mut client = host.client().await;
    client.send(&format!("{line} HTTP/1.1\r\nHost: gate\r\n{HEADERS}\r\n")).await;
    let (code, head) = client.head().await;
    assert_eq!(code, 101, "{head}");
    assert!(head.contains("upgrade: microagent-guest"), "{head}");
    client
}

pub(crate) async fn write(client: &mut Client, bytes: &[u8]) {
    client.stream.write_all(bytes).await.unwrap();
    client.stream.flush().await.unwrap();
}

pub(crate) async fn frame_of(client: &mut Client) -> Frame {
    let header = client.exactly(5).await;
    let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
    let payload = client.exactly(length).await;
    frame::read(&mut &[header, payload].concat()[..]).unwrap().unwrap()
}

#[tokio::test]
async fn a_terminal_session_passes_both_ways_as_the_workloads_user() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
        let Request::Exec(asked) = frame::read_message(&mut wire).unwrap() else { panic!("no exec") };
        assert_eq!(asked.process.user.as_deref(), Some("app:app"));
        assert_eq!(asked.process.working_dir.as_deref(), Some("/srv"));
        assert_eq!((asked.terminal, asked.stdin), (exec().terminal, true));
        let resize: ExecInput = frame::read_message(&mut wire).unwrap();
        assert_eq!(resize, ExecInput::Resize(Terminal { rows: 50, columns: 100 }));
        let typed = frame::read(&mut wire).unwrap().unwrap();
        assert_eq!(typed, Frame { kind: Kind::Stdin, payload: b"ls\n".to_vec() });
        frame::write(&mut wire, Kind::Stdout, b"file\r\n").unwrap();
        frame::write_message(&mut wire, &ExecReply::Exited(Exit::code(3))).unwrap();
    });
    let mut client = upgraded(&host).await;
    write(&mut client, &message(&Request::Exec(exec()))).await;
    write(&mut client, &message(&ExecInput::Resize(Terminal { rows: 50, columns: 100 }))).await;
    write(&mut client, &bytes(Kind::Stdin, b"ls\n")).await;
    assert_eq!(frame_of(&mut client).await, Frame { kind: Kind::Stdout, payload: b"file\r\n".to_vec() });
    assert_eq!(frame_of(&mut client).await.message::<ExecReply>().unwrap(), ExecReply::Exited(Exit::code(3)));
    assert_eq!(client.read().await.unwrap(), b"", "the guest closed, so the gate closes");
    guest.await.unwrap();
}

#[tokio::test]
async fn a_user_and_a_directory_that_are_named_stay_as_they_are() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| frame::read_message::<Request>(&mut wire).unwrap());
    let mut asked = exec();
    (asked.process.user, asked.process.working_dir) = (Some("root".to_owned()), Some("/".to_owned()));
    write(&mut upgraded(&host).await, &message(&Request::Exec(asked.clone()))).await;
    assert_eq!(guest.await.unwrap(), Request::Exec(asked));
}

#[tokio::test]
async fn nothing_but_a_command_reaches_the_guest() {
    let configure = serde_json::json!({"request": "configure", "version": 1, "bootId": "b", "hostname": "h", "realtimeNs": 0,
        "root": {"baseline": 0}, "workload": {"argv": ["sh"]}, "graceSeconds": 1});
    assert!(matches!(serde_json::from_value(configure.clone()).unwrap(), Request::Configure(_)));
    let huge = [&[0][..], &(16 * 1024 * 1024u32).to_be_bytes()].concat();
    for (first, why) in [
        (message(&configure), "configured by its own node"),
        (message(&Request::Shutdown { grace_seconds: 0 }), "shut down through its Workspace"),
        (
            message(&Request::CopyOut(CopyOut { path: "/etc".to_owned(), follow: false })),
            "copies have one of their own",
        ),
        (message(&ExecInput::Signal { number: 9 }), "no request"),
        (message(&serde_json::json!({"request": "exec", "process": {"argv": ["sh"]}, "more": 1})), "no request"),
        (bytes(Kind::Stdin, b"x"), "must be a message"),
        (bytes(Kind::Message, b"torn"), "no request"),
        (huge, "bytes, more than"),
    ] {
        let host = Host::new().await;
        let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
            let mut all = Vec::new();
            wire.read_to_end(&mut all).unwrap();
            all
        });
        let mut client = upgraded(&host).await;
        write(&mut client, &first).await;
        let ExecReply::Failed { code, message } = frame_of(&mut client).await.message().unwrap() else {
            panic!("{why}")
        };
        assert_eq!(code, "RequestNotAllowed");
        assert!(message.contains(why), "{message}");
        assert_eq!(client.read().await.unwrap(), b"");
        assert_eq!(guest.await.unwrap(), b"", "the guest heard something of {why:?}");
    }
}

#[tokio::test]
async fn any_number_of_bytes_arrives_whole_in_whatever_pieces_it_is_sent() {
    let host = Host::new().await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let guest = guest::serve(&host.path("vsock.sock"), move |mut wire| {
        frame::read_message::<Request>(&mut wire).unwrap();
        let mut heard = Vec::new();
        while let Some(Frame { payload, .. }) = frame::read(&mut wire).unwrap().filter(|f| !f.payload.is_empty()) {
            frame::write(&mut wire, Kind::Stdout, &payload).unwrap();
            heard.extend(payload);
        }
        assert!(heard == expected);
        frame::write_message(&mut wire, &ExecReply::Exited(Exit::code(0))).unwrap();
    });
    let mut client = upgraded(&host).await;
    let mut frames = message(&Request::Exec(exec()));
    sent.chunks(10_000).for_each(|chunk| frames.extend(bytes(Kind::Stdin, chunk)));
    frames.extend(bytes(Kind::Stdin, b""));
    // Cut anywhere, frames are frames; and reading goes on meanwhile, as the guest answers at once.
    let mut heard = Vec::new();
    for piece in frames.chunks(33_333) {
        write(&mut client, piece).await;
        while heard.len() + 100_000 < piece.len() {
            heard.extend(frame_of(&mut client).await.payload);
        }
    }
    let reply = loop {
        let next = frame_of(&mut client).await;
        if next.kind == Kind::Message {
            break next.message::<ExecReply>().unwrap();
        }
        heard.extend(next.payload);
    };
    assert_eq!(reply, ExecReply::Exited(Exit::code(0)));
    assert!(heard == sent);
    guest.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_slows_the_guest() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
        frame::read_message::<Request>(&mut wire).unwrap();
        wire.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let chunk = vec![7; 1024 * 1024];
        let mut written = 0;
        // It goes on for as long as somebody takes it.
        let blocked = loop {
            match wire.write(&chunk) {
                Ok(n) => written += n,
                Err(e) => break e.kind(),
            }
            assert!(written < 1 << 30, "nobody reads, and all of it goes somewhere");
        };
        assert_eq!(blocked, io::ErrorKind::WouldBlock);
        written
    });
    let mut client = upgraded(&host).await;
    write(&mut client, &message(&Request::Exec(exec()))).await;
    let written = guest.await.unwrap();
    assert_eq!(client.exactly(written).await.len(), written, "what was written before is not lost");
    assert_eq!(client.read().await.unwrap(), b"");
}

#[tokio::test]
async fn who_has_no_more_to_say_hears_the_rest() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
        frame::read_message::<Request>(&mut wire).unwrap();
        assert_eq!(frame::read(&mut wire).unwrap(), None, "the client's end arrives");
        wire.write_all(b"rest").unwrap();
        wire.shutdown(Shutdown::Both).unwrap();
    });
    let mut client = upgraded(&host).await;
    write(&mut client, &message(&Request::Exec(exec()))).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.exactly(4).await, b"rest");
    assert_eq!(client.read().await.unwrap(), b"");
    guest.await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_takes_its_command_along() {
    let host = Host::new().await;
    let guest = guest::serve(&host.path("vsock.sock"), |mut wire| {
        frame::read_message::<Request>(&mut wire).unwrap();
        let mut all = Vec::new();
        // A command that says nothing: only the end of the connection can tell.
        wire.read_to_end(&mut all).unwrap();
        all
    });
    let mut client = upgraded(&host).await;
    write(&mut client, &message(&Request::Exec(exec()))).await;
    drop(client);
    assert_eq!(guest.await.unwrap(), b"");
}

#[tokio::test]
async fn what_cannot_be_run_is_told_before_the_connection_changes() {
    let host = Host::new().await;
    let answer = host.ask_as(EXEC, HEADERS).await;
    assert_eq!(answer.code, 409);
    assert!(answer.status().1.contains("workspace web in namespace team is not running: its phase is Running"));
    let answer = host.ask_as(EXEC, "Authorization: Bearer jane-token\r\n").await;
    assert_eq!(answer.code, 400);
    assert!(answer.status().1.contains("Upgrade: microagent-guest"));
    let body = host.ask_as(EXEC, &format!("{HEADERS}Content-Length: 1\r\n")).await;
    assert_eq!(body.code, 400);
}

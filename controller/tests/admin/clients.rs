//! Clients that do not behave. None of them keeps an honest one from its answer, or the loop from its work.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use crate::controller::{Controller, DEADLINE, answer, halted, until};

fn connect(controller: &Controller) -> UnixStream {
    let stream = until("the socket listens", || UnixStream::connect(controller.socket()).ok());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Whether a read ends because the other side has closed, and not for want of time.
fn ends(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_hundred_that_hang_keep_out_nobody_and_stop_neither_passes_nor_shutdown() {
    let mut controller = Controller::new();
    controller.start([]);
    let hanging: Vec<UnixStream> = (0..100)
        .map(|n| {
            let mut stream = connect(&controller);
            if n % 2 == 0 {
                // The oldest may be gone already.
                let _ = stream.write_all(b"GET /metrics HTT");
            }
            stream
        })
        .collect();
    assert_eq!(controller.get("/livez").0, 200);
    fs::write(controller.folder().join("a.yaml"), halted("a")).unwrap();
    controller.get_until("/metrics", |_, text| text.contains("microagent_workspaces{phase=\"halted\"} 1\n"));
    controller.stop();
    drop(hanging);
}

#[test]
fn half_a_request_is_waited_for_briefly() {
    let mut controller = Controller::new();
    controller.start([]);
    let mut half = connect(&controller);
    half.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").unwrap();
    assert!(ends(&mut half), "the controller gives up");
    assert_eq!(controller.get("/livez").0, 200);
}

#[test]
fn what_is_too_long_or_no_http_is_refused() {
    let mut controller = Controller::new();
    controller.start([]);
    let mut huge = connect(&controller);
    let _ = write!(huge, "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(ends(&mut huge));
    let mut many = connect(&controller);
    let _ = write!(many, "GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert!(ends(&mut many));
    let mut noise = connect(&controller);
    let _ = noise.write_all(&[0x16, 0x03, 0x01, 0x00, 0xff, b'\r', b'\n', b'\r', b'\n']);
    assert!(ends(&mut noise));
    assert_eq!(controller.get("/livez").0, 200);
}

#[test]
fn a_connection_serves_one_request_whatever_follows_it() {
    let mut controller = Controller::new();
    controller.start([]);
    let mut stream = connect(&controller);
    let body = "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(answer(&mut stream).0, 405);
    let mut stream = connect(&controller);
    stream.write_all("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50).as_bytes()).unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
}

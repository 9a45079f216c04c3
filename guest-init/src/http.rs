//! As much HTTP/1.1 (RFC 9112) as a probe needs: one GET, and the status of its answer.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::io::Errno;

use crate::{
    probe::{Until, Waited},
    tcp::{self, Failure},
};

/// The longest status line, in bytes. Reasons are a few words.
const MAX_LINE: usize = 1024;

/// How much of the rest of an answer is read before the connection is closed, in bytes and time: a server whose small answer was not
/// taken would complain of it in its log.
const REST: usize = 64 * 1024;
const REST_TIME: Duration = Duration::from_secs(1);

/// The status of the answer to a GET.
pub(crate) fn get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
    until: &Until<'_>,
) -> Result<u16, Failure> {
    let socket = tcp::connect(host, port, until)?;
    let failed = |why: String| Failure::Because(format!("GET http://{}{path}: {why}", tcp::authority(host, port)));
    let late = |waited| match waited {
        Waited::Stopped => Failure::Stopped,
        _ => failed("no answer in time".to_owned()),
    };
    let request = request(&tcp::authority(host, port), path, headers);
    let mut left = request.as_bytes();
    while !left.is_empty() {
        match rustix::io::write(&socket, left) {
            Ok(n) => left = &left[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match until.wait_writable(&socket) {
                Waited::Ready => {}
                waited => return Err(late(waited)),
            },
            // It may have answered before it had heard all.
            Err(_) => break,
        }
    }
    let mut line = Vec::new();
    loop {
        if let Some(status) = status(&line).map_err(|why| failed(why.to_owned()))? {
            skip_rest(&socket, until);
            return Ok(status);
        }
        match read(&socket, &mut line, until) {
            Ok(0) => return Err(failed("the answer ended before its status".to_owned())),
            Ok(_) => {}
            Err(Ok(waited)) => return Err(late(waited)),
            Err(Err(e)) => return Err(failed(std::io::Error::from(e).to_string())),
        }
    }
}

fn request(authority: &str, path: &str, headers: &[(String, String)]) -> String {
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    let ours = [("Host", authority), ("User-Agent", "microagent-probe"), ("Accept", "*/*"), ("Connection", "close")];
    for (name, value) in ours {
        if !headers.iter().any(|(theirs, _)| theirs.eq_ignore_ascii_case(name)) {
            text += &format!("{name}: {value}\r\n");
        }
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// The status in the first line, once it is there (section 4).
fn status(head: &[u8]) -> Result<Option<u16>, &'static str> {
    let Some(end) = head.iter().position(|b| *b == b'\n') else {
        return if head.len() < MAX_LINE { Ok(None) } else { Err("the answer has no status line") };
    };
    let line = std::str::from_utf8(&head[..end]).ok().and_then(|line| line.strip_prefix("HTTP/1."));
    let code = line.and_then(|line| line.split([' ', '\r']).nth(1)).filter(|code| code.len() == 3);
    code.and_then(|code| code.parse().ok()).map(Some).ok_or("the answer is not HTTP/1")
}

/// Reads once, waiting for it.
fn read(socket: &OwnedFd, into: &mut Vec<u8>, until: &Until<'_>) -> Result<usize, Result<Waited, Errno>> {
    let mut chunk = [0; 4096];
    loop {
        match rustix::io::read(socket, &mut chunk) {
            Ok(n) => {
                into.extend_from_slice(&chunk[..n]);
                return Ok(n);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match until.wait_readable(socket) {
                Waited::Ready => {}
                waited => return Err(Ok(waited)),
            },
            Err(e) => return Err(Err(e)),
        }
    }
}

fn skip_rest(socket: &OwnedFd, until: &Until<'_>) {
    let until = until.at_most(REST_TIME);
    let mut rest = Vec::new();
    while rest.len() < REST && read(socket, &mut rest, &until).is_ok_and(|n| n > 0) {}
}

pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic())
}

pub(crate) fn is_header(name: &str, value: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token) && !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::{soon, stop};
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    /// What comes of a GET when the server answers so; and what the server heard.
    fn got(answer: &str, headers: &[(String, String)]) -> (Result<u16, Failure>, Vec<String>) {
        let stop = stop();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut peer, _) = listener.accept().unwrap();
                let lines = BufReader::new(peer.try_clone().unwrap()).lines();
                let heard: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                // The probe may have heard enough.
                let _ = peer.write_all(answer.as_bytes());
                heard
            });
            let got = get("127.0.0.1", port, "/healthz", headers, &Until::new(soon(), &stop));
            (got, server.join().unwrap())
        })
    }

    #[test]
    fn the_status_of_an_answer_is_given_whatever_follows_it() {
        let (status, heard) = got("HTTP/1.1 204 No Content\r\n\r\n", &[]);
        assert_eq!(status, Ok(204));
        assert_eq!(heard[0], "GET /healthz HTTP/1.1");
        assert!(heard[1].starts_with("Host: 127.0.0.1:") && heard.contains(&"Connection: close".to_owned()));
        assert_eq!(got(&format!("HTTP/1.0 503\r\n\r\n{}", "x".repeat(1 << 20)), &[]).0, Ok(503));
    }

    #[test]
    fn given_headers_take_the_place_of_ours() {
        let headers = [("host".to_owned(), "inner".to_owned()), ("X-A".to_owned(), "b c".to_owned())];
        let heard = got("HTTP/1.1 200 OK\r\n\r\n", &headers).1;
        assert!(heard.contains(&"host: inner".to_owned()) && heard.contains(&"X-A: b c".to_owned()));
        assert!(!heard.iter().any(|line| line.starts_with("Host:")));
    }

    #[test]
    fn what_is_no_http_is_a_failure_and_takes_bounded_memory() {
        for answer in [
            "",
            "HTTP/1.1",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 2000 x\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1\r\n",
            &"x".repeat(1 << 20),
        ] {
            assert!(matches!(got(answer, &[]).0, Err(Failure::Because(_))), "{answer:.20}");
        }
    }

    #[test]
    fn a_server_that_never_answers_ends_with_the_deadline_and_with_a_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = stop();
        let until = Until::new(std::time::Instant::now() + Duration::from_millis(20), &stop);
        assert!(matches!(get("127.0.0.1", port, "/", &[], &until), Err(Failure::Because(_))));
        rustix::io::write(&stop, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(get("127.0.0.1", port, "/", &[], &Until::new(soon(), &stop)), Err(Failure::Stopped));
    }
}

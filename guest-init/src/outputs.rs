//! What is copied out when the workload has ended, and nothing runs any more that could change it.

use std::{io::Write, path::Path};

use microagent_archive::{Reading, Source, in_words};
use microagent_guest_protocol::{Event, Output};

use crate::{error::Error, peer::Peer, secrets, stream::ToHost};

/// Sends each output as a tar stream. What cannot be read is told as the error of its output. A host that is gone ends it.
pub(crate) fn send(peer: &mut Peer, outputs: &[Output]) {
    // Of what is no disk, such as /proc, nothing is an output, and no secret is.
    let reading = Reading { follow: true, only_disks: true, without: secrets::device() };
    for output in outputs {
        peer.event(&Event::OutputStarted { name: output.name.clone() });
        let mut frames = ToHost::new(peer);
        let error = Source::open(Path::new("/"), Path::new(&output.path), reading)
            .and_then(|source| source.write(&mut frames))
            .and_then(|problems| frames.flush().map(|()| in_words(&problems)))
            .unwrap_or_else(|e| Some(format!("{}: {e}", output.path)));
        peer.event(&Event::OutputFinished { name: output.name.clone(), error });
        if peer.socket().is_none() {
            return;
        }
    }
}

/// What is wrong with outputs before they are needed.
pub(crate) fn check(outputs: &[Output]) -> Result<(), Error> {
    let invalid = |problem| Err(Error::InvalidConfig { field: "outputs".to_owned(), problem });
    for (n, output) in outputs.iter().enumerate() {
        if output.name.is_empty() || outputs[..n].iter().any(|other| other.name == output.name) {
            return invalid(format!("{:?}: each output needs a name of its own", output.name));
        }
        if !Path::new(&output.path).is_absolute() || output.path.contains('\0') {
            return invalid(format!("{:?}: an absolute path is needed", output.path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_guest_protocol::frame::{self, Kind};
    use std::{fs, os::unix::net::UnixStream, thread};

    fn output(name: &str, path: &str) -> Output {
        Output { name: name.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn each_output_is_a_tar_stream_between_its_two_events_and_a_missing_one_is_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("big"), vec![7; 3 << 20]).unwrap();
        let (mut host, guest) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || {
            let (mut events, mut bytes) = (Vec::new(), Vec::new());
            while let Some(frame) = frame::read(&mut host).unwrap() {
                match frame.kind {
                    Kind::Output => bytes.extend(frame.payload),
                    _ => events.push(frame.message::<Event>().unwrap()),
                }
            }
            (events, bytes)
        });
        let mut peer = Peer::new(guest.into()).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        send(&mut peer, &[output("none", &path("none")), output("all", &path("big"))]);
        peer.finish();
        let (events, bytes) = reader.join().unwrap();
        let started = |name: &str| Event::OutputStarted { name: name.to_owned() };
        assert_eq!((&events[0], &events[2]), (&started("none"), &started("all")));
        let Event::OutputFinished { name, error: Some(error) } = &events[1] else { panic!("{events:?}") };
        assert!(name == "none" && error.contains(&path("none")) && error.contains("No such file"), "{error}");
        assert_eq!(events[3], Event::OutputFinished { name: "all".to_owned(), error: None });
        let mut archive = tar::Archive::new(&bytes[..]);
        let sizes: Vec<_> = archive.entries().unwrap().map(|e| e.unwrap().size()).collect();
        assert_eq!(sizes, [3 << 20]);
    }

    #[test]
    fn a_host_that_leaves_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("big"), vec![7; 8 << 20]).unwrap();
        let (host, guest) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(guest.into()).unwrap();
        drop(host);
        send(&mut peer, &[output("a", &dir.path().join("big").display().to_string())]);
        assert!(peer.socket().is_none());
    }

    #[test]
    fn names_must_differ_and_paths_be_absolute() {
        assert!(check(&[output("a", "/x"), output("b", "/x")]).is_ok());
        for bad in [vec![output("a", "/x"), output("a", "/y")], vec![output("", "/x")], vec![output("a", "x")]] {
            assert_eq!(check(&bad).unwrap_err().category(), "InvalidConfig");
        }
    }
}

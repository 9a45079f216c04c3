//! Files that the host copies out or in while the machine runs.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::Path,
};

use microagent_archive::{Count, Owners, Reading, Source, Unpack, What, in_words, unpack};
use microagent_guest_protocol::{CopyIn, CopyOut, CopyReply, CopyWhat, FileName};

use crate::{
    error::Error,
    machine::Machine,
    peer::Peer,
    secrets,
    stream::{FromHost, ToHost, hear_out},
    user::Database,
};

/// Guest-init's root, which is the guest's root by the time that copies begin.
const ROOT: &str = "/";

/// Sends what is at a path, until the host has the reply or is gone.
pub(crate) fn out(machine: &Machine, socket: OwnedFd, request: &CopyOut) {
    serve(machine, socket, false, |peer, _| {
        let failed = |source| Error::NotCopied { path: request.path.clone(), source };
        let reading = Reading { follow: request.follow, only_disks: true, without: secrets::device() };
        let source = Source::open(Path::new(ROOT), path(&request.path)?, reading).map_err(failed)?;
        let mut to = ToHost::new(peer);
        let problems = source.write(&mut to).and_then(|problems| to.flush().map(|()| problems));
        Ok(in_words(&problems.map_err(failed)?))
    });
}

/// Takes an archive, until the host has the reply or is gone.
pub(crate) fn into(machine: &Machine, socket: OwnedFd, request: CopyIn) {
    serve(machine, socket, true, |peer, count| {
        let owners = if request.keep_owners {
            Owners::Kept
        } else {
            let identity = Database::load().identity(request.user.as_deref())?;
            Owners::Of { uid: identity.uid, gid: identity.gid }
        };
        let what = match request.what {
            CopyWhat::Named(FileName(name)) => What::Named(file_name(name)?),
            CopyWhat::Contents => What::Contents,
            CopyWhat::Entries => What::Entries,
        };
        let to = path(&request.path)?;
        let mut stream = FromHost::new(peer, || machine.is_finished());
        let how = Unpack { root: Path::new(ROOT), to, what, owners, special_bits: true };
        let problems = unpack(&mut stream, &how, count)?;
        // Behind the end mark of an archive is padding. What was sent is whole when its end has come.
        io::copy(&mut stream.by_ref(), &mut io::sink()).map_err(microagent_archive::Error::Stream)?;
        Ok(in_words(&problems))
    });
}

/// Does `work` in a place among the execs, and replies. `sends` tells whether the host does.
fn serve(
    machine: &Machine,
    socket: OwnedFd,
    sends: bool,
    work: impl FnOnce(&mut Peer, &mut Count) -> Result<Option<String>, Error>,
) {
    let Ok(mut peer) = Peer::new(socket) else { return };
    let place = machine.begin_exec();
    let counted = place.is_ok();
    let mut count = Count::default();
    let done = place.and_then(|_| work(&mut peer, &mut count));
    match done {
        Ok(left_out) => peer.message(&CopyReply::Copied { left_out }),
        Err(e) => {
            let (code, message) = (e.category().to_owned(), e.to_string());
            peer.message(&CopyReply::Failed { code, message, entries: count.entries, bytes: count.bytes });
            if sends {
                hear_out(&mut peer);
            }
        }
    }
    peer.finish();
    if counted {
        machine.end_exec();
    }
}

fn path(path: &str) -> Result<&Path, Error> {
    let is_one = path.starts_with('/') && !path.contains('\0');
    is_one.then(|| Path::new(path)).ok_or_else(|| Error::InvalidRequest(format!("the path {path:?} is not absolute")))
}

fn file_name(name: Vec<u8>) -> Result<OsString, Error> {
    let is_one = !matches!(&name[..], b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
    let shown = String::from_utf8_lossy(&name).into_owned();
    is_one
        .then(|| OsString::from_vec(name))
        .ok_or_else(|| Error::InvalidRequest(format!("{shown:?} is no name of a file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_a_name_is_one_part_of_it() {
        for bad in ["", "a", "../a", "/a\0"] {
            assert_eq!(path(bad).unwrap_err().category(), "InvalidRequest", "{bad:?}");
        }
        for bad in ["", ".", "..", "a/b", "/", "a\0"] {
            assert_eq!(file_name(bad.into()).unwrap_err().category(), "InvalidRequest", "{bad:?}");
        }
        assert_eq!((path("/a").unwrap(), file_name(b"..a".to_vec()).unwrap()), (Path::new("/a"), "..a".into()));
    }
}

//! The first frame of a session: of all that a guest may be asked, what belongs to the route passes, and nothing else.

use std::io;

use microagent_guest_protocol::{
    CopyReply, ExecReply, Request,
    frame::{Frame, Kind},
};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{machines::Found, route::Session};

/// The longest first frame, in bytes. Linux gives a program at most 2 MiB of arguments and variables where stacks are as usual.
const MAX_FIRST: usize = 2 * 1024 * 1024;

/// The code of what does not pass.
const REFUSED: &str = "RequestNotAllowed";

/// Reads what to ask the guest, or why what came is not to be asked.
pub(crate) async fn read(
    client: &mut (impl AsyncRead + Unpin),
    session: Session,
    found: Found,
) -> io::Result<Result<Request, String>> {
    let mut header = [0; 5];
    client.read_exact(&mut header).await?;
    let [kind, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    if kind != Kind::Message as u8 {
        return Ok(Err(format!("the first frame must be a message; its kind is {kind}")));
    }
    if length > MAX_FIRST {
        return Ok(Err(format!("the first frame has {length} bytes, more than {MAX_FIRST}")));
    }
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await?;
    Ok(match (Frame { kind: Kind::Message, payload }).message() {
        Ok(request) => admit(session, request, found),
        Err(error) => Err(format!("the first frame is no request: {error}")),
    })
}

/// A user and a directory that are not named are the workload's, as with a command on the node itself.
fn admit(session: Session, request: Request, found: Found) -> Result<Request, String> {
    match (session, request) {
        (Session::Exec, Request::Exec(mut exec)) => {
            exec.process.user = exec.process.user.or(found.user);
            exec.process.working_dir = exec.process.working_dir.or(found.working_dir);
            Ok(Request::Exec(exec))
        }
        (Session::Copy, Request::CopyOut(copy)) => Ok(Request::CopyOut(copy)),
        (Session::Copy, Request::CopyIn(mut copy)) => {
            copy.user = copy.user.or(found.user);
            Ok(Request::CopyIn(copy))
        }
        (Session::Copy, Request::Exec(_)) => {
            Err("this is the way of copies; commands have one of their own".to_owned())
        }
        (Session::Exec, Request::CopyOut(_) | Request::CopyIn(_)) => {
            Err("this is the way of commands; copies have one of their own".to_owned())
        }
        (_, Request::Configure(_) | Request::Resumed { .. }) => {
            Err("a machine is configured by its own node only; the gate runs commands and copies files".to_owned())
        }
        (_, Request::Shutdown { .. }) => {
            Err("a machine is shut down through its Workspace; the gate runs commands and copies files".to_owned())
        }
    }
}

/// The reply to what does not pass, in the session's own words.
pub(crate) fn refusal(session: Session, message: String) -> io::Result<Vec<u8>> {
    let code = REFUSED.to_owned();
    match session {
        Session::Exec => super::session::message(&ExecReply::Failed { code, message }),
        Session::Copy => super::session::message(&CopyReply::Failed { code, message, entries: 0, bytes: 0 }),
    }
}

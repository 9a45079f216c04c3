//! A log on its way to a client: what is there, then what is added, across rotations.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use microagent_base::log::{cri, tail::Tail};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    machines::{Found, Machines},
    route::{LogOptions, Route},
};

/// How much is sent at once, in bytes, or one line if that is longer.
const PIECE: usize = 32 * 1024;
/// How many pieces may wait for the client.
const PIECES: usize = 2;
/// How long after something was written the log is looked at again. Looks become rarer while nothing comes. Each watch of the kernel
/// would be one of 128 that a user of a host has, so there is none.
const SOON: Duration = Duration::from_millis(50);
/// The longest time between two looks.
const LATE: Duration = Duration::from_millis(500);
/// How long a client may take nothing, such as a pager that nobody reads on in.
const STALL: Duration = Duration::from_secs(3600);

/// The pieces of a log. They end with the log: when all is read that there is, or, if it is followed, when nothing more can come.
pub(crate) fn stream(
    machines: Arc<dyn Machines>,
    route: Route,
    options: LogOptions,
    found: Found,
    slot: OwnedSemaphorePermit,
) -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let _slot = slot;
        if let Err(error) = send(&*machines, &route, options, &found, &pieces).await {
            // Who has gone does not hear it.
            let _ = pieces.send(Err(error)).await;
        }
    });
    receiver
}

async fn send(
    machines: &dyn Machines,
    route: &Route,
    options: LogOptions,
    found: &Found,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let path = if options.console { &found.console_log } else { &found.workload_log };
    let follow = options.follow;
    let mut reader = Reader { tail: Tail::new(path), keep: options.tail, since: options.since };
    let mut pace = SOON;
    loop {
        // Asked before the log is read: all that is written is there before its end is told.
        let now = machines.find(&route.namespace, &route.name);
        let is_over = now.is_none_or(|now| now.uid != found.uid || now.is_over());
        let is_last = !follow || is_over;
        let mut out = Pieces { buffer: Vec::new(), sent: false, to: pieces.clone() };
        let look = spawn_blocking(move || {
            let looked = reader.look(&mut out, is_last).and_then(|()| out.flush());
            looked.map(|()| (reader, out.sent))
        });
        let (read, sent) = look.await.map_err(io::Error::other)??;
        reader = read;
        if is_last {
            return Ok(());
        }
        pace = if sent { SOON } else { LATE.min(pace * 2) };
        tokio::select! {
            () = sleep(pace) => {}
            () = pieces.closed() => return Ok(()),
        }
    }
}

struct Reader {
    tail: Tail,
    /// Only the first look has it.
    keep: Option<usize>,
    since: Option<String>,
}

impl Reader {
    fn look(&mut self, out: &mut Pieces, is_last: bool) -> io::Result<()> {
        let since = self.since.as_deref();
        let wanted = |line: &[u8]| since.is_none_or(|since| !cri::is_before(line, since));
        match self.keep.take() {
            Some(keep) => self.tail.last(keep, wanted, |line| out.line(line))?,
            None => self.tail.lines(|line| if wanted(line) { out.line(line) } else { Ok(()) })?,
        }
        if is_last { self.tail.rest(|part| if wanted(part) { out.part(part) } else { Ok(()) }) } else { Ok(()) }
    }
}

/// Lines that are gathered and sent. Waits, on a thread where that is allowed, while the client takes nothing.
struct Pieces {
    buffer: Vec<u8>,
    sent: bool,
    to: mpsc::Sender<io::Result<Bytes>>,
}

impl Pieces {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(line);
        self.part(b"\n")
    }

    fn part(&mut self, part: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(part);
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.sent = true;
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        match Handle::current().block_on(timeout(STALL, self.to.send(Ok(piece)))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

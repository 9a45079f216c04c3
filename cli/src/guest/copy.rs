//! A copy of files over one connection: an archive one way, and the guest's word at its end.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use microagent_archive::{Count, Error, Unpack, unpack};
use microagent_base::{Progress, progress::Step};
use microagent_guest_protocol::{
    CopyIn, CopyOut, CopyReply, Request,
    frame::{self, Kind, MAX_DATA},
};

use super::wire::Wire;
use crate::output::progress::Bars;

/// Between two steps of progress that are shown, in bytes.
const STEP: u64 = 256 * 1024;

/// How a copy ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest said so.
    Reply(CopyReply),
    /// The guest hung up without a word: it was cut off, and what came is not whole.
    HungUp,
    /// The guest sent what the protocol does not allow, or the connection broke.
    Broken(io::Error),
    /// What came cannot be unpacked here.
    Unpacking(Error),
    /// Our own side of the stream: standard input or output.
    Ours(io::Error),
}

/// What came of a copy.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// What was left out or could not be read on our side.
    pub(crate) problems: Vec<String>,
    /// How much was unpacked here.
    pub(crate) count: Count,
}

impl Outcome {
    fn of(end: End) -> Self {
        Self { end, problems: Vec::new(), count: Count::default() }
    }
}

/// Shows how much has passed, and says when nobody wants the rest.
#[derive(Clone)]
pub(crate) struct Meter {
    what: String,
    bars: Option<Arc<Bars>>,
    cancelled: Arc<AtomicBool>,
    done: u64,
    shown: u64,
}

impl Meter {
    pub(crate) fn new(what: String, bars: Option<Arc<Bars>>) -> Self {
        Self { what, bars, cancelled: Arc::default(), done: 0, shown: 0 }
    }

    /// Ends the copy at its next bytes.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn pass(&mut self, bytes: usize) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            // Another kind than an interrupted call, which would be made again.
            return Err(io::Error::other("the copy was cancelled"));
        }
        self.done += bytes as u64;
        if let Some(bars) = self.bars.as_ref().filter(|_| self.done >= self.shown + STEP) {
            self.shown = self.done;
            bars.step(Step { what: self.what.clone(), done: self.done, total: None });
        }
        Ok(())
    }
}

/// Copies out of the guest and unpacks. Blocks the thread.
pub(crate) fn unpack_out(wire: Wire, request: CopyOut, how: &Unpack<'_>, meter: Meter) -> Outcome {
    let mut archive = match FromGuest::ask(wire, request, meter) {
        Ok(archive) => archive,
        Err(e) => return Outcome::of(End::Broken(e)),
    };
    let mut count = Count::default();
    let unpacked = unpack(&mut archive, how, &mut count);
    let (end, problems) = match unpacked {
        Ok(problems) => (archive.pass_to(&mut io::sink()), problems),
        // The guest's own word about why there is no more is the better one.
        Err(e) => (archive.end.take().unwrap_or(End::Unpacking(e)), Vec::new()),
    };
    Outcome { end, problems, count }
}

/// Copies out of the guest to a stream, as it comes. Blocks the thread.
pub(crate) fn stream_out(wire: Wire, request: CopyOut, to: &mut impl Write, meter: Meter) -> Outcome {
    match FromGuest::ask(wire, request, meter) {
        Ok(mut archive) => Outcome::of(archive.pass_to(to)),
        Err(e) => Outcome::of(End::Broken(e)),
    }
}

/// Copies into the guest what `write` gives, which tells of problems. Blocks the thread until the guest has replied.
pub(crate) fn copy_in(
    wire: Wire,
    request: CopyIn,
    meter: Meter,
    write: impl FnOnce(&mut ToGuest) -> io::Result<Vec<String>> + Send + 'static,
) -> Outcome {
    let Wire { mut reader, mut writer } = wire;
    if let Err(e) = frame::write_message(&mut writer, &Request::CopyIn(request)).and_then(|()| writer.flush()) {
        return Outcome::of(End::Broken(e));
    }
    let stop = meter.clone();
    let mut to = ToGuest { wire: writer, buffer: Vec::with_capacity(MAX_DATA), meter };
    let sending = thread::spawn(move || {
        let written = write(&mut to);
        // Also when our own side failed: the guest finds that the archive is cut off, and says so.
        to.finish();
        written
    });
    let end = match frame::read(&mut reader) {
        Ok(Some(frame)) => frame.message().map_or_else(End::Broken, End::Reply),
        Ok(None) => End::HungUp,
        Err(e) => broken(e),
    };
    if !matches!(end, End::Reply(CopyReply::Copied { .. })) && !sending.is_finished() {
        // It may wait for standard input for ever.
        stop.cancel();
        return Outcome::of(end);
    }
    match sending.join() {
        Ok(Ok(problems)) => Outcome { problems, ..Outcome::of(end) },
        // The guest's word about why it took no more is the better one.
        Ok(Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => Outcome::of(End::Ours(e)),
        _ => Outcome::of(end),
    }
}

fn broken(e: io::Error) -> End {
    match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => End::HungUp,
        _ => End::Broken(e),
    }
}

/// An archive that the guest sends.
struct FromGuest {
    wire: Box<dyn Read + Send>,
    // Held so that the connection stays whole until the end.
    _writer: Box<dyn Write + Send>,
    meter: Meter,
    chunk: io::Cursor<Vec<u8>>,
    end: Option<End>,
}

impl FromGuest {
    fn ask(wire: Wire, request: CopyOut, meter: Meter) -> io::Result<Self> {
        let Wire { reader, mut writer } = wire;
        frame::write_message(&mut writer, &Request::CopyOut(request))?;
        writer.flush()?;
        Ok(Self { wire: reader, _writer: writer, meter, chunk: io::Cursor::default(), end: None })
    }

    /// Passes on all that comes until the guest's word.
    fn pass_to(&mut self, to: &mut impl Write) -> End {
        let mut buffer = vec![0; MAX_DATA];
        loop {
            let read = match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) => return self.end.take().unwrap_or(End::Ours(e)),
            };
            if let Err(e) = to.write_all(&buffer[..read]) {
                return End::Ours(e);
            }
        }
        if let Err(e) = to.flush() {
            return End::Ours(e);
        }
        self.end.take().unwrap_or(End::HungUp)
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, End> {
        let frame = match frame::read(&mut self.wire) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(End::HungUp),
            Err(e) => return Err(broken(e)),
        };
        match frame.kind {
            Kind::Output => Ok(Some(frame.payload)),
            Kind::Message => Err(frame.message().map_or_else(End::Broken, End::Reply)),
            kind => {
                let message = format!("the guest sent a frame of {kind:?} in a copy");
                Err(End::Broken(io::Error::new(io::ErrorKind::InvalidData, message)))
            }
        }
    }
}

impl Read for FromGuest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                self.meter.pass(read)?;
                return Ok(read);
            }
            match &self.end {
                None => match self.next() {
                    Ok(chunk) => self.chunk = io::Cursor::new(chunk.unwrap_or_default()),
                    Err(end) => self.end = Some(end),
                },
                Some(End::Reply(CopyReply::Copied { .. })) => return Ok(0),
                Some(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive was cut off")),
            }
        }
    }
}

/// An archive on its way to the guest.
pub(crate) struct ToGuest {
    wire: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    meter: Meter,
}

impl ToGuest {
    /// Sends what waits, and the end. Where the guest does not take it any longer, its reply tells why.
    fn finish(mut self) {
        let _ =
            self.flush().and_then(|()| frame::write(&mut self.wire, Kind::Stdin, b"")).and_then(|()| self.wire.flush());
    }
}

impl Write for ToGuest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MAX_DATA - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == MAX_DATA {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.meter.pass(self.buffer.len())?;
        let sent = frame::write(&mut self.wire, Kind::Stdin, &self.buffer).and_then(|()| self.wire.flush());
        self.buffer.clear();
        // Whatever the connection says, the guest does not take it any longer.
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

//! Frames: one byte of kind, the payload's length as four bytes big-endian, the payload.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// The longest payload of a [`Kind::Message`], in bytes. Configurations carry files.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The longest payload of a data frame, in bytes.
pub const MAX_DATA: usize = 64 * 1024;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON: a request, an event, an input or a reply.
    Message = 0,
    /// Bytes for a command's standard input, or of an archive that is copied in. An empty frame is the end.
    Stdin = 1,
    /// Bytes of standard output.
    Stdout = 2,
    /// Bytes of standard error.
    Stderr = 3,
    /// Bytes of a tar archive: of the output that was announced last, or of what is copied out.
    Output = 4,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Message, Self::Stdin, Self::Stdout, Self::Stderr, Self::Output].into_iter().find(|k| *k as u8 == byte)
    }

    /// The longest payload of this kind, in bytes.
    #[must_use]
    pub fn limit(self) -> usize {
        if self == Self::Message { MAX_MESSAGE } else { MAX_DATA }
    }
}

/// Writes one frame with a single call of `write_all`.
///
/// # Errors
/// Those of the writer, and `InvalidInput` for a payload past the limit of its kind.
pub fn write(writer: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= kind.limit()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {} bytes is too long", payload.len()))
    })?;
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(kind as u8);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(payload);
    writer.write_all(&bytes)
}

/// Reads one frame; `None` when the peer closed between frames.
///
/// # Errors
/// Those of the reader; `UnexpectedEof` inside a frame; `InvalidData` for an unknown kind or a length past its limit.
pub fn read(reader: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; 5];
    let mut have = 0;
    while have < header.len() {
        match reader.read(&mut header[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let kind = Kind::from_byte(header[0]).ok_or_else(|| invalid(format!("frame of unknown kind {}", header[0])))?;
    let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if len > kind.limit() {
        return Err(invalid(format!("{kind:?} frame of {len} bytes, more than {}", kind.limit())));
    }
    let mut payload = vec![0; len];
    reader.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

/// Writes one message as a frame.
///
/// # Errors
/// As [`write()`].
pub fn write_message(writer: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    write(writer, Kind::Message, &serde_json::to_vec(message)?)
}

/// Reads one frame that must be a message.
///
/// # Errors
/// As [`read()`]; `UnexpectedEof` when the peer closed; `InvalidData` for another kind or for JSON that does not decode.
pub fn read_message<T: DeserializeOwned>(reader: &mut impl Read) -> io::Result<T> {
    let frame = read(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    frame.message()
}

impl Frame {
    /// Decodes the payload of a message.
    ///
    /// # Errors
    /// `InvalidData` for another kind of frame or for JSON that does not decode.
    pub fn message<T: DeserializeOwned>(&self) -> io::Result<T> {
        if self.kind != Kind::Message {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{:?} frame in place of a message", self.kind),
            ));
        }
        serde_json::from_slice(&self.payload).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Bytes as base64 text in JSON (RFC 4648, section 4).
pub(crate) mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Exit, Request};

    #[test]
    fn frames_survive_the_wire_and_a_closed_peer_is_no_error() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Stdout, b"hello").unwrap();
        write_message(&mut wire, &Event::WorkloadExited { exit: Exit::code(7), at_ms: 3 }).unwrap();
        let mut reader = &wire[..];
        assert_eq!(read(&mut reader).unwrap().unwrap().payload, b"hello");
        assert_eq!(
            read_message::<Event>(&mut reader).unwrap(),
            Event::WorkloadExited { exit: Exit::code(7), at_ms: 3 }
        );
        assert_eq!(read(&mut reader).unwrap(), None);
    }

    #[test]
    fn a_lying_length_and_an_unknown_kind_are_refused_before_memory_is_taken() {
        assert_eq!(read(&mut &[0, 255, 255, 255, 255][..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&mut &[9, 0, 0, 0, 0][..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&mut &[2, 0, 0, 0, 4, 1][..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"request":"shutdown","graceSeconds":1,"now":true}"#;
        assert!(serde_json::from_str::<Request>(text).is_err());
    }
}

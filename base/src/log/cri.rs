//! The log format of the Kubernetes container runtime interface: `TIMESTAMP STREAM TAGS TEXT`, where a tag `P` says that the
//! line goes on in the next record and `F` that it ends (`kubernetes/design-proposals-archive`, `kubelet-cri-logging.md`).

/// Which output a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// The output it is from.
    pub stream: Stream,
    /// Whether the line ends here.
    pub full: bool,
    /// Whether a setup command wrote it.
    pub setup: bool,
    /// The text, without the line's end.
    pub text: &'a [u8],
}

/// Reads one line of a log, without its line feed. `None` when it is not a record.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |&b| b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok().filter(|t| t.contains('T') && t.len() <= 40)?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let mut tags = parts.next()?.split(|&b| b == b':');
    let full = match tags.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Record { time, stream, full, setup: tags.any(|t| t == b"setup"), text: parts.next().unwrap_or_default() })
}

/// Whether a line was written before `time`, which has nine digits behind the second and ends in `Z`, as records do: then times sort
/// as text. What is no record was not.
#[must_use]
pub fn is_before(line: &[u8], time: &str) -> bool {
    parse(line).is_some_and(|record| record.time < time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-22T10:00:00.000000001Z";

    #[test]
    fn a_record_keeps_every_byte_of_its_text() {
        let line = format!("{TIME} stdout F  two  spaces ");
        let record = parse(line.as_bytes()).unwrap();
        assert_eq!(
            record,
            Record { time: TIME, stream: Stream::Stdout, full: true, setup: false, text: b" two  spaces " }
        );
        assert_eq!(parse(format!("{TIME} stdout F ").as_bytes()).unwrap().text, b"");
        assert_eq!(parse(format!("{TIME} stdout F").as_bytes()).unwrap().text, b"");
    }

    #[test]
    fn tags_tell_partial_lines_and_setup() {
        let record = |tags: &str| {
            let line = format!("{TIME} stderr {tags} x");
            parse(line.as_bytes()).map(|r| (r.full, r.setup))
        };
        assert_eq!(record("P"), Some((false, false)));
        assert_eq!(record("F:setup"), Some((true, true)));
        assert_eq!(record("P:other:setup"), Some((false, true)));
        assert_eq!(record("X"), None);
    }

    #[test]
    fn records_are_older_than_a_later_time_only() {
        let line = format!("{TIME} stdout F x");
        for (time, before) in [
            ("2026-11-22T10:00:00.000000001Z", false),
            ("2026-11-22T10:00:00.000000002Z", true),
            ("2026-11-22T09:59:59.999999999Z", false),
            ("2027-01-01T00:00:00.000000000Z", true),
        ] {
            assert_eq!(is_before(line.as_bytes(), time), before, "{time}");
        }
        assert!(!is_before(b"no record", "9"));
    }

    #[test]
    fn what_is_not_a_record_is_told_apart() {
        for line in ["", "hello", "now stdout F x", "2026-11-22T10:00:00Z console F x", "2026-11-22T10:00:00Z stdout"] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
    }
}

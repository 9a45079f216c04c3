//! Records of extended headers (POSIX.1-2024, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n` one after another.

/// The records that matter to a copy; all others are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(crate) mtime: Option<(i64, u32)>,
    /// The entry's bytes are not the file's.
    pub(crate) is_sparse: bool,
}

impl Records {
    /// Reads the content of an extended header; a later record takes the place of an earlier one.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = first(bytes).ok_or("an extended header has a record that is none")?;
            bytes = rest;
            let equals =
                record.iter().position(|&b| b == b'=').ok_or("an extended header has a record without value")?;
            records.take(&record[..equals], &record[equals + 1..])?;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value takes a record back.
        let given = !value.is_empty();
        let number = |what: &str| match text(value).and_then(|text| text.parse().ok()) {
            _ if !given => Ok(None),
            Some(number) => Ok(Some(number)),
            None => Err(format!("an extended header has a {what} that is no number")),
        };
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = number("size")?,
            b"uid" => self.uid = number("uid")?,
            b"gid" => self.gid = number("gid")?,
            b"mtime" if given => {
                self.mtime = Some(time(value).ok_or("an extended header has a time that is none")?);
            }
            b"mtime" => self.mtime = None,
            key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
            _ => {}
        }
        Ok(())
    }
}

/// The content of the first record, and what follows it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = text(&bytes[..space])?.parse().ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &bytes[length..]))
}

fn text(bytes: &[u8]) -> Option<&str> {
    // Rust's numbers may have a plus sign, those of the format may not.
    std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('+'))
}

/// Seconds since 1970, with a fraction. Before that time the fraction is left out.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (seconds, fraction) = text(value)?.split_once('.').unwrap_or((text(value)?, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos = digits.parse().ok().filter(|_| fraction.bytes().all(|b| b.is_ascii_digit()))?;
    let seconds: i64 = seconds.parse().ok()?;
    Some((seconds, if value.starts_with(b"-") { 0 } else { nanos }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [format!(" {key}=").as_bytes(), value, b"\n"].concat();
        let digits = (rest.len() + 2).to_string().len();
        [(rest.len() + digits).to_string().into_bytes(), rest].concat()
    }

    #[test]
    fn records_are_read_by_their_length_so_that_values_may_hold_anything() {
        let name = b"a\n17 size=9\n=\xff";
        let bytes = [
            record("path", b"x"),
            record("path", name),
            record("SCHILY.xattr.user.x", &[0; 200]),
            record("size", b"12"),
            record("uid", b"7"),
            record("gid", b""),
            record("mtime", b"1700000000.25"),
        ];
        let records = Records::parse(&bytes.concat()).unwrap();
        let expected = Records {
            path: Some(name.to_vec()),
            size: Some(12),
            uid: Some(7),
            mtime: Some((1_700_000_000, 250_000_000)),
            ..Records::default()
        };
        assert_eq!(records, expected);
        assert!(Records::parse(&record("GNU.sparse.major", b"1")).unwrap().is_sparse);
        assert_eq!(time(b"-5.75"), Some((-5, 0)));
    }

    #[test]
    fn a_record_that_lies_is_an_error() {
        for bytes in [
            &b"x"[..],
            b"9 path=a",
            b"99999999999999999999999 path=a\n",
            b"999999 path=a\n",
            b"2 path=a\n",
            b"0 \n",
            b"+9 path=a\n",
            b"7 path\n",
            b"11 size=-1\n",
            b"11 size=+1\n",
            b"12 mtime=1e\n",
            b"32 size=18446744073709551616999\n",
        ] {
            assert!(Records::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}

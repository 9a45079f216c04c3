//! PAX extended headers: POSIX.1-2017 `pax`, "pax Extended Header", with the vendor keywords that layers use.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::{error::Problem, layer::Time};

/// libarchive leaves the padding away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keywords that were given. A later value of the same keyword wins; an empty one takes it back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pax {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Sparse format 0.0 gives its map as repeated keywords whose order counts.
    pub(crate) sparse_pieces: Vec<(u64, u64)>,
    open_piece: Option<u64>,
    bytes: u64,
    /// The global headers, whose values count where there is no other.
    globals: Option<Arc<Self>>,
}

impl Pax {
    /// The headers of one entry. Global ones are shared: a copy for every entry would let a large one cost much.
    pub(crate) fn over(globals: &Arc<Self>) -> Self {
        Self { globals: Some(Arc::clone(globals)), ..Self::default() }
    }

    /// Adds the records of one header, unless that makes more than `limit` bytes in all.
    pub(crate) fn add(&mut self, mut records: &[u8], limit: u64) -> Result<(), Problem> {
        self.bytes = self.bytes.saturating_add(records.len() as u64);
        if self.bytes > limit {
            return Err(Problem::ExtendedHeader(self.bytes));
        }
        while !records.is_empty() {
            // Some writers fill the header's last block with NULs and count them.
            if records.iter().all(|&b| b == 0) {
                break;
            }
            let (key, value, rest) = record(records).ok_or(Problem::Pax)?;
            records = rest;
            match key {
                b"GNU.sparse.offset" => self.open_piece = Some(decimal(value).ok_or(Problem::Sparse)?),
                b"GNU.sparse.numbytes" => {
                    let offset = self.open_piece.take().ok_or(Problem::Sparse)?;
                    self.sparse_pieces.push((offset, decimal(value).ok_or(Problem::Sparse)?));
                }
                _ => {
                    self.values.insert(key.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }

    /// The value of a keyword, if it has one.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        let global = || self.globals.as_ref()?.values.get(key.as_bytes());
        self.values.get(key.as_bytes()).or_else(global).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// A whole number.
    pub(crate) fn number(&self, key: &'static str) -> Result<Option<u64>, Problem> {
        self.get(key).map(|value| decimal(value).ok_or(Problem::Number(key))).transpose()
    }

    /// A number of 32 bits.
    pub(crate) fn small(&self, key: &'static str) -> Result<Option<u32>, Problem> {
        self.number(key)?.map(|value| u32::try_from(value).map_err(|_| Problem::Number(key))).transpose()
    }

    /// A time with fractions of a second; digits below the nanosecond are cut off.
    pub(crate) fn time(&self, key: &'static str) -> Result<Option<Time>, Problem> {
        self.get(key).map(|value| time(value).ok_or(Problem::Number(key))).transpose()
    }

    /// Extended attributes by their full names. `SCHILY.xattr` wins over libarchive's own keyword.
    pub(crate) fn xattrs(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Problem> {
        let mut xattrs = BTreeMap::new();
        for (name, value) in self.named(b"LIBARCHIVE.xattr.") {
            let value = BASE64.decode(value.trim_ascii()).map_err(|_| Problem::Pax)?;
            xattrs.insert(percent_decode(name), value);
        }
        xattrs.extend(self.named(b"SCHILY.xattr.").map(|(name, value)| (name.to_vec(), value.to_vec())));
        Ok(xattrs)
    }

    /// The rests of the keywords with this beginning, and their values: global ones first. What does not begin so costs
    /// nothing.
    fn named<'a>(&'a self, prefix: &'static [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let of = move |pax: &'a Self| {
            let from = pax.values.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
            from.map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_slice())))
        };
        self.globals.as_deref().into_iter().chain([self]).flat_map(of)
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts the whole record.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // More digits than any length below the header limit has.
    let space = bytes.iter().take(12).position(|&b| b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return None;
    }
    let body = &bytes[space + 1..length - 1];
    let equals = body.iter().position(|&b| b == b'=').filter(|&at| at > 0)?;
    Some((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// Decimal digits and nothing else.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn time(bytes: &[u8]) -> Option<Time> {
    let (negative, bytes) = match bytes.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    let mut parts = bytes.splitn(2, |&b| b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next().filter(|f| !f.is_empty()) {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut digits = [b'0'; 9];
        let count = fraction.len().min(9);
        digits[..count].copy_from_slice(&fraction[..count]);
        nanos = u32::try_from(decimal(&digits)?).ok()?;
    }
    match (negative, nanos) {
        (false, _) => Some(Time { seconds, nanos }),
        (true, 0) => Some(Time { seconds: -seconds, nanos: 0 }),
        // Before 1970 the nanoseconds still count forward.
        (true, _) => Some(Time { seconds: (-seconds).checked_sub(1)?, nanos: 1_000_000_000 - nanos }),
    }
}

fn percent_decode(name: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|&b| char::from(b).to_digit(16));
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while at < name.len() {
        match (name[at], digit(name.get(at + 1)), digit(name.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_an_empty_value_takes_back() {
        let mut pax = Pax::default();
        pax.add(b"12 path=abc\n18 uid=4000000000\n\0\0", 999).unwrap();
        assert_eq!(pax.get("path"), Some(&b"abc"[..]));
        assert_eq!(pax.small("uid"), Ok(Some(4_000_000_000)));
        pax.add(b"8 path=\n", 999).unwrap();
        assert_eq!(pax.get("path"), None);
    }

    #[test]
    fn an_entry_s_own_records_come_before_the_global_ones() {
        let mut globals = Pax::default();
        globals.add(b"11 mtime=7\n12 path=abc\n25 SCHILY.xattr.user.g=1\n", 999).unwrap();
        let mut pax = Pax::over(&Arc::new(globals));
        assert_eq!((pax.get("path"), pax.number("mtime")), (Some(&b"abc"[..]), Ok(Some(7))));
        pax.add(b"8 path=\n11 mtime=8\n25 SCHILY.xattr.user.l=2\n", 999).unwrap();
        assert_eq!((pax.get("path"), pax.number("mtime")), (None, Ok(Some(8))));
        assert_eq!(pax.xattrs().unwrap().len(), 2);
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in
            [&b"5 a=b"[..], b"99 a=b\n", b"0 a=b\n", b"x a=b\n", b"5 ab\n", b"6 =ab\n", b"99999999999999999999 a=b\n"]
        {
            assert_eq!(Pax::default().add(bad, 999).unwrap_err(), Problem::Pax, "{bad:?}");
        }
    }

    #[test]
    fn times_have_nanoseconds_that_count_forward() {
        assert_eq!(time(b"5.123456789"), Some(Time { seconds: 5, nanos: 123_456_789 }));
        assert_eq!(time(b"-1000"), Some(Time { seconds: -1000, nanos: 0 }));
        assert_eq!(time(b"-1.25"), Some(Time { seconds: -2, nanos: 750_000_000 }));
        assert_eq!(time(b"1.0000000001"), Some(Time { seconds: 1, nanos: 0 }));
        assert_eq!(time(b"1.x"), None);
    }

    #[test]
    fn libarchive_attributes_are_decoded_and_yield_to_schily() {
        let mut pax = Pax::default();
        for record in
            ["34 LIBARCHIVE.xattr.user.a%20b=YQ\n", "30 LIBARCHIVE.xattr.user.c=Yg\n", "25 SCHILY.xattr.user.c=z\n"]
        {
            assert_eq!(record.split(' ').next(), Some(record.len().to_string().as_str()));
            pax.add(record.as_bytes(), 999).unwrap();
        }
        let xattrs = pax.xattrs().unwrap();
        assert_eq!(xattrs[&b"user.a b"[..]], b"a");
        assert_eq!(xattrs[&b"user.c"[..]], b"z");
    }
}

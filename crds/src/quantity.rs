//! Kubernetes quantities as the two newtypes that a workspace needs: bytes and CPUs.
//!
//! Grammar: `k8s.io/apimachinery/pkg/api/resource`, "Quantity". As there, a value finer than the unit is rounded up.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longer texts are refused before they are read: no sensible quantity needs more.
const MAX_TEXT: usize = 32;

/// Why a text is not a quantity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form `<number><suffix>`.
    #[error("{0:?} is not a quantity; write a number and a suffix, such as \"512Mi\", \"2Gi\" or \"500m\"")]
    Syntax(String),
    /// Below zero.
    #[error("quantity {0:?} is negative; write a number above zero")]
    Negative(String),
    /// More than 64 bits of the unit.
    #[error("quantity {0:?} is too large; the most that can be written is 16Ei")]
    TooLarge(String),
}

/// An amount of memory or disk, in bytes. Written as a quantity (`512Mi`, `10Gi`, `2G`).
///
/// The bounds belong to the field that holds it and stand there as a CEL rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(u64);

impl Memory {
    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many mebibytes (2^20 bytes); saturates at the largest amount.
    #[must_use]
    pub const fn from_mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes.saturating_mul(1 << 20))
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In mebibytes, rounded up.
    #[must_use]
    pub const fn mebibytes(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl FromStr for Memory {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, 0).map(Self)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        match UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((suffix, shift)) => write!(f, "{}{suffix}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Memory;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string with a quantity of bytes, such as \"512Mi\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Memory, E> {
                text.parse().map_err(E::custom)
            }
        }
        // Only strings: the schema says so too, because CEL can bound the cost of a string but not of int-or-string.
        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for Memory {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Memory".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": MAX_TEXT, "description": "A quantity of bytes, such as 512Mi." })
    }
}

/// An amount of CPU, in thousandths of one CPU. Written as a quantity (`2`, `"1.5"`, `500m`).
///
/// The bounds belong to the field that holds it and stand there as a CEL rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(u64);

impl Cpus {
    /// So many whole CPUs.
    #[must_use]
    pub const fn new(cpus: u32) -> Self {
        Self(cpus as u64 * 1000)
    }

    /// In thousandths of a CPU.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The virtual CPUs that the machine gets: rounded up to a whole number, at least 1, at most 64.
    #[must_use]
    pub fn vcpus(self) -> u8 {
        u8::try_from(self.0.div_ceil(1000).clamp(1, 64)).unwrap_or(64)
    }
}

impl FromStr for Cpus {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, 3).map(Self)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cpus;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a string with a quantity of CPUs such as \"1.5\" or \"500m\"")
            }
            fn visit_u64<E: de::Error>(self, cpus: u64) -> Result<Cpus, E> {
                cpus.checked_mul(1000).map(Cpus).ok_or_else(|| E::custom(QuantityError::TooLarge(cpus.to_string())))
            }
            fn visit_i64<E: de::Error>(self, cpus: i64) -> Result<Cpus, E> {
                match u64::try_from(cpus) {
                    Ok(cpus) => self.visit_u64(cpus),
                    Err(_) => Err(E::custom(QuantityError::Negative(cpus.to_string()))),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cpus, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Cpus {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Cpus".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "description": "A quantity of CPUs, such as 2 or 500m." })
    }
}

/// Reads a quantity and gives it in units of 10^-`decimals`, rounded up.
fn parse(text: &str, decimals: i32) -> Result<u64, QuantityError> {
    let syntax = || QuantityError::Syntax(text.chars().take(MAX_TEXT).collect());
    if text.len() > MAX_TEXT {
        return Err(syntax());
    }
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(syntax());
    }
    let (shift, exponent) = scale(suffix).ok_or_else(syntax)?;
    let mut mantissa: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        // At most 32 digits fit the text, and 10^32 fits 128 bits.
        mantissa = mantissa * 10 + u128::from(digit - b'0');
    }
    if mantissa == 0 {
        return Ok(0);
    }
    if negative {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let too_large = || QuantityError::TooLarge(text.to_owned());
    let exponent = exponent + decimals - i32::try_from(fraction.len()).map_err(|_| syntax())?;
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    let value = if exponent >= 0 {
        power.and_then(|p| mantissa.checked_mul(p)).and_then(|v| v.checked_mul(1 << shift)).ok_or_else(too_large)?
    } else {
        let scaled = mantissa.checked_mul(1 << shift).ok_or_else(too_large)?;
        power.map_or(1, |p| scaled.div_ceil(p))
    };
    u64::try_from(value).map_err(|_| too_large())
}

/// A suffix as (power of two, power of ten).
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        _ => {
            let exponent: i8 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (0, i32::from(exponent))
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_read_with_every_suffix_and_rounded_up() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("+1Ki", 1024),
            ("512Mi", 512 << 20),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("2G", 2_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("1E", 10u64.pow(18)),
            ("1500m", 2),
            ("0.1Ki", 103),
            ("1n", 1),
        ] {
            assert_eq!(text.parse::<Memory>().map(Memory::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused_with_its_reason() {
        for text in ["", "Mi", "1.2.3", ".", "1 Gi", "1gi", "1GiB", "0x10", "1e", "1e999", &"1".repeat(33)] {
            assert!(matches!(text.parse::<Memory>(), Err(QuantityError::Syntax(_))), "{text}");
        }
        assert!(matches!("-1Gi".parse::<Memory>(), Err(QuantityError::Negative(_))));
        assert!(matches!("16Ei".parse::<Memory>(), Err(QuantityError::TooLarge(_))));
        assert!(matches!("1e99".parse::<Memory>(), Err(QuantityError::TooLarge(_))));
    }

    #[test]
    fn a_fraction_of_a_cpu_still_gets_a_whole_virtual_cpu() {
        assert_eq!("500m".parse::<Cpus>().map(Cpus::vcpus), Ok(1));
        assert_eq!("1.5".parse::<Cpus>().map(Cpus::vcpus), Ok(2));
        assert_eq!(serde_json::from_str::<Cpus>("3").unwrap(), Cpus::new(3));
        assert!(serde_json::from_str::<Cpus>("0.5").is_err());
        assert!(serde_json::from_str::<Cpus>("-1").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes: u64, millis in 0u64..u64::MAX / 1000) {
            prop_assert_eq!(Memory(bytes).to_string().parse::<Memory>(), Ok(Memory(bytes)));
            prop_assert_eq!(Cpus(millis).to_string().parse::<Cpus>(), Ok(Cpus(millis)));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Memory>();
            let _ = text.parse::<Cpus>();
        }
    }
}

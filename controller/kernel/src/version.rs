//! Kernel releases and package versions: their order, and what a pin matches.

use std::cmp::Ordering;

/// Orders kernel releases and Debian package versions, oldest first, by the rules of deb-version(7):
/// digits by value, letters before other characters, `~` before everything, the end included.
#[must_use]
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = epoch(left);
    let (right_epoch, right) = epoch(right);
    left_epoch.cmp(&right_epoch).then_with(|| compare_parts(left.as_bytes(), right.as_bytes()))
}

fn epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => epoch.parse().map_or((0, version), |epoch| (epoch, rest)),
        None => (0, version),
    }
}

fn compare_parts(mut left: &[u8], mut right: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(b) if b.is_ascii_digit() => 0,
        Some(b) if b.is_ascii_alphabetic() => i32::from(*b),
        Some(b) => i32::from(*b) + 256,
    };
    while !left.is_empty() || !right.is_empty() {
        while left.first().is_some_and(|b| !b.is_ascii_digit()) || right.first().is_some_and(|b| !b.is_ascii_digit()) {
            match weight(left.first()).cmp(&weight(right.first())) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            left = left.get(1..).unwrap_or_default();
            right = right.get(1..).unwrap_or_default();
        }
        let (left_digits, left_rest) = digits(left);
        let (right_digits, right_rest) = digits(right);
        match left_digits.len().cmp(&right_digits.len()).then_with(|| left_digits.cmp(right_digits)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// The leading digits without leading zeros, and the rest.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let start = digits.iter().position(|b| *b != b'0').unwrap_or(digits.len());
    (&digits[start..], rest)
}

/// Whether a version is the pinned one or one of its line: `6.1` matches `6.1.0-56-cloud-amd64`, not `6.12`.
pub(crate) fn matches(pin: &str, version: &str) -> bool {
    let (_, version) = epoch(version);
    let (_, pin) = epoch(pin);
    version.strip_prefix(pin).is_some_and(|rest| rest.bytes().next().is_none_or(|b| !b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let ascending = [
            "5.10.0-30-cloud-amd64",
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.192-1~bpo12+1",
            "6.1.192-1",
            "6.1.192-2",
            "6.12",
            "1:2.0",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare("6.01", "6.1"), Ordering::Equal);
    }

    #[test]
    fn a_pin_matches_its_own_line_and_no_longer_number() {
        assert!(matches("6.1", "6.1.0-56-cloud-amd64"));
        assert!(matches("6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64"));
        assert!(matches("6.1.192-2", "6.1.192-2"));
        assert!(!matches("6.1", "6.12.0-1"));
        assert!(!matches("6.1.0-5", "6.1.0-56-cloud-amd64"));
    }
}

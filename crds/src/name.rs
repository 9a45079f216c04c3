//! Names as Kubernetes has them: `k8s.io/apimachinery/pkg/util/validation`.

/// The most characters in a workspace's name: it is the guest's host name too.
pub const MAX_NAME: usize = 63;

/// Checks a workspace's name: an RFC 1123 subdomain of at most 63 characters.
///
/// # Errors
/// What must be so.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.len() <= MAX_NAME && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err("must be 1 to 63 lower-case letters, digits, `-` and `.`, starting and ending with a letter or digit")
    }
}

/// Checks a namespace: an RFC 1123 label.
///
/// # Errors
/// What must be so.
pub fn check_namespace(name: &str) -> Result<(), &'static str> {
    if is_label(name) {
        Ok(())
    } else {
        Err("must be 1 to 63 lower-case letters, digits and `-`, starting and ending with a letter or digit")
    }
}

/// Checks the key of a label or annotation: `[domain/]name`.
pub(crate) fn check_key(key: &str) -> Result<(), &'static str> {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let domain_is_right = domain.is_none_or(|d| d.len() <= 253 && d.split('.').all(is_label));
    if domain_is_right && is_qualified(name) {
        Ok(())
    } else {
        Err("must be `name` or `domain/name`, the name of 1 to 63 letters, digits, `-`, `_` and `.`")
    }
}

/// Checks the value of a label.
pub(crate) fn check_label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_qualified(value) {
        Ok(())
    } else {
        Err("must be at most 63 letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit")
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for good in ["a", "a-b.c", "0", &"a".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", ".", "a/b", "../a", "é", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_namespace("a.b").is_err());
        assert_eq!(check_key("example.com/A_b.c"), Ok(()));
        assert!(check_key("a/b/c").is_err());
        assert!(check_label_value("-").is_err());
    }
}

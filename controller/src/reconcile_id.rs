//! The id of one pass, on every line that the pass logs.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Letters before the number, so that the ids of two controllers on one log are told apart.
const PREFIX_LEN: u32 = 4;

static PREFIX: OnceLock<u64> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Unique within the process, and short: `k3f9-1a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReconcileId(u64);

impl ReconcileId {
    /// An id that was never given before.
    pub fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for ReconcileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = PREFIX.get_or_init(|| uuid::Uuid::new_v4().as_u64_pair().1);
        for place in 0..PREFIX_LEN {
            write!(f, "{}", digit(prefix / 36_u64.pow(place)))?;
        }
        write!(f, "-")?;
        let mut place = self.0.checked_ilog(36).unwrap_or(0);
        loop {
            write!(f, "{}", digit(self.0 / 36_u64.pow(place)))?;
            let Some(next) = place.checked_sub(1) else { return Ok(()) };
            place = next;
        }
    }
}

/// The last digit of a number in base 36.
fn digit(number: u64) -> char {
    u32::try_from(number % 36).ok().and_then(|digit| char::from_digit(digit, 36)).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_share_their_prefix_and_count_in_base_36() {
        let text = |number| ReconcileId(number).to_string();
        let (prefix, _) = text(1).split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!(prefix.len(), 4);
        for (number, written) in [(1, "1"), (35, "z"), (36, "10"), (36 * 36 + 11, "10b"), (u64::MAX, "3w5e11264sgsf")] {
            assert_eq!(text(number), format!("{prefix}-{written}"));
        }
        assert_ne!(ReconcileId::next(), ReconcileId::next());
    }
}

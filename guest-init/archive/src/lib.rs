//! Trees of files as tar streams: out of a directory ([`Source`]), and into one ([`unpack()`]). Guest-init and the command line share it:
//! each of them reads what the other wrote, and trusts it in nothing.
//!
//! - Names are looked up from descriptors of directories. What an archive says never leads out of the place that it is unpacked to, whatever
//!   symbolic links lie there.
//! - A file appears under its name when it is whole.
//! - Streams are read as they come, in bounded memory. An archive that ends without its end mark was cut off, and is an error.
//! - Kept are content, mode and time of modification; owners where that is asked for. Extended attributes are not kept. A file with
//!   several names is packed once for each.

mod error;
mod name;
mod pack;
mod pax;
mod reader;
mod target;
mod unpack;

pub use error::Error;
pub use pack::{Reading, Source};
pub use unpack::{Count, Owners, Unpack, What, unpack};

/// How deep directories may lie in each other: each open one takes a descriptor, of which there are 1024.
const MAX_DEPTH: usize = 256;

/// How many problems are kept. Whoever has so many needs no more.
const MAX_PROBLEMS: usize = 1000;

/// How many problems are told in words; the rest is counted.
const TOLD_PROBLEMS: usize = 3;

/// Problems as a sentence: the first three and how many more there are. Nothing when there is none.
#[must_use]
pub fn in_words(problems: &[String]) -> Option<String> {
    let more = problems.len().checked_sub(TOLD_PROBLEMS).filter(|more| *more > 0);
    let more = more.map_or_else(String::new, |more| format!("; and {more} more"));
    let told = problems.iter().take(TOLD_PROBLEMS).cloned().collect::<Vec<_>>().join("; ");
    (!problems.is_empty()).then(|| told + &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_problems_are_counted() {
        let problems: Vec<_> = (0..9).map(|n| format!("p{n}")).collect();
        assert_eq!(in_words(&problems).unwrap(), "p0; p1; p2; and 6 more");
        assert_eq!((in_words(&[]), in_words(&problems[..1])), (None, Some("p0".to_owned())));
    }
}

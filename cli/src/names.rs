//! Names for workspaces that nobody named.

/// Short, friendly, and each a DNS label.
const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "crisp", "deft", "eager", "fair", "fleet",
    "fond", "glad", "gold", "keen", "kind", "light", "lucid", "merry", "neat", "noble", "proud", "quick", "quiet",
    "rapid", "sharp", "solid", "swift", "vivid", "wise",
];
const ANIMALS: [&str; 32] = [
    "badger", "bear", "beaver", "bison", "crane", "deer", "dove", "eagle", "falcon", "ferret", "finch", "fox", "hare",
    "heron", "horse", "ibis", "koala", "lark", "lemur", "lynx", "marten", "mole", "moose", "newt", "otter", "owl",
    "panda", "raven", "robin", "seal", "stork", "wolf",
];

/// A name such as `run-brave-otter-4f9c8a`, made from 34 random bits. Callers must still see that it is free.
pub(crate) fn generate() -> String {
    // Collisions are refused when the manifest is made, so the quality of the randomness does not matter.
    use std::hash::{BuildHasher, RandomState};
    name_of(RandomState::new().hash_one(std::process::id()))
}

fn name_of(bits: u64) -> String {
    let pick = |words: [&'static str; 32], shift: u32| words[(bits >> shift) as usize % words.len()];
    format!("run-{}-{}-{:06x}", pick(ADJECTIVES, 24), pick(ANIMALS, 29), bits & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generated_name_is_a_dns_label() {
        for bits in (0..1024u64).map(|n| n << 24) {
            let name = name_of(bits);
            assert!(
                name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
    }

    #[test]
    fn the_bits_pick_all_parts() {
        assert_eq!(name_of(0), "run-amber-badger-000000");
        assert_eq!(name_of(u64::MAX), "run-wise-wolf-ffffff");
        assert_ne!(generate(), generate());
    }
}

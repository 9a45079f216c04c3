//! What holds on to images. Who knows the workspaces of this host tells it; this crate knows none.

use std::collections::BTreeSet;

use microagent_base::Digest;

/// How a holder names the image that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The canonical name: what it stands for has not been settled yet.
    Name(String),
    /// The manifest.
    Digest(Digest),
    /// The first hexadecimal digits of the manifest's digest, as the names of disks have them.
    Beginning(String),
}

/// All that holds on to images.
#[derive(Clone, Debug, Default)]
pub struct Uses(Vec<(String, Held)>);

impl Uses {
    /// Notes a holder, in the words that people read: `workspace default/web`.
    pub fn add(&mut self, by: impl Into<String>, image: Held) {
        self.0.push((by.into(), image));
    }

    /// Who holds the image with this manifest or one of these names, each once, sorted.
    #[must_use]
    pub fn of<'a>(&self, manifest: &Digest, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let (hex, names) = (manifest.hex(), names.into_iter().collect::<Vec<_>>());
        self.holders(|held| match held {
            Held::Name(name) => names.contains(&name.as_str()),
            Held::Digest(digest) => digest == manifest,
            Held::Beginning(beginning) => hex.starts_with(beginning.as_str()),
        })
    }

    /// Who holds an image by this name alone.
    pub(crate) fn of_name(&self, name: &str) -> Vec<String> {
        self.holders(|held| matches!(held, Held::Name(held) if held == name))
    }

    fn holders(&self, holds: impl Fn(&Held) -> bool) -> Vec<String> {
        let by: BTreeSet<&String> = self.0.iter().filter(|(_, held)| holds(held)).map(|(by, _)| by).collect();
        by.into_iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_held_by_its_name_its_digest_or_the_beginning_of_it() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut uses = Uses::default();
        uses.add("b", Held::Name("r/x:1".to_owned()));
        uses.add("a", Held::Digest(one));
        uses.add("a", Held::Beginning(one.short()));
        assert_eq!(uses.of(&one, ["r/x:1", "r/y:1"]), ["a", "b"]);
        assert_eq!(uses.of(&one, []), ["a"]);
        assert_eq!(uses.of(&two, ["r/x:1"]), ["b"]);
        assert!(uses.of(&two, ["r/x"]).is_empty());
    }
}

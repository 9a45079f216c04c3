//! What every command needs to know.

use microagent_controller::{Key, Paths};
use microagent_crds::name::{check_name, check_namespace};

use crate::{
    cli::Global,
    failure::{Failure, Result},
};

/// Where things are, and what names mean.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The state and cache directories.
    pub(crate) paths: Paths,
    /// The namespace of names that have none.
    pub(crate) namespace: String,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
}

impl Context {
    /// From the options that all commands share.
    pub(crate) fn new(global: Global) -> Result<Self> {
        let Global { state_dir, cache_dir, namespace, verbose } = global;
        checked("namespace", &namespace, check_namespace(&namespace))?;
        Ok(Self { paths: Paths::resolve(state_dir, cache_dir), namespace, verbose })
    }

    /// The key that a user means by `name`, as [`key`] reads it.
    pub(crate) fn key(&self, name: &str) -> Result<Key> {
        key(&self.namespace, name)
    }

    /// Whether a controller is at work on the state directory.
    pub(crate) fn controller(&self) -> Option<u32> {
        microagent_controller::running(&self.paths)
    }
}

/// The key that a user means by `name`: `NAME`, `NAMESPACE/NAME`, `workspace/NAME` or `ws/NAME`.
pub(crate) fn key(default: &str, name: &str) -> Result<Key> {
    let key = match name.split_once('/') {
        None | Some(("workspace" | "workspaces" | "ws", _)) => {
            Key::new(default, name.rsplit('/').next().unwrap_or(name))
        }
        Some((namespace, name)) => Key::new(namespace, name),
    };
    checked("namespace", &key.namespace, check_namespace(&key.namespace))?;
    checked("name", &key.name, check_name(&key.name))?;
    Ok(key)
}

/// Names become parts of paths: only what a manifest may have gets through.
fn checked(what: &str, text: &str, checked: Result<(), &'static str>) -> Result<()> {
    checked.map_err(|must| Failure::usage(format!("{text:?} is no {what}: it {must}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context { paths: Paths { state: "/s".into(), cache: "/c".into() }, namespace: "team".to_owned(), verbose: 0 }
    }

    #[test]
    fn names_mean_what_they_mean_to_kubectl() {
        for text in ["a", "workspace/a", "ws/a", "team/a"] {
            assert_eq!(context().key(text).unwrap(), Key::new("team", "a"), "{text}");
        }
        assert_eq!(context().key("other/a").unwrap(), Key::new("other", "a"));
    }

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for text in ["", "..", "../a", "a/../b", "a/b/c", "A", "-a", "a..b", "a\0", "/a"] {
            assert!(context().key(text).is_err(), "{text:?}");
        }
    }
}

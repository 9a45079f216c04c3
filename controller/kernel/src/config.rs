//! A kernel's build configuration: `Documentation/kbuild/kconfig.rst`, the `.config` file.

use std::{collections::BTreeMap, io::Read};

use crate::compression::{Compression, Limited};

/// A configuration file is some 300 KB on the largest distribution kernels.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;

/// The value of an option that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `=y`: part of the kernel image.
    BuiltIn,
    /// `=m`: a module.
    Module,
    /// A string or a number, without quotes.
    Value(String),
}

impl Setting {
    /// What stands behind the `=`; `None` for `n`, which is how an option that is off may be written.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        match value {
            "y" => Some(Self::BuiltIn),
            "m" => Some(Self::Module),
            "n" => None,
            other => Some(Self::Value(other.trim_matches('"').to_owned())),
        }
    }
}

/// The options of a kernel that are set. One that is absent is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, Setting>);

impl Config {
    /// Reads a `.config` file; lines that are not of its form are passed over, as the kernel's own scripts do.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let settings = text.lines().filter_map(|line| {
            let (name, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), Setting::parse(value)?))
        });
        Self(settings.collect())
    }

    /// The setting of an option, named with or without `CONFIG_`.
    #[must_use]
    pub fn get(&self, option: &str) -> Option<&Setting> {
        self.0.get(option.strip_prefix("CONFIG_").unwrap_or(option))
    }

    /// Whether an option is `=y`.
    #[must_use]
    pub fn is_built_in(&self, option: &str) -> bool {
        self.get(option) == Some(&Setting::BuiltIn)
    }

    /// Whether an option is `=y` or `=m`.
    #[must_use]
    pub fn is_enabled(&self, option: &str) -> bool {
        matches!(self.get(option), Some(Setting::BuiltIn | Setting::Module))
    }

    /// How many options are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no option is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The configuration that a kernel built with `CONFIG_IKCONFIG` carries: gzip between two marks (`kernel/configs.c`).
pub(crate) fn embedded(vmlinux: &[u8]) -> Option<Vec<u8>> {
    let mark = b"IKCFG_ST";
    let start = vmlinux.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let rest = vmlinux.get(start..)?;
    let mut text = Vec::new();
    let reader = Compression::Gzip.reader(rest).ok()?;
    Limited::new(reader, MAX_CONFIG).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &str = "#\n# Linux/x86 6.1\n#\nCONFIG_EXT4_FS=y\nCONFIG_OVERLAY_FS=m\n# CONFIG_TUN is not set\n\
                        CONFIG_LOCALVERSION=\"-lean\"\nnonsense\n";

    #[test]
    fn options_are_read_with_and_without_their_prefix() {
        let config = Config::parse(TEXT);
        assert!(config.is_built_in("CONFIG_EXT4_FS"));
        assert!(config.is_enabled("OVERLAY_FS") && !config.is_built_in("OVERLAY_FS"));
        assert_eq!(config.get("TUN"), None);
        assert_eq!(config.get("LOCALVERSION"), Some(&Setting::Value("-lean".to_owned())));
        assert_eq!(config.len(), 3);
    }

    #[test]
    fn the_configuration_inside_a_kernel_is_found() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(TEXT.as_bytes()).unwrap();
        let image = [b"....IKCFG_ST".as_slice(), &gzip.finish().unwrap(), b"IKCFG_ED...."].concat();
        assert_eq!(embedded(&image).unwrap(), TEXT.as_bytes());
        assert_eq!(embedded(b"IKCFG_STnot gzip"), None);
    }
}

//! Configuration fragments: ours, which say what a guest's kernel is made of and why, and those that a user adds.

use std::{collections::BTreeMap, path::Path};

use microagent_base::{Digest, bounded};

use crate::{
    arch::Arch,
    config::{MAX_CONFIG, Setting},
    error::{Error, Result, io_error},
    need::{Need, OPTIONS},
};

/// What is common to all architectures.
const COMMON: &[(&str, &str)] = &[
    ("base.config", include_str!("../../config/base.config")),
    ("virtio.config", include_str!("../../config/virtio.config")),
    ("filesystems.config", include_str!("../../config/filesystems.config")),
    ("network.config", include_str!("../../config/network.config")),
    ("containers.config", include_str!("../../config/containers.config")),
    ("bpf.config", include_str!("../../config/bpf.config")),
    ("hardening.config", include_str!("../../config/hardening.config")),
];

const fn of_arch(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("x86_64.config", include_str!("../../config/x86_64.config")),
        Arch::Aarch64 => ("aarch64.config", include_str!("../../config/aarch64.config")),
    }
}

/// A file of options, in the form of a `.config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    name: String,
    text: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    option: String,
    /// What stands behind the `=`; `None` where the option is to be off.
    value: Option<String>,
    reason: String,
}

impl Fragment {
    /// Reads a fragment of the user's.
    ///
    /// # Errors
    /// It cannot be read, is longer than a configuration (4 MiB), or is not of the form of a `.config`.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = bounded::read(path, MAX_CONFIG).map_err(io_error("read", path))?;
        let text = String::from_utf8(bytes).map_err(|_| invalid(&path.display().to_string(), 1, "it is not UTF-8"))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// `CONFIG_X=y`, `CONFIG_X="text"`, `CONFIG_X=7`, `CONFIG_X=n` or `# CONFIG_X is not set`; other lines with `#` are comments. Those
    /// directly above a group of options are its reason.
    ///
    /// # Errors
    /// [`Error::FragmentInvalid`] with the first line that is none of these.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut lines: Vec<Line> = Vec::new();
        let mut reason = String::new();
        let mut in_comment = false;
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            let switched_off = line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set"));
            let (option, value) = match (switched_off, line.strip_prefix('#')) {
                (Some(option), _) => (option, None),
                (None, Some(comment)) => {
                    if !in_comment {
                        reason.clear();
                    }
                    in_comment = true;
                    reason = format!("{reason} {}", comment.trim()).trim().to_owned();
                    continue;
                }
                (None, None) if line.is_empty() => {
                    reason.clear();
                    in_comment = false;
                    continue;
                }
                (None, None) => {
                    let pair = line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('='));
                    let (option, value) =
                        pair.ok_or_else(|| invalid(name, number, "it is neither `CONFIG_NAME=VALUE` nor a comment"))?;
                    (option, Some(value).filter(|value| *value != "n"))
                }
            };
            in_comment = false;
            check(option, value).map_err(|why| invalid(name, number, why))?;
            let contradicts = |other: &Line| other.option == option && other.value.as_deref() != value;
            if let Some(at) = lines.iter().position(contradicts) {
                let text =
                    format!("it sets CONFIG_{} otherwise than an earlier line of the same file", lines[at].option);
                return Err(invalid(name, number, &text));
            }
            let reason = reason.clone();
            lines.push(Line { option: option.to_owned(), value: value.map(str::to_owned), reason });
        }
        Ok(Self { name: name.to_owned(), text: text.to_owned(), lines })
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

/// Whatever goes to the kernel's own tools is held short and plain: a value with a quote or a dollar has a meaning there.
fn check(option: &str, value: Option<&str>) -> std::result::Result<(), &'static str> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if option.is_empty() || option.len() > 128 || !plain(option) {
        return Err("the option's name is no name: letters, digits and `_`");
    }
    let Some(value) = value else { return Ok(()) };
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(text)
            if text.len() <= 512 && text.bytes().all(|b| matches!(b, b' '..=b'~') && !b"\"\\$`".contains(&b)) =>
        {
            Ok(())
        }
        Some(_) => Err("the text has a character that no option's text needs, or is longer than 512 bytes"),
        None if value == "m" => Err("it asks for a module, and a lean kernel has none: use `=y`"),
        None if value == "y" => Ok(()),
        None if !value.is_empty()
            && value.len() <= 32
            && value.bytes().all(|b| b.is_ascii_hexdigit() || b"x-".contains(&b)) =>
        {
            Ok(())
        }
        None => Err("the value is none of `y`, `n`, a number and a text in quotes"),
    }
}

fn invalid(name: &str, line: usize, reason: &str) -> Error {
    Error::FragmentInvalid { name: name.to_owned(), line, reason: reason.to_owned() }
}

/// An option as it is to come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) value: Option<String>,
    pub(crate) reason: String,
    /// The fragment that asks for it.
    pub(crate) from: String,
    /// Whether a user's fragment asks for it.
    pub(crate) by_user: bool,
}

impl Asked {
    pub(crate) fn setting(&self) -> Option<Setting> {
        self.value.as_deref().and_then(Setting::parse)
    }
}

/// All fragments as one: ours, then the user's, of which a later one wins over an earlier one.
#[derive(Clone, Debug)]
pub(crate) struct Configuration(pub(crate) BTreeMap<String, Asked>);

impl Configuration {
    /// # Errors
    /// [`Error::FragmentRefused`] when a fragment takes away what a workspace or a backend needs.
    pub(crate) fn merge(arch: Arch, fragments: &[Fragment]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (name, text) in COMMON.iter().copied().chain([of_arch(arch)]) {
            add(&mut all, &Fragment::parse(name, text)?, false);
        }
        for fragment in fragments {
            for line in &fragment.lines {
                if let Some(without) = needed(arch, &line.option)
                    && all.get(&line.option).is_some_and(|ours| ours.value != line.value)
                {
                    return Err(Error::FragmentRefused {
                        name: fragment.name.clone(),
                        option: line.option.clone(),
                        without: without.to_owned(),
                    });
                }
            }
            add(&mut all, fragment, true);
        }
        Ok(Self(all))
    }

    /// As the kernel's own tool reads it: `Documentation/kbuild/kconfig.rst`, `KCONFIG_ALLCONFIG`.
    pub(crate) fn text(&self) -> String {
        let line = |(option, asked): (&String, &Asked)| match &asked.value {
            Some(value) => format!("CONFIG_{option}={value}\n"),
            None => format!("# CONFIG_{option} is not set\n"),
        };
        self.0.iter().map(line).collect()
    }
}

fn add(all: &mut BTreeMap<String, Asked>, fragment: &Fragment, by_user: bool) {
    for line in &fragment.lines {
        let asked =
            Asked { value: line.value.clone(), reason: line.reason.clone(), from: fragment.name.clone(), by_user };
        all.insert(line.option.clone(), asked);
    }
}

/// What fails without an option of ours as we have it; `None` for one that a user may change.
pub(crate) fn needed(arch: Arch, option: &str) -> Option<&'static str> {
    use crate::need::Purpose;
    if option == "MODULES" {
        return Some("drivers are not in the kernel, and nothing loads them");
    }
    if option == "64BIT" {
        return Some("no program of an image can be started");
    }
    let driver = Need::ALL.iter().map(|need| need.driver()).find(|driver| driver.option == option);
    let of_machines = |purpose| matches!(purpose, Purpose::Workspace | Purpose::Qemu | Purpose::Firecracker);
    let found =
        OPTIONS.iter().find(|needed| needed.option == option && needed.is_for(arch) && of_machines(needed.purpose));
    driver.map(|driver| driver.without).or(found.map(|needed| needed.without))
}

/// What tells the configuration of a recipe from others: our fragments and the user's.
pub(crate) fn fingerprint(arch: Arch, fragments: &[Fragment]) -> Digest {
    let ours = COMMON.iter().copied().chain([of_arch(arch)]).map(|(_, text)| Digest::of(text.as_bytes()));
    let all: String = ours.chain(fragments.iter().map(Fragment::digest)).map(|digest| digest.hex()).collect();
    Digest::of(all.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    #[test]
    fn every_option_of_ours_has_a_reason_and_stands_once() {
        for arch in BOTH {
            let mut seen = BTreeMap::new();
            for (name, text) in COMMON.iter().copied().chain([of_arch(arch)]) {
                for line in Fragment::parse(name, text).unwrap().lines {
                    assert!(line.reason.len() > 10, "{name}: CONFIG_{} has no reason", line.option);
                    let before = seen.insert(line.option.clone(), name);
                    assert_eq!(before, None, "CONFIG_{} stands in {name} too", line.option);
                }
            }
        }
    }

    #[test]
    fn all_that_is_needed_of_a_kernel_is_asked_for() {
        for arch in BOTH {
            let ours = Configuration::merge(arch, &[]).unwrap();
            let drivers = Need::ALL.iter().map(|need| need.driver().option);
            let options = OPTIONS.iter().filter(|needed| needed.is_for(arch)).map(|needed| needed.option);
            for option in drivers.chain(options) {
                let value = ours.0.get(option).and_then(|asked| asked.value.as_deref());
                assert_eq!(value, Some("y"), "CONFIG_{option} on {arch}");
            }
        }
    }

    #[test]
    fn a_fragment_adds_and_takes_away_what_nothing_needs() {
        let user =
            Fragment::parse("mine", "CONFIG_BTRFS_FS=y\nCONFIG_NR_CPUS=4\n# CONFIG_IPV6 is not set\nCONFIG_SWAP=n\n");
        let merged = Configuration::merge(Arch::X86_64, &[user.unwrap()]).unwrap();
        let text = merged.text();
        for line in ["CONFIG_BTRFS_FS=y", "CONFIG_NR_CPUS=4", "# CONFIG_IPV6 is not set", "# CONFIG_SWAP is not set"] {
            assert!(text.lines().any(|other| other == line), "{line}");
        }
        assert!(!text.contains("CONFIG_NR_CPUS=255"));
    }

    #[test]
    fn a_fragment_that_takes_away_what_is_needed_is_refused_with_the_need() {
        for (text, need) in [
            ("# CONFIG_OVERLAY_FS is not set", "no writable root"),
            ("CONFIG_TMPFS=n", "no place that is not a disk"),
            ("CONFIG_MODULES=y", "nothing loads them"),
            ("CONFIG_VIRTIO_VSOCKETS=n", "cannot speak to the guest"),
        ] {
            let user = Fragment::parse("mine.config", text).unwrap();
            let error = Configuration::merge(Arch::X86_64, &[user]).unwrap_err();
            assert_eq!(error.category(), "FragmentRefused");
            let message = error.to_string();
            assert!(message.contains("mine.config") && message.contains(need), "{message}");
        }
        // Of another architecture it is no need.
        let user = Fragment::parse("mine", "# CONFIG_SERIO_I8042 is not set").unwrap();
        assert!(Configuration::merge(Arch::Aarch64, &[user]).is_ok());
    }

    #[test]
    fn what_is_no_fragment_is_refused_with_its_line() {
        for (text, line, why) in [
            ("CONFIG_A=y\nhello\n", 2, "neither"),
            ("CONFIG_A=m", 1, "module"),
            ("CONFIG_A=\"$(shell,id)\"", 1, "character"),
            ("CONFIG_A=`id`", 1, "none of"),
            ("CONFIG_A=", 1, "none of"),
            ("CONFIG_A B=y", 1, "no name"),
            ("CONFIG_=y", 1, "no name"),
            ("CONFIG_A=y\n\n# CONFIG_A is not set", 3, "otherwise"),
        ] {
            match Fragment::parse("f", text).unwrap_err() {
                Error::FragmentInvalid { line: at, reason, .. } => {
                    assert_eq!(at, line, "{text}");
                    assert!(reason.contains(why), "{text}: {reason}");
                }
                other => panic!("{other}"),
            }
        }
        assert!(Fragment::parse("f", "# a comment\n\nCONFIG_A=0x1f\nCONFIG_B=\"two words\"\nCONFIG_A=0x1f\n").is_ok());
    }

    #[test]
    fn another_fragment_is_another_configuration() {
        let one = Fragment::parse("a", "CONFIG_BTRFS_FS=y").unwrap();
        assert_ne!(fingerprint(Arch::X86_64, &[]), fingerprint(Arch::X86_64, &[one]));
        assert_ne!(fingerprint(Arch::X86_64, &[]), fingerprint(Arch::Aarch64, &[]));
    }
}

//! Whether a configuration came out as it was asked for, and if not, what in the kernel's own rules stands in the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::fragment::{Asked, Configuration};
use crate::{
    config::{Config, Setting},
    image::read_bounded,
};

/// A Kconfig file is at most some 100 KB.
const MAX_KCONFIG: u64 = 4 << 20;
/// Directories below each other in a kernel source.
const MAX_DEPTH: usize = 16;

/// An option that did not come out as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untaken {
    /// Its name, without `CONFIG_`.
    pub option: String,
    /// The fragment that asks for it.
    pub from: String,
    /// Why it is wanted, in the fragment's words; empty where it gives none.
    pub reason: String,
    /// How it came out, and what refused it.
    pub why: String,
    /// Whether a user's fragment asks for it.
    pub by_user: bool,
}

/// All options that came out otherwise. `source` is searched for the reasons.
pub(crate) fn untaken(asked: &Configuration, came: &Config, source: &Path) -> Vec<Untaken> {
    let wrong: BTreeMap<&String, &Asked> =
        asked.0.iter().filter(|(option, asked)| came.get(option) != asked.setting().as_ref()).collect();
    if wrong.is_empty() {
        return Vec::new();
    }
    let names: BTreeSet<&str> = wrong.keys().map(|name| name.as_str()).collect();
    let mut rules = BTreeMap::new();
    find_rules(source, &names, 0, &mut rules);
    wrong
        .into_iter()
        .map(|(option, asked)| Untaken {
            option: option.clone(),
            from: asked.from.clone(),
            reason: asked.reason.clone(),
            why: format!("{}{}", came_out(came.get(option)), because(rules.get(option.as_str()), came)),
            by_user: asked.by_user,
        })
        .collect()
}

fn came_out(setting: Option<&Setting>) -> String {
    match setting {
        None => "is off".to_owned(),
        Some(Setting::BuiltIn) => "is on".to_owned(),
        Some(Setting::Module) => "is a module".to_owned(),
        Some(Setting::Value(value)) => format!("is {value}"),
    }
}

/// Where an option is declared, and the conditions that stand there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    depends: Vec<String>,
}

fn because(rules: Option<&Rules>, came: &Config) -> String {
    let Some(rules) = rules else { return ": this kernel source has no such option".to_owned() };
    let blocking: Vec<&String> =
        rules.depends.iter().filter(|text| symbols(text).any(|s| !came.is_built_in(s))).collect();
    if blocking.is_empty() {
        return ": the kernel's own rules set it so".to_owned();
    }
    let of_these: BTreeSet<&str> =
        blocking.iter().flat_map(|text| symbols(text)).filter(|symbol| !came.is_built_in(symbol)).collect();
    let conditions: Vec<String> = blocking.iter().map(|text| format!("`{text}`")).collect();
    let off: Vec<&str> = of_these.into_iter().collect();
    format!(": it needs {}, and {} is off", conditions.join(" and "), off.join(", "))
}

/// The names of options in a condition.
fn symbols(condition: &str) -> impl Iterator<Item = &str> {
    let words = condition.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.len() > 1 && word.bytes().any(|b| b.is_ascii_uppercase()))
}

/// Reads the Kconfig files of a kernel source: `Documentation/kbuild/kconfig-language.rst`. What cannot be read is passed over: these
/// are words for a message.
fn find_rules(dir: &Path, names: &BTreeSet<&str>, depth: usize, out: &mut BTreeMap<String, Rules>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name();
        if kind.is_dir() && depth < MAX_DEPTH {
            find_rules(&entry.path(), names, depth + 1, out);
        } else if kind.is_file() && name.to_string_lossy().starts_with("Kconfig") {
            let Ok(bytes) = read_bounded(&entry.path(), MAX_KCONFIG) else { continue };
            rules_in(&String::from_utf8_lossy(&bytes), names, out);
        }
    }
}

fn rules_in(text: &str, names: &BTreeSet<&str>, out: &mut BTreeMap<String, Rules>) {
    let mut enclosing: Vec<String> = Vec::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        let indented = line.starts_with([' ', '\t']);
        let words = line.trim();
        if !indented && !words.is_empty() && !words.starts_with('#') {
            current = None;
            let (keyword, rest) = words.split_once([' ', '\t']).unwrap_or((words, ""));
            match keyword {
                "config" | "menuconfig" if names.contains(rest.trim()) => {
                    let rules = out.entry(rest.trim().to_owned()).or_default();
                    rules.depends.extend(enclosing.iter().cloned());
                    current = Some(rest.trim().to_owned());
                }
                "if" => enclosing.push(rest.trim().to_owned()),
                "endif" => drop(enclosing.pop()),
                _ => {}
            }
        } else if let (Some(name), Some(condition)) = (&current, words.strip_prefix("depends on "))
            && let Some(rules) = out.get_mut(name)
        {
            rules.depends.push(condition.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch::Arch, build::fragment::Fragment};

    const KCONFIG: &str = "# words\nconfig BTRFS_FS\n\ttristate \"Btrfs\"\n\tdepends on BLOCK && !PAGES\n\thelp\n\t  depends on luck\n\n\
                           if NETDEVICES\n\nmenuconfig FOO\n\tbool \"foo\"\n\tdepends on BAR=y\nendif\n\nconfig BAR\n\tbool\n";

    fn asked(text: &str) -> Configuration {
        let mut all = Configuration::merge(Arch::X86_64, &[Fragment::parse("mine", text).unwrap()]).unwrap();
        all.0.retain(|_, asked| asked.by_user);
        all
    }

    #[test]
    fn each_option_that_did_not_come_out_is_named_with_what_refused_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("fs")).unwrap();
        fs::write(dir.path().join("fs/Kconfig.more"), KCONFIG).unwrap();
        let came =
            Config::parse("CONFIG_BLOCK=y\nCONFIG_NETDEVICES=y\nCONFIG_NR_CPUS=64\nCONFIG_KEPT=\"a\"\nCONFIG_ON=y\n");
        let asked = asked(
            "CONFIG_FOO=y\nCONFIG_NOWHERE=y\nCONFIG_NR_CPUS=9\nCONFIG_KEPT=\"a\"\nCONFIG_BLOCK=y\n# CONFIG_ON is not set\n\
             # CONFIG_OFF is not set\n",
        );
        let found = untaken(&asked, &came, dir.path());
        let told: Vec<String> = found.iter().map(|u| format!("{} {}", u.option, u.why)).collect();
        assert_eq!(
            told,
            [
                "FOO is off: it needs `BAR=y`, and BAR is off",
                "NOWHERE is off: this kernel source has no such option",
                "NR_CPUS is 64: this kernel source has no such option",
                "ON is on: this kernel source has no such option",
            ]
        );
    }
}

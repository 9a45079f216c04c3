//! The distribution's own kernel packages, through the host's package manager and its checks of signatures.
//!
//! Where packages come from is the host's configuration alone: no address stands here. Nothing of the system is
//! changed: when its package lists are empty or out of date, a private copy of them is fetched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use microagent_base::Digest;

mod apt;

pub(crate) use apt::Apt;

use crate::{
    arch::Arch,
    error::{Error, Result, io_error},
    kernel::PackageId,
    version,
};

/// What is asked of the package manager.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
    /// A kernel release or a package version, whole or its beginning.
    pub(crate) pin: Option<&'a str>,
    pub(crate) arch: Arch,
}

impl Wanted<'_> {
    pub(crate) fn describe(&self) -> String {
        let name = self.name.unwrap_or("of the distribution for cloud machines");
        match self.version.or(self.pin) {
            Some(version) => format!("{name} (version {version})"),
            None => name.to_owned(),
        }
    }
}

/// Packages that were downloaded, each equal to its record in the signed index.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) ids: Vec<PackageId>,
}

/// A paragraph of a package index: deb822(5).
#[derive(Clone, Debug, Default)]
pub(crate) struct Stanza(BTreeMap<String, String>);

impl Stanza {
    pub(crate) fn parse_all(text: &str) -> Vec<Self> {
        let mut out = Vec::new();
        for paragraph in text.split("\n\n") {
            // A line that starts with a blank continues the field before; none of the fields used here has such.
            let fields = paragraph.lines().filter(|line| !line.starts_with([' ', '\t']));
            let fields = fields.filter_map(|line| line.split_once(':'));
            let stanza = Self(fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect());
            if stanza.0.contains_key("Package") && stanza.0.contains_key("Version") {
                out.push(stanza);
            }
        }
        out
    }

    fn field(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(crate) fn name(&self) -> &str {
        self.field("Package")
    }

    pub(crate) fn version(&self) -> &str {
        self.field("Version")
    }

    /// The download's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.field("Size").parse().unwrap_or(0)
    }

    /// The digest of the package, from the signed index.
    pub(crate) fn digest(&self) -> Result<Digest> {
        format!("sha256:{}", self.field("SHA256")).parse().map_err(|_| Error::CorruptedPackage {
            path: PathBuf::from(self.spec()),
            reason: "the package index gives no SHA-256 digest for it".to_owned(),
        })
    }

    /// `name=version`.
    pub(crate) fn spec(&self) -> String {
        format!("{}={}", self.name(), self.version())
    }

    /// The packages of the kernel itself among the dependencies, as `name` or `name=version`. Debian and Ubuntu split
    /// a kernel differently in each release: image, modules, binary and base are all that were ever used.
    pub(crate) fn kernel_depends(&self) -> Vec<String> {
        let first_choice = |term: &str| term.split('|').next().unwrap_or_default().trim().to_owned();
        let depends = self.field("Depends").split(',').chain(self.field("Pre-Depends").split(',')).map(first_choice);
        depends
            .filter_map(|term| {
                let (name, condition) = term.split_once(' ').unwrap_or((&term, ""));
                let name = name.split(':').next().unwrap_or(name);
                let exact = condition.trim_matches(['(', ')', ' ']).strip_prefix("= ").map(str::trim);
                kernel_release(name).map(|_| exact.map_or(name.to_owned(), |version| format!("{name}={version}")))
            })
            .collect()
    }
}

/// The release in the name of a package that is part of one kernel; `None` for meta packages.
pub(crate) fn kernel_release(package: &str) -> Option<&str> {
    let prefixes = ["linux-image-", "linux-modules-", "linux-binary-", "linux-base-"];
    let release = prefixes.iter().find_map(|prefix| package.strip_prefix(prefix))?;
    (release.starts_with(|c: char| c.is_ascii_digit()) && crate::image::is_release(release)).then_some(release)
}

/// Whether the packages of one kernel are what a pin asks for.
pub(crate) fn is_pinned(packages: &[Stanza], pin: &str) -> bool {
    packages.iter().any(|package| {
        version::matches(pin, package.version())
            || kernel_release(package.name()).is_some_and(|release| version::matches(pin, release))
    })
}

/// Finds each package among the files in `dir` by the digest that the index has for it. The package manager has
/// checked it too; what is unpacked is what was checked here.
pub(crate) fn collect(packages: &[Stanza], dir: &Path) -> Result<Fetched> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut file = fs::File::open(&path).map_err(io_error("open", &path))?;
            let (digest, _) = Digest::of_reader(&mut file).map_err(io_error("read", &path))?;
            found.insert(digest, path);
        }
    }
    let mut fetched = Fetched { files: Vec::new(), ids: Vec::new() };
    for package in packages {
        let digest = format!("sha256:{}", package.field("SHA256")).parse::<Digest>();
        let file = digest.as_ref().ok().and_then(|digest| found.remove(digest));
        let (Ok(digest), Some(file)) = (digest, file) else {
            return Err(Error::CorruptedPackage {
                path: PathBuf::from(package.spec()),
                reason: "no downloaded file has the SHA-256 digest that the package index gives for it".to_owned(),
            });
        };
        fetched.files.push(file);
        fetched.ids.push(PackageId { name: package.name().to_owned(), version: package.version().to_owned(), digest });
    }
    Ok(fetched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_kernel_are_followed_and_nothing_else() {
        let text = "Package: linux-image-virtual\nVersion: 6.8.0-45.45\nDescription: meta\n more: text\n\
                    Depends: linux-image-6.8.0-45-generic (= 6.8.0-45.45), kmod, linux-base (>= 4.5), \
                    linux-modules-extra-6.8.0-45-generic, linux-modules-6.8.0-45-generic:amd64 | other\n\nOrigin: x\n";
        let all = Stanza::parse_all(text);
        assert_eq!(all.len(), 1);
        assert_eq!(
            all[0].kernel_depends(),
            ["linux-image-6.8.0-45-generic=6.8.0-45.45", "linux-modules-6.8.0-45-generic"]
        );
        assert!(!is_pinned(&all, "6.8.0-46"));
        assert!(is_pinned(&all, "6.8"));
    }

    #[test]
    fn a_package_whose_digest_is_not_the_one_in_the_index_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("linux-image-6.1.0-1_1_amd64.deb"), "evil").unwrap();
        let sum = Digest::of(b"good").hex();
        let stanza = Stanza::parse_all(&format!("Package: linux-image-6.1.0-1\nVersion: 1\nSHA256: {sum}\n"));
        assert_eq!(collect(&stanza, dir.path()).unwrap_err().category(), "PackageCorrupted");
        fs::write(dir.path().join("b.deb"), "good").unwrap();
        assert_eq!(collect(&stanza, dir.path()).unwrap().files, [dir.path().join("b.deb")]);
    }
}

/// Test fixture: an apt that knows one kernel.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    pub(crate) struct FakeApt {
        dir: PathBuf,
    }

    impl FakeApt {
        pub(crate) fn new(dir: &Path, release: &str, package: &[u8]) -> Self {
            fs::create_dir_all(dir).unwrap();
            let fake = Self { dir: dir.to_owned() };
            let sum = Digest::of(package).hex();
            let image = format!("linux-image-{release}");
            fs::write(dir.join("package.deb"), package).unwrap();
            fs::write(
                dir.join("meta"),
                format!("Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\nDepends: {image} (= 6.1.192-2)\n"),
            )
            .unwrap();
            let size = package.len();
            fs::write(
                dir.join("image"),
                format!("Package: {image}\nVersion: 6.1.192-2\nDepends: kmod\nSize: {size}\nSHA256: {sum}\n"),
            )
            .unwrap();
            // `$0` is found by its whole path; a private state is known by its option.
            let head = "#!/bin/sh\nhere=${0%/*}\n\
                        if [ -e $here/broken ]; then echo 'E: the mirror is on fire' >&2; exit 100; fi\n\
                        case \"$*\" in *Dir::State=*) ;; *) [ ! -e $here/empty ] || exit 100;; esac\n";
            fake.program(
                "apt-cache",
                &format!(
                    "{head}case \"$*\" in *pkgnames*) exit 0;; *linux-image-cloud-amd64) cat $here/meta;; \
                     *{image}|*{image}=6.1.192-2) cat $here/image;; *) exit 100;; esac\n"
                ),
            );
            fake.program(
                "apt-get",
                &format!(
                    "{head}case \"$*\" in *update) : > $here/updated;; *download*) cp $here/package.deb kernel.deb;; \
                     *) exit 1;; esac\n"
                ),
            );
            fake
        }

        fn program(&self, name: &str, script: &str) {
            let path = self.dir.join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        pub(crate) fn programs(&self) -> PathBuf {
            self.dir.clone()
        }

        pub(crate) fn break_all(&self) {
            fs::write(self.dir.join("broken"), "").unwrap();
        }

        pub(crate) fn empty_system_lists(&self) {
            fs::write(self.dir.join("empty"), "").unwrap();
        }

        pub(crate) fn was_updated(&self) -> bool {
            self.dir.join("updated").exists()
        }
    }
}

//! Building, with programs that only look like the host's.

use super::*;
use crate::{
    build::Fragment, compression::Compression, compression::fixture::compress, deb::fixture, image::fixture as images,
};
use microagent_base::{Silent, progress::Step};
use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering},
};

const RELEASE: &str = "6.12.117-microagent";
const PACKAGE: &str = "linux-source-6.12";

/// A host with a package manager that has a kernel source, and with all tools. A file of a name changes what a tool does.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(host.programs()).unwrap();
        host.set("vmlinux", &images::vmlinux(RELEASE));
        host.offer(
            "6.12.117-1",
            &[("Makefile", ""), ("Kconfig", ""), ("fs/Kconfig", "config BTRFS_FS\n\tdepends on NEVER\n")],
        );
        let head = "#!/bin/sh\nhere=${0%/*}\nPATH=/usr/bin:/bin\n";
        host.program(
            "apt-cache",
            &format!(
                "{head}case \"$*\" in *pkgnames*) cat $here/names;; *{PACKAGE}*) cat $here/index;; *) exit 100;; esac\n"
            ),
        );
        host.program("apt-get", &format!("{head}case \"$*\" in *update) ;; *download*) echo down >> $here/downloads; cp $here/package.deb source.deb;; *) exit 1;; esac\n"));
        host.program(
            "gcc",
            &format!(
                "{head}case \"$*\" in *version*) echo 'gcc 12.2'; exit;; *gelf.h*) [ ! -e $here/no-gelf ];; esac\n"
            ),
        );
        host.program("ld", &format!("{head}echo 'ld 2.40'\n"));
        host.program("strip", &format!("{head}[ ! -d $3 ] && cp $4 $3\n"));
        for name in ["flex", "bison", "bc", "gzip"] {
            host.program(name, &format!("{head}exit 1\n"));
        }
        host.program(
            "make",
            &format!(
                "{head}for word; do case $word in O=*) out=${{word#O=}};; esac; done\n\
                 case \"$*\" in\n\
                 *allnoconfig) if [ -e $here/refuse ]; then grep -v -F -f $here/refuse $KCONFIG_ALLCONFIG > $out/.config;\n\
                 else cp $KCONFIG_ALLCONFIG $out/.config; fi;;\n\
                 *vmlinux) echo \"$SOURCE_DATE_EPOCH $KBUILD_BUILD_TIMESTAMP ${{CFLAGS:-}}\" >> $here/builds\n\
                 [ ! -e $out/main.o ] || echo resumed >> $here/builds\n\
                 mkdir -p $out/kernel; : > $out/main.o; echo '  CC      init/main.o'\n\
                 [ ! -e $here/slow ] || exec sleep 60\n\
                 [ ! -e $here/fail ] || {{ cat $here/fail >&2; exit 2; }}\n\
                 cp $here/vmlinux $out/vmlinux;;\nesac\n"
            ),
        );
        host
    }

    fn programs(&self) -> PathBuf {
        self.dir.path().join("programs")
    }

    fn set(&self, name: &str, content: &[u8]) {
        fs::write(self.programs().join(name), content).unwrap();
    }

    fn unset(&self, name: &str) {
        fs::remove_file(self.programs().join(name)).unwrap();
    }

    fn program(&self, name: &str, script: &str) {
        self.set(name, script.as_bytes());
        fs::set_permissions(self.programs().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Puts a source package of a version with these files into the package sources.
    fn offer(&self, version: &str, files: &[(&str, &str)]) {
        let named: Vec<(String, &[u8])> =
            files.iter().map(|(path, text)| (format!("{PACKAGE}/{path}"), text.as_bytes())).collect();
        let named: Vec<(&str, &[u8])> = named.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
        let tar = compress(Compression::Xz, &fixture::tar(&named));
        let package = fixture::deb(None, &[("./usr/src/linux-source-6.12.tar.xz", &tar)]);
        self.offer_package(version, &package);
    }

    fn offer_package(&self, version: &str, package: &[u8]) {
        self.set("package.deb", package);
        self.set("names", format!("linux-source\nlinux-source-6.1x\n{PACKAGE}\n").as_bytes());
        let (size, sum) = (package.len(), Digest::of(package).hex());
        let index = format!("Package: {PACKAGE}\nVersion: {version}\nSize: {size}\nSHA256: {sum}\n");
        self.set("index", index.as_bytes());
    }

    fn store(&self) -> KernelStore {
        let mut store = KernelStore::open(&self.dir.path().join("store")).unwrap();
        store.programs = Some(self.programs());
        store
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.programs().join(name)).map_or(0, |text| text.lines().count())
    }

    fn left(&self) -> Vec<String> {
        names(&self.dir.path().join("store/build")).unwrap()
    }
}

fn recipe(fragment: &str) -> Recipe {
    Recipe { fragments: vec![Fragment::parse("mine.config", fragment).unwrap()], jobs: None }
}

fn plain() -> Recipe {
    Recipe::default()
}

#[test]
fn a_kernel_is_built_once_of_one_source_and_is_everyones_default() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.build(&plain(), None, &Silent).unwrap();
    assert_eq!((kernel.version.as_str(), kernel.source.as_str()), (RELEASE, "build"));
    assert_eq!(kernel.package.as_deref(), Some("linux-source-6.12=6.12.117-1"));
    assert!(kernel.modules.iter().all(|module| module.builtin) && kernel.pvh);
    assert_eq!(kernel.build.as_ref().unwrap().untaken, Vec::<String>::new());
    store.verify(&kernel).unwrap().require(&kernel, Need::ALL).unwrap();
    assert_eq!(host.left(), ["lock", "log"], "what is left of a build");
    let told = fs::read_to_string(host.programs().join("builds")).unwrap();
    assert_eq!(told, "0 Thu Jan  1 00:00:00 UTC 1970 \n");

    for again in
        [store.build(&plain(), None, &Silent), store.install(&KernelSource::Build(plain()), Some("6.12"), &Silent)]
    {
        assert_eq!(again.unwrap().id, kernel.id);
    }
    assert_eq!((host.lines("builds"), host.lines("downloads")), (1, 1));
    assert_eq!(store.find(&KernelSource::Default, None).unwrap().unwrap().id, kernel.id);
    assert!(store.find(&KernelSource::Build(recipe("CONFIG_BTRFS_FS=y")), None).unwrap().is_none());
}

#[test]
fn a_newer_source_is_told_of_and_built_by_the_next_build() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.build(&plain(), None, &Silent).unwrap();
    assert_eq!(store.newer(&kernel, &Silent).unwrap(), None);
    host.offer("6.12.118-1", &[("Makefile", ""), ("Kconfig", "")]);
    host.set("vmlinux", &images::vmlinux("6.12.118-microagent"));
    assert_eq!(store.newer(&kernel, &Silent).unwrap().as_deref(), Some("linux-source-6.12=6.12.118-1"));
    let newer = store.build(&plain(), None, &Silent).unwrap();
    assert_eq!(newer.version, "6.12.118-microagent");
    assert_eq!(store.find(&KernelSource::Default, None).unwrap().unwrap().id, newer.id);
}

#[test]
fn a_damaged_built_kernel_is_built_again() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.build(&plain(), None, &Silent).unwrap();
    fs::write(&kernel.image, "torn").unwrap();
    assert_eq!(store.build(&plain(), None, &Silent).unwrap().id, kernel.id);
    assert!(store.verify(&kernel).unwrap().corrupted.is_empty());
}

#[test]
fn missing_tools_are_named_all_at_once_with_the_command_that_installs_them() {
    let host = Host::new();
    host.unset("flex");
    host.unset("bc");
    host.set("no-gelf", b"");
    let error = host.store().build(&plain(), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "BuildToolsMissing");
    let message = error.to_string();
    assert!(
        message.contains("flex, bc, gelf.h") && message.contains("`apt-get install bc flex libelf-dev`"),
        "{message}"
    );
    assert_eq!(host.lines("downloads"), 0);
    host.unset("gcc");
    let message = host.store().build(&plain(), None, &Silent).unwrap_err().to_string();
    assert!(message.contains("`apt-get install bc flex gcc libc6-dev libelf-dev`"), "{message}");
}

#[test]
fn a_failed_build_shows_its_end_keeps_its_log_and_goes_on_from_there() {
    let host = Host::new();
    let store = host.store();
    host.set("fail", b"init/main.c:1: error: out of luck\nmake: *** [main.o] Error 1\n");
    let error = store.build(&plain(), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "KernelBuildFailed");
    let message = error.to_string();
    assert!(message.contains("out of luck / make: ***"), "{message}");
    let Error::BuildFailed { log, .. } = error else { panic!("{message}") };
    assert!(fs::read_to_string(log).unwrap().contains("CC      init/main.o\ninit/main.c:1: error"));
    assert!(store.list().unwrap().is_empty());
    host.unset("fail");
    store.build(&plain(), None, &Silent).unwrap();
    assert_eq!(host.lines("downloads"), 1);
    assert!(fs::read_to_string(host.programs().join("builds")).unwrap().contains("resumed"));
}

#[test]
fn objects_of_another_configuration_are_not_gone_on_from() {
    let host = Host::new();
    let store = host.store();
    host.set("fail", b"no\n");
    store.build(&plain(), None, &Silent).unwrap_err();
    host.unset("fail");
    store.build(&recipe("CONFIG_NR_CPUS=8"), None, &Silent).unwrap();
    assert!(!fs::read_to_string(host.programs().join("builds")).unwrap().contains("resumed"));
}

#[test]
fn a_full_disk_is_told_as_such() {
    let host = Host::new();
    host.set("fail", b"cc1: fatal error: error writing: No space left on device\n");
    let error = host.store().build(&plain(), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "DiskFull");
    assert!(error.is_retryable() && error.to_string().contains("3 GiB"), "{error}");
}

/// Cancels when the compiler is at work.
struct Impatient(AtomicBool);

impl Progress for Impatient {
    fn step(&self, _: Step) {}

    fn share(&self, _: &str, _: u8) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_cancelled_build_ends_its_compilers_and_installs_nothing() {
    let host = Host::new();
    let store = host.store();
    host.set("slow", b"");
    let error = store.build(&plain(), None, &Impatient(AtomicBool::new(false))).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert!(store.list().unwrap().is_empty());
    host.unset("slow");
    store.build(&plain(), None, &Silent).unwrap();
    assert!(fs::read_to_string(host.programs().join("builds")).unwrap().contains("resumed"));
}

#[test]
fn a_fragment_that_contradicts_a_need_is_refused_before_anything_runs() {
    let host = Host::new();
    let error = host.store().build(&recipe("CONFIG_EXT4_FS=n"), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "FragmentRefused");
    let text = "mine.config changes CONFIG_EXT4_FS, without which the guest cannot mount its disks";
    assert!(error.to_string().starts_with(text), "{error}");
    assert!(host.left().is_empty());
}

#[test]
fn an_option_that_the_source_refuses_fails_the_build_only_where_somebody_needs_it() {
    let host = Host::new();
    let store = host.store();
    host.set("refuse", b"BTRFS_FS\n");
    let error = store.build(&recipe("# deep\nCONFIG_BTRFS_FS=y"), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "ConfigRefused");
    let text = "CONFIG_BTRFS_FS of mine.config (deep) is off: it needs `NEVER`, and NEVER is off";
    assert!(error.to_string().contains(text), "{error}");
    host.set("refuse", b"CONFIG_OVERLAY_FS=y\n");
    let error = store.build(&plain(), None, &Silent).unwrap_err();
    assert!(error.to_string().contains("CONFIG_OVERLAY_FS of filesystems.config"), "{error}");
    host.set("refuse", b"CONFIG_VXLAN=y\n");
    let kernel = store.build(&plain(), None, &Silent).unwrap();
    let untaken = kernel.build.unwrap().untaken;
    assert!(untaken.len() == 1 && untaken[0].starts_with("CONFIG_VXLAN of containers.config"), "{untaken:?}");
}

#[test]
fn where_no_source_can_be_had_that_is_said() {
    let host = Host::new();
    let error = host.store().build(&plain(), Some("5.10"), &Silent).unwrap_err();
    assert_eq!(error.category(), "KernelNotFound");
    assert!(error.to_string().contains("source package of version 5.10"), "{error}");
    host.set("names", b"linux-source\n");
    assert_eq!(host.store().build(&plain(), None, &Silent).unwrap_err().category(), "KernelNotFound");
}

#[test]
fn a_package_with_no_source_in_it_is_refused() {
    let host = Host::new();
    for files in [&[("./usr/src/readme", &b"x"[..])][..], &[("./usr/src/linux-source-6.12.tar.xz", &b"not xz"[..])][..]]
    {
        host.offer_package("6.12.117-1", &fixture::deb(None, files));
        assert_eq!(host.store().build(&plain(), None, &Silent).unwrap_err().category(), "PackageCorrupted");
    }
    host.offer("6.12.117-1", &[("../../escape", "")]);
    assert_eq!(host.store().build(&plain(), None, &Silent).unwrap_err().category(), "PackageCorrupted");
    host.offer("6.12.117-1", &[("Makefile", "")]);
    assert!(host.store().build(&plain(), None, &Silent).unwrap_err().to_string().contains("no kernel source"));
}

#[test]
fn a_kernel_for_another_architecture_is_not_installed() {
    let host = Host::new();
    host.set("vmlinux", &crate::elf::fixture::elf(183, ("x", b""), false));
    let error = host.store().build(&plain(), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "WrongArchitecture");
    assert!(host.store().list().unwrap().is_empty());
}

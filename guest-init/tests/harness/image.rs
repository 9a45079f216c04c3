//! What a machine boots from: an initramfs (cpio, "newc" format) and ext4 disks.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use super::Tools;

/// guest-init as `/init`, the modules, and the console that the kernel opens for it.
pub(crate) fn initramfs(out: &Path, init: &Path, modules: &[impl AsRef<Path>]) {
    let mut archive = Vec::new();
    member(&mut archive, "dev", 0o040_755, (0, 0), b"");
    member(&mut archive, "dev/console", 0o020_600, (5, 1), b"");
    member(&mut archive, "init", 0o100_755, (0, 0), &fs::read(init).unwrap());
    member(&mut archive, "modules", 0o040_755, (0, 0), b"");
    for (number, module) in modules.iter().enumerate() {
        let name = module.as_ref().file_name().unwrap().to_str().unwrap();
        let content = fs::read(module).unwrap();
        member(&mut archive, &format!("modules/{number:02}-{name}"), 0o100_644, (0, 0), &content);
    }
    member(&mut archive, "TRAILER!!!", 0, (0, 0), b"");
    fs::write(out, archive).unwrap();
}

fn member(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let fields = [
        archive.len() as u32 + 1,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A baseline with busybox, a user `agent` (1000:1001, also in the group `audio`, 29), and no directory for any mount.
pub(crate) fn baseline(tools: &Tools, out: &Path) {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["bin", "etc", "root", "home/agent", "run/mysqld"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(&tools.busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(&tools.busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nagent:x:1000:1001::/home/agent:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\naudio:x:29:agent\nagent:x:1001:\n").unwrap();
    fs::write(root.join("etc/hosts"), "the image's own\n").unwrap();
    fs::write(root.join("bin/no-loader"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(root.join("bin/no-loader"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut make = ext4(out, "32M");
    make.arg("-d").arg(root).args(["-E", "root_owner=0:0"]);
    assert!(make.status().unwrap().success());
}

/// An empty disk, of a size such as `64M`.
pub(crate) fn empty(out: &Path, size: &str) {
    assert!(ext4(out, size).status().unwrap().success());
}

fn ext4(out: &Path, size: &str) -> Command {
    let file = fs::File::create(out).unwrap();
    file.set_len(size.trim_end_matches('M').parse::<u64>().unwrap() << 20).unwrap();
    let mut make = Command::new("mke2fs");
    make.env("PATH", path()).args(["-q", "-t", "ext4", "-F"]).arg(out);
    make.stdin(Stdio::null());
    make
}

/// Whether a disk was left without a journal to replay and without damage.
pub(crate) fn is_clean(disk: &Path) -> bool {
    let header = fs::read(disk).unwrap();
    // ext4's s_feature_incompat at 0x60 of the superblock, which is at 1024: 4 is "needs recovery".
    let needs_recovery = header[1024 + 0x60] & 4 != 0;
    let check = Command::new("e2fsck").env("PATH", path()).arg("-fn").arg(disk).output().unwrap();
    if !check.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&check.stdout));
    }
    !needs_recovery && check.status.success()
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

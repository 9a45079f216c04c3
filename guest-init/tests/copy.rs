//! Copies in and out of a real machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail tests")]

mod harness;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, FileTimes},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use harness::{
    client::{ExecSession, Session, config, copy_out, exec, sh, shut_down},
    image,
    vm::Vm,
};
use microagent_archive::{Count, Owners, Reading, Source, Unpack, What, unpack};
use microagent_guest_protocol::{
    CopyIn, CopyReply, CopyWhat, FileName, Request,
    frame::{self, Kind, MAX_DATA},
};

const COPIED: CopyReply = CopyReply::Copied { left_out: None };

fn copy_in(path: &str, name: &[u8]) -> CopyIn {
    let (what, user) = (CopyWhat::Named(FileName(name.to_vec())), Some("agent".to_owned()));
    CopyIn { path: path.to_owned(), what, keep_owners: false, user }
}

fn reply(socket: &mut UnixStream) -> CopyReply {
    frame::read_message(socket).unwrap()
}

/// Sends an archive, and its end, as far as the guest takes it.
fn put(vm: &Vm, request: CopyIn, archive: &[u8]) -> CopyReply {
    let mut socket = vm.connect();
    frame::write_message(&mut socket, &Request::CopyIn(request)).unwrap();
    let mut to = socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let frames = archive.chunks(MAX_DATA).chain([&[][..]]);
            frames.map(|chunk| frame::write(&mut to, Kind::Stdin, chunk)).take_while(Result::is_ok).count()
        });
        let reply = reply(&mut socket);
        let _ = socket.shutdown(std::net::Shutdown::Both);
        reply
    })
}

fn packed(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let source =
        Source::open(Path::new("/"), path, Reading { follow: false, only_disks: false, without: None }).unwrap();
    assert!(source.write(&mut bytes).unwrap().is_empty());
    bytes
}

/// All below `path` by its name: mode, time, and what is in it.
fn seen(path: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        let meta = at.symlink_metadata().unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&at).unwrap()
        };
        all.insert(at.strip_prefix(path).unwrap().to_owned(), (meta.mode(), meta.mtime(), content));
    }
    all
}

/// A tree with modes, times, links, odd names, and a file of 64 MiB.
fn tree(root: &Path) -> PathBuf {
    let top = root.join("tree");
    fs::create_dir_all(top.join("deep/er")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    let big: Vec<u8> = (0..(64u32 << 20) / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let files: [(&[u8], &[u8], u32); 5] = [
        (b"run.sh", b"#!/bin/sh\n", 0o750),
        (b"deep/er/none", b"", 0o400),
        (b"big", &big, 0o644),
        (b"-odd \xff\nname\\", b"odd", 0o604),
        (&[b"deep/".to_vec(), vec![b'n'; 250]].concat(), b"long", 0o666),
    ];
    for (number, (name, content, mode)) in files.into_iter().enumerate() {
        let path = top.join(OsStr::from_bytes(name));
        fs::write(&path, content).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000 + number as u64);
        File::open(&path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("../big", top.join("deep/link")).unwrap();
    symlink("/no/where", top.join("dangling")).unwrap();
    fs::set_permissions(top.join("deep"), fs::Permissions::from_mode(0o2711)).unwrap();
    top
}

#[test]
fn files_go_in_and_come_out_as_they_were_by_no_program_of_the_image() {
    let Some(tools) = harness::tools("files_go_in_and_come_out_as_they_were_by_no_program_of_the_image") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (baseline, writable) = (directory.path().join("baseline"), directory.path().join("writable"));
    image::baseline(tools, &baseline);
    image::empty(&writable, "160M");
    let mut vm = Vm::boot(tools, &[(&baseline, true), (&writable, false)]);
    let refused = |reply: CopyReply, expected: &str| match reply {
        CopyReply::Failed { code, message, .. } if code == expected => message,
        other => panic!("{expected}: {other:?}"),
    };
    refused(copy_out(&vm, "/etc", false).1, "NotConfigured");
    let script = "mkdir -p /w; ln -s /proc/1/root /magic; ln -s etc/passwd /alias; mkfifo /w/pipe; echo in > /w/f; echo ready; \
                  trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mut session = Session::configure(&vm, &config(sh(script)));
    session.until(&vm, |told| told.text() == "ready\n");
    let shell = |script: &str| ExecSession::start(&vm, exec(script)).finish().0;

    // In, as the workload's user; and out again, the same.
    let tree = tree(directory.path());
    let before = seen(&tree);
    assert_eq!(put(&vm, copy_in("/home/agent", b"tree"), &packed(&tree)), COPIED);
    let told = shell(
        "cd /home/agent/tree; stat -c '%u:%g %a %Y' run.sh . deep/link; cat deep/er/none run.sh; wc -c < big; ls -a .. . | grep -c microagent",
    );
    let own = before[Path::new("")].0 & 0o7777;
    let lines: Vec<_> = told.lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "1000:1001 750 1000000000", "{told}");
    assert!(lines[1].starts_with(&format!("1000:1001 {own:o} ")) && lines[2].starts_with("1000:1001 777 "), "{told}");
    assert_eq!(lines[3..], ["#!/bin/sh", "67108864", "0"], "{told}");
    let (archive, reply) = copy_out(&vm, "/home/agent/tree", false);
    assert_eq!(reply, COPIED);
    let back = directory.path().join("back");
    let how = Unpack {
        root: Path::new("/"),
        to: &back,
        what: What::Named("tree".into()),
        owners: Owners::Ours,
        special_bits: true,
    };
    let mut count = Count::default();
    assert!(unpack(&archive[..], &how, &mut count).unwrap().is_empty());
    assert!(seen(&back) == before, "{:?}", seen(&back).keys());

    // Owners of the archive; a mount point is written in place; a file by another name.
    let file = directory.path().join("file");
    fs::write(&file, "10.0.0.1 peer\n").unwrap();
    let one = packed(&file);
    assert_eq!(put(&vm, CopyIn { keep_owners: true, ..copy_in("/w/kept", b"file") }, &one), COPIED);
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(shell("stat -c %u:%g /w/kept").trim(), format!("{}:{}", meta.uid(), meta.gid()));
    assert_eq!(put(&vm, copy_in("/etc/hosts", b"file"), &one), COPIED);
    assert_eq!(shell("cat /etc/hosts"), "10.0.0.1 peer\n");
    // Links of the guest lead no further than its root, and the links of /proc nowhere.
    let name = |path: &str, follow| {
        let (archive, reply) = copy_out(&vm, path, follow);
        assert_eq!(reply, COPIED, "{path}");
        let mut archive = tar::Archive::new(&archive[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        (entry.path().unwrap().display().to_string(), entry.header().entry_type(), entry.header().uid().unwrap())
    };
    assert_eq!(name("/alias", false), ("alias".to_owned(), tar::EntryType::Symlink, 0));
    assert_eq!(name("/alias", true), ("alias".to_owned(), tar::EntryType::Regular, 0));
    assert_eq!(name("/home/agent/tree/run.sh", false).2, 1000);
    refused(copy_out(&vm, "/magic/etc/hosts", false).1, "FileNotReadable");
    refused(copy_out(&vm, "/proc/version", false).1, "FileNotReadable");
    refused(copy_out(&vm, "/w/pipe", false).1, "FileNotReadable");
    let message = refused(copy_out(&vm, "/no/such", false).1, "FileNotFound");
    assert!(message.contains("copy /no/such out: No such file"), "{message}");

    // What cannot go in, also while the host sends on and on.
    let big = packed(&tree);
    refused(put(&vm, copy_in("/no/such/place", b"tree"), &big), "DestinationUnusable");
    refused(put(&vm, copy_in("/etc/passwd", b"tree"), &big), "DestinationUnusable");
    refused(put(&vm, copy_in("/magic/w", b"tree"), &big), "CopyFailed");
    refused(put(&vm, CopyIn { user: Some("nobody".to_owned()), ..copy_in("/w", b"x") }, &one), "UserNotFound");
    refused(put(&vm, copy_in("w", b"x"), &one), "InvalidRequest");
    refused(put(&vm, copy_in("/w", b"../x"), &one), "InvalidRequest");
    refused(put(&vm, copy_in("/w", b"x"), b""), "ArchiveBroken");
    refused(put(&vm, copy_in("/w", b"x"), &one[..600]), "ArchiveBroken");
    refused(put(&vm, CopyIn { what: CopyWhat::Contents, ..copy_in("/w", b"") }, &one), "DestinationUnusable");
    let full = CopyIn { user: None, ..copy_in("/w", b"huge") };
    let message = refused(put(&vm, full, &huge(150 << 20)), "CopyFailed");
    assert!(message.contains("No space left"), "{message}");

    // A host that goes in the middle leaves nothing behind.
    let mut left = vm.connect();
    frame::write_message(&mut left, &Request::CopyIn(copy_in("/w/part", b"tree"))).unwrap();
    big[..8 << 20].chunks(MAX_DATA).for_each(|chunk| frame::write(&mut left, Kind::Stdin, chunk).unwrap());
    drop(left);
    let waiting =
        "while ls -a /w/part | grep -q microagent; do sleep 0.1; done; ls -a / /w /w/part | grep -c microagent";
    assert_eq!(shell(waiting).trim(), "0");

    // One that is on its way ends with the machine, whose disk is clean.
    let mut open = vm.connect();
    frame::write_message(&mut open, &Request::CopyIn(copy_in("/w/late", b"tree"))).unwrap();
    frame::write(&mut open, Kind::Stdin, &big[..MAX_DATA]).unwrap();
    shut_down(&vm, 30);
    session.until_the_end(&vm);
    refused(frame::read_message(&mut open).unwrap(), "StreamFailed");
    vm.wait_until_off();
    assert!(image::is_clean(&writable));
}

/// An archive of one file of this size.
fn huge(size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.as_old_mut().name[..4].copy_from_slice(b"huge");
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.resize(archive.len() + usize::try_from(size).unwrap(), 7);
    archive.resize(archive.len() + 1024, 0);
    archive
}

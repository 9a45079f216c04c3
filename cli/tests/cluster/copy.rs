//! `kubectl microagent cp`

use std::{
    fs,
    io::Write,
    os::unix::{fs::symlink, net::UnixStream},
    process::Stdio,
    thread::JoinHandle,
};

use microagent_guest_protocol::{
    CopyIn, CopyOut, CopyReply, CopyWhat, FileName, Request,
    frame::{self, Kind},
};

use crate::{Cluster, done, guest::serve};

const COPIED: CopyReply = CopyReply::Copied { left_out: None };

/// An archive of files and directories: name, content.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        let is_directory = name.ends_with('/');
        header.set_entry_type(if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A guest that takes an archive up to its end, and replies.
fn taker(cluster: &Cluster, reply: CopyReply) -> JoinHandle<(Request, Vec<u8>)> {
    serve(cluster, move |mut wire, request| {
        let mut bytes = Vec::new();
        while let Some(frame) = frame::read(&mut wire).unwrap().filter(|f| !f.payload.is_empty()) {
            assert_eq!(frame.kind, Kind::Stdin);
            bytes.extend(frame.payload);
        }
        frame::write_message(&mut wire, &reply).unwrap();
        (request, bytes)
    })
}

/// A guest that gives these bytes, and then does as `then` says.
fn giver(
    cluster: &Cluster,
    bytes: Vec<u8>,
    then: impl FnOnce(&mut UnixStream) + Send + 'static,
) -> JoinHandle<Request> {
    serve(cluster, move |mut wire, request| {
        for chunk in bytes.chunks(frame::MAX_DATA) {
            if frame::write(&mut wire, Kind::Output, chunk).is_err() {
                return request;
            }
        }
        then(&mut wire);
        request
    })
}

fn reply(reply: CopyReply) -> impl FnOnce(&mut UnixStream) + Send + 'static {
    move |wire| {
        let _ = frame::write_message(wire, &reply);
    }
}

#[test]
fn a_directory_goes_in_as_an_archive_of_its_own_name_for_the_workloads_user() {
    let cluster = Cluster::new();
    let source = cluster.path("notes");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("big"), vec![7; 300_000]).unwrap();
    symlink("big", source.join("link")).unwrap();
    let guest = taker(&cluster, COPIED);
    let done = cluster.run(&format!("cp {} web:work", source.display()));
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", ""));
    let (request, bytes) = guest.join().unwrap();
    let what = CopyWhat::Named(FileName(b"notes".to_vec()));
    let expected = CopyIn { path: "/work".to_owned(), what, keep_owners: false, user: Some("app".to_owned()) };
    assert_eq!(request, Request::CopyIn(expected));
    let mut read = tar::Archive::new(&bytes[..]);
    let mut names: Vec<_> = read.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    names.sort();
    assert_eq!(names, ["notes/", "notes/big", "notes/link"]);
}

#[test]
fn what_comes_out_is_unpacked_under_the_name_that_was_asked_for() {
    let cluster = Cluster::new();
    let tree = archive(&[("out/", b""), ("out/a", b"A"), ("out/deep/", b""), ("out/deep/big", &[7; 200_000])]);
    let guest = giver(&cluster, tree, reply(COPIED));
    let to = cluster.path("here");
    let done = cluster.run(&format!("cp -L web:/work/out {}", to.display()));
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", ""));
    assert_eq!(fs::read(to.join("a")).unwrap(), b"A");
    assert_eq!(fs::read(to.join("deep/big")).unwrap(), [7; 200_000]);
    let asked = guest.join().unwrap();
    assert_eq!(asked, Request::CopyOut(CopyOut { path: "/work/out".to_owned(), follow: true }));
}

#[test]
fn an_archive_passes_from_standard_input_and_to_standard_output_as_it_is() {
    let sent = archive(&[("a", b"A")]);
    let cluster = Cluster::new();
    let guest = taker(&cluster, COPIED);
    let mut command = cluster.command("cp -a - web:/work");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&sent).unwrap();
    let put = done(&child.wait_with_output().unwrap());
    assert_eq!((put.code, put.err.as_str()), (0, ""));
    let (request, bytes) = guest.join().unwrap();
    let Request::CopyIn(CopyIn { what: CopyWhat::Entries, keep_owners: true, .. }) = request else {
        panic!("{request:?}")
    };
    assert!(bytes == sent);

    let cluster = Cluster::new();
    let guest = giver(&cluster, sent.clone(), reply(COPIED));
    let output = cluster.command("cp web:/work/a -").output().unwrap();
    assert!(output.status.success() && output.stdout == sent);
    guest.join().unwrap();
}

#[test]
fn a_guest_that_lies_writes_nothing_outside() {
    for (entries, why) in [
        (vec![("out/", &b""[..]), ("../evil", b"x")], "could leave"),
        (vec![("out/", b""), ("/evil", b"x")], "absolute"),
        (vec![("out/", b""), ("other", b"x")], "does not lie below"),
        (vec![("out/", b""), ("out/up/evil", b"x")], "links are not followed"),
    ] {
        let cluster = Cluster::new();
        let to = cluster.path("here");
        fs::create_dir_all(to.join("out")).unwrap();
        symlink("../..", to.join("out/up")).unwrap();
        let guest = giver(&cluster, archive(&entries), reply(COPIED));
        let done = cluster.run(&format!("cp web:/out {}", to.display()));
        assert!(done.code == 1 && done.err.contains(why), "{why}: {} {}", done.code, done.err);
        assert!(!cluster.path("evil").exists() && !to.join("evil").exists() && !to.join("other").exists());
        guest.join().unwrap();
    }
}

#[test]
fn a_cut_is_told_with_what_came_and_leaves_no_part_of_a_file() {
    let whole = archive(&[("out/", b""), ("out/a", b"A"), ("out/b", &[7; 200_000])]);
    // In a file; and where the archive is whole, but the guest's word lacks.
    for (cut, count) in [(100_000, "2 entries were copied before"), (whole.len(), "3 entries were copied before")] {
        let cluster = Cluster::new();
        let guest = giver(&cluster, whole[..cut].to_vec(), |_| {});
        let to = cluster.path("here");
        let done = cluster.run(&format!("cp web:/out {}", to.display()));
        assert_eq!(done.code, 75, "{}", done.err);
        assert!(done.err.contains("the copy is not whole") && done.err.contains(count), "{}", done.err);
        assert_eq!(fs::read(to.join("a")).unwrap(), b"A");
        assert_eq!(fs::read_dir(&to).unwrap().count(), if cut == whole.len() { 2 } else { 1 });
        guest.join().unwrap();
    }
    let cluster = Cluster::new();
    let guest = giver(&cluster, whole[..100_000].to_vec(), |_| {});
    assert_eq!(cluster.run("cp web:/out -").code, 75);
    guest.join().unwrap();
    let cluster = Cluster::new();
    let guest = serve(&cluster, |wire, _| drop(wire));
    fs::write(cluster.path("f"), "x").unwrap();
    assert_eq!(cluster.run(&format!("cp {} web:/w", cluster.path("f").display())).code, 75);
    guest.join().unwrap();
}

#[test]
fn the_guests_word_about_a_failure_is_told_also_while_there_is_more_to_send() {
    let cluster = Cluster::new();
    let failed = CopyReply::Failed {
        code: "CopyFailed".to_owned(),
        message: "cannot write /w/f: No space left on device".to_owned(),
        entries: 2,
        bytes: 4096,
    };
    let guest = serve(&cluster, move |mut wire, _| {
        for _ in 0..10 {
            frame::read(&mut wire).unwrap();
        }
        frame::write_message(&mut wire, &failed).unwrap();
        while frame::read(&mut wire).is_ok_and(|frame| frame.is_some()) {}
    });
    let file = fs::File::create(cluster.path("f")).unwrap();
    // With a hole: it takes no room.
    file.set_len(4 << 30).unwrap();
    let done = cluster.run(&format!("cp {} web:/w", cluster.path("f").display()));
    let expected =
        "error: CopyFailed: cannot write /w/f: No space left on device; 2 entries were copied before, with 4.0 KiB\n";
    assert_eq!((done.code, done.err.as_str()), (1, expected));
    guest.join().unwrap();
}

#[test]
fn what_was_left_out_is_told_and_is_no_success() {
    let cluster = Cluster::new();
    let left_out = Some("out/secret: Permission denied".to_owned());
    let guest = giver(&cluster, archive(&[("out/", b"")]), reply(CopyReply::Copied { left_out }));
    let done = cluster.run(&format!("cp web:/out {}", cluster.path("here").display()));
    assert_eq!((done.code, done.err.as_str()), (1, "error: not all was copied: out/secret: Permission denied\n"));
    guest.join().unwrap();
}

#[test]
fn what_makes_no_sense_is_told_without_a_cluster() {
    let cluster = Cluster::new();
    fs::remove_file(cluster.path("config")).unwrap();
    for line in ["cp /a /b", "cp a:/x b:/y", "cp web: /b", "cp web:/a"] {
        assert_eq!(cluster.run(line).code, 2, "{line}");
    }
    assert_eq!(cluster.run("cp /no/such web:/").code, 1);
}

//! `microagent cp` through the built programs and a real machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::{Output, Stdio},
};

use microagent_tests::host::{Host, manifest, started};
use serde_json::json;

fn cp<const N: usize>(host: &Host, args: [&str; N]) -> Output {
    host.command("microagent").arg("cp").args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn files_are_copied_both_ways_by_the_rules_of_docker() {
    let Some((_registry, image, host)) = started("copy") else { return };
    let spec = json!({
        "command": ["/bin/sh", "-c", "echo up; exec sleep 100000"],
        "user": "app",
        "lifecycle": { "terminationGracePeriodSeconds": 1 },
    });
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    host.wait("web", "Ready");
    let shell = |script: &str| host.ok(["exec", "-u", "root", "web", "--", "/bin/sh", "-c", script]);
    let done = |output: Output| {
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""));
        output.stdout
    };
    let scratch = |name: &str| host.scratch().join(name).to_str().unwrap().to_owned();

    // In: a tree becomes the place, and belongs to the workload's user.
    let tree = scratch("tree");
    fs::create_dir_all(format!("{tree}/deep")).unwrap();
    fs::write(format!("{tree}/deep/run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(format!("{tree}/deep/run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
    let big: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(format!("{tree}/big"), &big).unwrap();
    symlink("deep/run.sh", format!("{tree}/link")).unwrap();
    let _ = shell("mkdir /w");
    done(cp(&host, [&tree, "web:/w/new"]));
    done(cp(&host, [&tree, "web:w"]));
    done(cp(&host, [&format!("{tree}/."), "web:/w/"]));
    let told =
        shell("cd /w; stat -c '%u %a' new/deep/run.sh tree/deep/run.sh deep/run.sh; readlink new/link; wc -c < big");
    assert_eq!(told, "1000 750\n1000 750\n1000 750\ndeep/run.sh\n8000000\n");

    // Out: under its name, under another, and what a link leads to.
    let out = scratch("out");
    done(cp(&host, ["web:/w/new", &out]));
    assert!(fs::read(format!("{out}/big")).unwrap() == big);
    let meta = fs::metadata(format!("{out}/deep/run.sh")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o750);
    assert_eq!(meta.mtime(), fs::metadata(format!("{tree}/deep/run.sh")).unwrap().mtime());
    assert_eq!(meta.uid(), rustix::process::getuid().as_raw(), "what is copied out is ours");
    done(cp(&host, ["-L", "web:/w/new/link", &out]));
    assert_eq!(fs::read(format!("{out}/link")).unwrap(), b"#!/bin/sh\n");
    assert!(fs::symlink_metadata(format!("{out}/link")).unwrap().is_file());

    // As an archive, from one place of the guest to another.
    let archive = done(cp(&host, ["web:/w/new/deep", "-"]));
    let mut put = host.command("microagent");
    let mut put = put.args(["cp", "-", "web:/w/tree"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&archive).unwrap();
    done(put.wait_with_output().unwrap());
    assert_eq!(shell("ls /w/tree/deep"), "run.sh\n");

    // What cannot be done changes nothing, and says so.
    for (args, code, why) in [
        ([tree.as_str(), "web:/etc/passwd"], 1, "a directory cannot be copied onto a file"),
        ([&tree, "web:/no/such/place"], 1, "there is no directory /no/such: make it first"),
        (["web:/no/such", &out], 1, "FileNotFound: cannot copy /no/such out"),
        (["web:/proc/version", &out], 1, "not on a disk"),
        (["web:/w", "/no/such/place"], 1, "make it first"),
        (["none:/w", &out], 1, "not found"),
        (["/a", "/b"], 2, "NAME:PATH"),
    ] {
        let output = cp(&host, args);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && err.contains(why), "{args:?}: {:?} {err}", output.status);
    }
    assert_eq!(shell("find / -xdev -name '.microagent-cp-*' | wc -l").trim(), "0");

    // A machine that is cut off is reached by nothing.
    let mut cut = spec;
    cut["powerState"] = json!("Quarantined");
    host.drop_file("web.yaml", &manifest("web", &image, &cut));
    let _ = host.told("web", "Ready", "Quarantined", &[]);
    assert!(!cp(&host, ["web:/w", &scratch("late")]).status.success());
    assert!(!host.scratch().join("late").exists());

    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
}

//! Manifests.

use std::{fs, process::Command};

use microagent_tests::{
    host::{Host, manifest},
    program,
};

use crate::{assert_leave_nothing, assert_told, halted};

/// A workspace of this name with these lines in its spec, as YAML.
fn yaml(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata:\n  name: {name}\nspec:\n  image: busybox:1\n{spec}"
    )
}

#[test]
fn of_several_manifests_in_a_file_the_good_ones_run_and_each_bad_one_says_where_it_is_wrong() {
    let mut host = Host::new();
    host.start_controller();
    let documents = [
        yaml("first", "  runPolicy: Halted\n"),
        yaml("unknown", "  comand: [/bin/true]\n"),
        yaml("wrong-type", "  resources: {memory: [1]}\n"),
        yaml("wrong-value", "  runPolicy: Sometimes\n"),
        yaml("later", "  network: {mode: User}\n"),
        yaml("last", "  runPolicy: Halted\n"),
    ];
    host.drop_file("all.yaml", &documents.join("---\n"));
    host.wait("first", "Ready");
    host.wait("last", "Ready");
    assert_told(&host, "unknown", "Stalled", "InvalidManifest", &["all.yaml:15:", "comand", "command"]);
    assert_told(&host, "wrong-type", "Stalled", "InvalidManifest", &["all.yaml:23:", "spec.resources.memory"]);
    assert_told(&host, "wrong-value", "Stalled", "InvalidManifest", &["all.yaml:31:", "spec.runPolicy", "Once"]);
    assert_told(&host, "later", "Stalled", "NotSupported", &["all.yaml", "spec.network", "not supported yet"]);

    // What was good stays what it was until the file is good again.
    let before = host.object("first")["metadata"]["uid"].clone();
    let broken = documents.join("---\n").replacen("runPolicy: Halted", "runPolicy: [Halted", 1);
    host.drop_file("all.yaml", &broken);
    assert_told(&host, "first", "Stalled", "InvalidManifest", &["all.yaml:"]);
    assert_eq!(host.object("first")["metadata"]["uid"], before);
    host.drop_file("all.yaml", &documents[0]);
    host.wait("first", "Ready");
    assert_eq!(host.object("first")["metadata"]["uid"], before);
    for name in ["unknown", "wrong-type", "wrong-value", "later", "last"] {
        host.wait_deleted(name);
    }
}

#[test]
fn files_that_are_no_manifests_are_told_of_and_hold_up_no_others() {
    let mut host = Host::new();
    host.start_controller();
    let folder = host.folder();
    // A reader of this one would wait for ever.
    if let Some(mkfifo) = program("mkfifo") {
        assert!(Command::new(mkfifo).arg(folder.join("pipe.yaml")).status().expect("mkfifo").success());
    }
    fs::create_dir(folder.join("directory.yaml")).expect("a directory");
    std::os::unix::fs::symlink("loop.yaml", folder.join("loop.yaml")).expect("a link");
    std::os::unix::fs::symlink("/dev/zero", folder.join("endless.yaml")).expect("a link");
    fs::write(folder.join("binary.yaml"), [0xff, 0xfe, 0, 1, 2]).expect("a file");
    fs::write(folder.join("deep.yaml"), "[".repeat(100_000)).expect("a file");
    let bomb = (1..20).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let last = vec![format!("*a{}", n - 1); 10].join(",");
        text + &format!("a{n}: &a{n} [{last}]\n")
    });
    fs::write(folder.join("bomb.yaml"), bomb).expect("a file");
    fs::File::create(folder.join("huge.yaml")).and_then(|file| file.set_len(1 << 34)).expect("a file");
    host.drop_file("good.yaml", &manifest("good", "busybox:1", &halted()));
    host.wait("good", "Ready");
    host.drop_file("later.yaml", &manifest("later", "busybox:1", &halted()));
    host.wait("later", "Ready");
    let listed = host.microagent(["get"]);
    let told = String::from_utf8_lossy(&listed.stderr);
    for name in ["binary.yaml", "deep.yaml", "bomb.yaml", "huge.yaml"] {
        assert!(told.contains(name), "{name} is not told of:\n{told}");
    }
    assert!(listed.status.success());
    assert_leave_nothing(&host, &["good", "later"]);
}

#[test]
fn a_name_in_two_files_is_told_with_both_files() {
    let mut host = Host::new();
    host.start_controller();
    host.drop_file("web.yaml", &manifest("web", "busybox:1", &halted()));
    host.wait("web", "Ready");
    let before = host.object("web")["metadata"]["uid"].clone();
    host.drop_file("again.yaml", &manifest("web", "busybox:2", &halted()));
    assert_told(&host, "web", "Stalled", "NameConflict", &["web.yaml", "again.yaml"]);
    fs::remove_file(host.folder().join("again.yaml")).expect("the second file");
    host.wait("web", "Ready");
    assert_eq!(host.object("web")["metadata"]["uid"], before);
    assert_leave_nothing(&host, &["web"]);
}

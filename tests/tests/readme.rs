//! The README's commands, run as a newcomer would, against its own output.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use microagent_tests::{
    host::{Host, bin_dir, busybox_image, guest_init},
    page::{session, shape},
    registry::Registry,
};

const IMAGE: &str = "busybox:1.37";

#[test]
fn every_command_of_the_readme_gives_the_output_that_stands_there() {
    let Some(registry) = Registry::start("readme") else { return };
    // In place of a public image, the same from a registry of this test.
    let image = busybox_image().build().push(&registry, "busybox", "1.37");
    let host = Host::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let home = host.scratch().join("home");
    let examples = home.join("manifests/examples");
    fs::create_dir_all(&examples).unwrap();
    for entry in fs::read_dir(root.join("manifests/examples")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap().replace(IMAGE, &image);
        fs::write(examples.join(entry.file_name()), text).unwrap();
    }
    let session = session(&fs::read_to_string(root.join("README.md")).unwrap());
    assert!(session.len() > 10, "the README shows a session");

    let mut script = String::from("set -u\n");
    for (index, (command, _)) in session.iter().enumerate() {
        script.push_str(&format!("exec >{index}.out\n{}\n", command.replace(IMAGE, &image)));
        // A shell's `&` is its own success; everything else must succeed.
        if !command.ends_with('&') {
            script.push_str(&format!("code=$?; [ $code = 0 ] || {{ echo {index} >failed; kill %1; exit 1; }}\n"));
        }
    }
    script.push_str("kill %1; wait\n");
    symlink(bin_dir(), home.join("bin")).unwrap();
    let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(&home).env("PATH", path);
    shell.env("MICROAGENT_STATE_DIR", host.state()).env("MICROAGENT_CACHE_DIR", host.cache());
    shell.env("MICROAGENT_GUEST_INIT", guest_init());
    let output = shell.output().unwrap();
    let log = fs::read_to_string(home.join("up.log")).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr);
    if let Ok(index) = fs::read_to_string(home.join("failed")) {
        let (command, _) = &session[index.trim().parse::<usize>().unwrap()];
        panic!("`{command}` failed: {said}\n{log}");
    }
    for (index, (command, expected)) in session.iter().enumerate() {
        let given = fs::read_to_string(home.join(format!("{index}.out"))).unwrap();
        assert_eq!(shape(&given), shape(expected), "`{command}` gave:\n{given}\n{said}\n{log}");
    }
}

#[test]
fn the_manifest_in_the_readme_is_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = fs::read_to_string(root.join("manifests/examples/hello.yaml")).unwrap();
    let manifest = example.split_once("apiVersion").map(|(_, rest)| format!("apiVersion{rest}")).unwrap();
    assert!(fs::read_to_string(root.join("README.md")).unwrap().contains(&manifest));
}

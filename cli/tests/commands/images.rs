//! `microagent image`: the page about it run as it stands, and what workspaces hold on to.

use microagent_tests::{
    image_fixture::{BuiltImage, Compression, ImageFixture, noise_layer},
    page::{session, shape},
    registry::Registry,
};

use super::*;

fn image(content: &str) -> BuiltImage {
    ImageFixture::new().layer(noise_layer(content, 1_200_000), Compression::None).build()
}

#[test]
fn every_command_of_the_page_gives_the_output_that_stands_there() {
    let Some(registry) = Registry::start("every_command_of_the_page_gives_the_output_that_stands_there") else {
        return;
    };
    // In place of public names, those of a registry of this test.
    let name = image("box").push(&registry, "busybox", "1.37");
    let here = |text: &str| {
        let text = text.replace("docker.io/library/busybox:1.37", "busybox:1.37").replace("busybox:1.37", &name);
        text.replace("registry.example", registry.addr())
    };
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images.md")).unwrap();
    let session = session(&page);
    assert!(session.len() > 10, "the page shows a session");
    let host = Host::new();
    let program = Path::new(env!("CARGO_BIN_EXE_microagent"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for (command, expected) in session {
        let mut shell = Command::new("sh");
        shell.args(["-c", &here(&command)]).current_dir(host.dir.path()).env("PATH", &path).stdin(Stdio::null());
        shell.env("MICROAGENT_STATE_DIR", &host.paths.state).env("MICROAGENT_CACHE_DIR", &host.paths.cache);
        let output = shell.output().unwrap();
        let given = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{command}`: {said}");
        assert_eq!(shape(&given), shape(&here(&expected)), "`{command}` gave:\n{given}\n{said}");
    }
}

/// A host with images under these names.
fn with_images(names: &[&str]) -> Host {
    let host = Host::new();
    for name in names {
        let layout = host.path("layout");
        let _ = fs::remove_dir_all(&layout);
        image(name).write_layout(&layout, "v1");
        assert_eq!(host.run("image pull oci-layout:layout:v1").code, 0);
        assert_eq!(host.run(&format!("image tag oci-layout:{}:v1 {name}", layout.display())).code, 0);
        assert_eq!(host.run(&format!("image remove oci-layout:{}:v1", layout.display())).code, 0);
    }
    host
}

#[test]
fn the_image_of_a_workspace_stays_and_each_refusal_is_told() {
    let host = with_images(&["alpine:3.21", "r.example/other:1"]);
    host.record("web.yaml", &manifest("web", ""));
    let wide = host.run("image list -o wide");
    let line = wide.out.lines().find(|line| line.starts_with("docker.io/library/alpine:3.21")).unwrap().to_owned();
    assert!(line.ends_with("complete   workspace default/web"), "{line}");

    let done = host.run("image remove none alpine:3.21 r.example/other:1");
    assert_eq!((done.code, done.out.as_str()), (1, "removed r.example/other:1\n"));
    assert!(done.err.contains("ImageNotFound: image none"), "{}", done.err);
    assert!(done.err.contains("ImageInUse: image alpine:3.21 is in use by workspace default/web"), "{}", done.err);
    assert!(done.err.contains("freed 1."), "{}", done.err);

    let done = host.run("image prune --all -o json");
    let told: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (done.code, &told["images"], &told["bytes"], &told["dryRun"]),
        (0, &json!([]), &json!(0), &json!(false))
    );
    let inspected: Value = serde_json::from_str(&host.run("image inspect alpine:3.21").out).unwrap();
    assert_eq!(inspected["usedBy"], json!(["workspace default/web"]));
    assert_eq!(inspected["reference"], "docker.io/library/alpine:3.21");

    // A record that nobody can read may be of any image.
    fs::write(host.paths.workspaces().join("default/web.json"), "{").unwrap();
    for line in ["image prune --all", "image remove alpine:3.21"] {
        let done = host.run(line);
        assert_eq!(done.code, 1);
        assert!(done.err.contains("UsesUnknown") && done.err.contains("default/web"), "{}", done.err);
    }
    let listed = host.run("image list");
    assert!(listed.code == 0 && listed.err.contains("cannot be told"), "{}", listed.err);
    fs::remove_file(host.paths.workspaces().join("default/web.json")).unwrap();
    let done = host.run("image prune --all --older-than 1h");
    assert_eq!((done.code, done.out.as_str()), (0, "freed 0 B\n"));
    let done = host.run("image prune --all");
    assert!(done.out.starts_with("removed docker.io/library/alpine:3.21\nremoved 3 blobs"), "{}", done.out);
}

#[test]
fn an_archive_on_standard_output_is_the_one_in_the_file() {
    let host = with_images(&["alpine:3.21"]);
    assert_eq!(host.run("image export alpine:3.21 a.tar").code, 0);
    let piped = host.command("image export alpine:3.21 -").output().unwrap();
    assert!(piped.status.success() && piped.stdout == fs::read(host.path("a.tar")).unwrap());
    let failed = host.run("image export none b.tar");
    assert!(failed.code == 1 && failed.err.contains("ImageNotFound") && !host.path("b.tar").exists(), "{}", failed.err);
}

#[test]
fn a_push_that_cannot_be_says_why_and_what_to_do() {
    let host = with_images(&["alpine:3.21"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = host.run(&format!("image push alpine:3.21 {closed}/alpine:1"));
    assert_eq!(done.code, 75);
    assert!(done.err.contains("RegistryUnreachable") && done.err.contains("try again later"), "{}", done.err);
    let done = host.run("image push alpine:3.21 oci-archive:x.tar");
    assert!(done.code == 1 && done.err.contains("give one as the destination"), "{}", done.err);
}

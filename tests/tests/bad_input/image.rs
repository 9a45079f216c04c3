//! Images and registries.

use std::fs;

use microagent_base::Digest;
use microagent_tests::{
    host::{Host, busybox_image, manifest},
    image_fixture::{BuiltImage, Compression, ImageFixture, LayerBuilder, noise_layer},
    registry::Registry,
};
use serde_json::json;

use crate::{Bystander, assert_leave_nothing, assert_told};

/// An image of one layer, unlike the others of the test.
fn one_layer(size: usize) -> BuiltImage {
    ImageFixture::new().layer(noise_layer("file", size), Compression::None).run("Cmd", vec!["/file"]).build()
}

/// A tar with one file by a name that no library would write.
fn hostile_layer(name: &[u8]) -> Vec<u8> {
    let mut layer = LayerBuilder::new().file("a", 0o644, b"content").finish();
    layer[..name.len()].copy_from_slice(name);
    layer[148..156].fill(b' ');
    let sum: u32 = layer[..512].iter().map(|&byte| u32::from(byte)).sum();
    layer[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    layer
}

#[test]
fn an_image_that_is_not_what_it_claims_fails_its_own_workspace_and_is_not_kept() {
    let Some(registry) = Registry::start("bad_images") else { return };
    let good = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.start_controller();
    let bystander = Bystander::start(&host, &good);

    let damaged = one_layer(200_001);
    let file = registry.blob_file(&Digest::of(&damaged.layers[0]));
    let mut images = vec![("damaged", damaged.push(&registry, "demo/damaged", "1"))];
    let mut bytes = fs::read(&file).expect("the blob");
    bytes[100_000] ^= 1;
    fs::write(&file, bytes).expect("the blob");

    let cut = one_layer(200_002);
    let file = registry.blob_file(&Digest::of(&cut.layers[0]));
    images.push(("cut", cut.push(&registry, "demo/cut", "1")));
    fs::File::options().write(true).open(&file).and_then(|file| file.set_len(100_000)).expect("the blob");

    let tampered = one_layer(200_003);
    let _ = tampered.push(&registry, "demo/tampered", "1");
    let digest = tampered.digest();
    fs::write(registry.blob_file(&digest), one_layer(200_004).manifest).expect("the manifest");
    images.push(("tampered", format!("{}/demo/tampered@{digest}", registry.addr())));

    let other = Digest::of(b"nothing");
    images.push(("other", format!("{}/demo/web@{other}", registry.addr())));
    let layer = |bytes: Vec<u8>| ImageFixture::new().layer(bytes, Compression::Gzip).run("Cmd", vec!["/a"]).build();
    images.push(("escape", layer(hostile_layer(b"../../escaped")).push(&registry, "demo/escape", "1")));
    images.push(("garbage", layer(vec![b'x'; 4096]).push(&registry, "demo/garbage", "1")));
    let half = LayerBuilder::new().file("a", 0o644, &[1; 4096]).finish()[..2048].to_vec();
    images.push(("half", layer(half).push(&registry, "demo/half", "1")));
    for (name, image) in &images {
        host.drop_file(&format!("{name}.yaml"), &manifest(name, image, &json!({})));
    }

    let layer = Digest::of(&damaged.layers[0]).to_string();
    assert_told(&host, "damaged", "Stalled", "DigestMismatch", &[&layer, registry.addr(), "damaged or was tampered"]);
    let layer = Digest::of(&cut.layers[0]).to_string();
    assert_told(&host, "cut", "ImageResolved=False", "LayerTruncated", &[&layer, registry.addr(), "100000 of"]);
    assert_told(&host, "other", "Stalled", "ImageNotFound", &[&other.to_string(), registry.addr()]);
    host.wait("tampered", "ImageResolved=False");
    assert_told(
        &host,
        "escape",
        "RootfsBuilt=False",
        "LayerEntryRefused",
        &["demo/escape", "../../escaped", "layer 1"],
    );
    assert_told(&host, "garbage", "RootfsBuilt=False", "LayerCorrupt", &["demo/garbage", "layer 1"]);
    assert_told(&host, "half", "RootfsBuilt=False", "LayerCorrupt", &["demo/half", "ends too early"]);
    for name in ["escape", "garbage", "half"] {
        host.wait(name, "Stalled");
    }
    bystander.assert_untouched(&host);
    assert_eq!(host.check_disks(&host.cache().join("images")), 1, "no baseline is made of what is damaged");
    assert_leave_nothing(&host, &["damaged", "cut", "other", "tampered", "escape", "garbage", "half"]);
    assert_eq!(host.machines().len(), 1);
    assert!(!host.scratch().join("escaped").exists() && !host.cache().join("escaped").exists());
}

#[test]
fn a_registry_that_wants_a_login_is_told_as_that_and_so_is_a_login_that_cannot_be_read() {
    // The registry makes the file, with a password that it tells nobody.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {:?}}}}}", dir.path().join("htpasswd"));
    let Some(registry) = Registry::start_with("denied", &auth) else { return };
    let mut host = Host::new();
    host.start_controller_with(|command| {
        command.env("DOCKER_CONFIG", dir.path());
    });
    let image = format!("{}/demo/web:1", registry.addr());
    host.drop_file("denied.yaml", &manifest("denied", &image, &json!({})));
    assert_told(&host, "denied", "Stalled", "RegistryDenied", &[registry.addr(), "demo/web", "login"]);
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "!"}}}}}}"#, registry.addr());
    fs::write(dir.path().join("config.json"), config).expect("the Docker configuration");
    assert_told(&host, "denied", "Stalled", "CredentialsUnreadable", &[registry.addr(), "config.json"]);
    assert_leave_nothing(&host, &["denied"]);
}

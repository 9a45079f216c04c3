//! Images made of others and a layer more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{self, Read, Write},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use microagent_base::{Digest, Silent};
use microagent_images::{Commit, Image, ImageReference, PullPolicy, Remove, Store, Uses};
use microagent_rootfs::OverlayError;
use microagent_tests::image_fixture::{BuiltImage, Compression, ImageFixture, LayerBuilder};
use serde_json::Value;
use support::{Fixture, anonymous, pull, pull_with};

fn base() -> ImageFixture {
    ImageFixture::new()
        .layer(LayerBuilder::new().file("stays", 0o644, b"s").file("goes", 0o644, b"g").finish(), Compression::Gzip)
        .run("Cmd", vec!["cat", "/stays"])
}

async fn pulled(fixture: &Fixture, built: &BuiltImage) -> Image {
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    pull(&fixture.store, &format!("oci-layout:{}", layout.display())).await.unwrap()
}

fn layer() -> Vec<u8> {
    LayerBuilder::new().file("new", 0o600, b"new").whiteout("goes").finish()
}

fn commit<'a>(base: &Image, name: &'a ImageReference) -> Commit<'a> {
    Commit {
        base: base.digest,
        name,
        created_by: "microagent commit default/web",
        message: Some("a message"),
        author: Some("me"),
        created: "2026-11-24T06:00:00Z".parse().unwrap(),
    }
}

fn write(out: &mut dyn Write) -> Result<u8, OverlayError> {
    out.write_all(&layer()).map_err(OverlayError::Write).map(|()| 7)
}

fn document(fixture: &Fixture, digest: &Digest) -> Value {
    serde_json::from_slice(&fs::read(fixture.blob(digest)).unwrap()).unwrap()
}

#[tokio::test]
async fn the_new_image_is_the_base_with_one_layer_more_and_can_be_used_by_its_name() {
    for (built, manifest_type, layer_type) in [
        (base(), "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            base().docker(),
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ] {
        let fixture = Fixture::new();
        let base = pulled(&fixture, &built.build()).await;
        let name: ImageReference = "team/web:2".parse().unwrap();
        let (image, filled) = fixture.store.commit_layer(&commit(&base, &name), write).unwrap();
        assert_eq!((filled, image.reference.as_str()), (7, "docker.io/team/web:2"));
        assert_eq!((&image.layers[..1], image.layers.len()), (&base.layers[..], 2));
        assert_eq!((&image.config.cmd, &image.platform), (&base.config.cmd, &base.platform));
        assert_eq!(image.config.created, 1_795_500_000);
        let added = &image.layers[1];
        assert_eq!((added.media_type.as_str(), added.diff_id), (layer_type, Digest::of(&layer())));
        let blob = fs::read(fixture.blob(&added.digest)).unwrap();
        assert_eq!((Digest::of(&blob), blob.len() as u64), (added.digest, added.size));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, layer());
        let manifest = document(&fixture, &image.digest);
        assert_eq!(manifest["mediaType"], manifest_type);
        let config = document(&fixture, &manifest["config"]["digest"].as_str().unwrap().parse().unwrap());
        assert_eq!(config["history"][1]["comment"], "a message");
        assert_eq!(config["author"], "me");
        // A name, and its digest, are found without any registry; what was made is what the list shows.
        let found = pull_with(&fixture.store, "team/web:2", PullPolicy::Never, &anonymous()).await.unwrap();
        assert_eq!((found.digest, fixture.store.image(&image.digest).unwrap()), (image.digest, Some(image.clone())));
        assert!(fixture.store.list().unwrap().iter().any(|i| i.digest == image.digest && i.complete));
        assert_eq!(fixture.count("ingest"), 0);
        // The same again gives the same, and a root disk shows it.
        assert_eq!(fixture.store.commit_layer(&commit(&base, &name), write).unwrap().0, image);
        let disk = fixture.store.build_baseline(&image, &Silent).unwrap();
        if support::has("the_new_image", "debugfs") {
            let list = Command::new("debugfs").args(["-R", "ls -p /"]).arg(&disk.path).output().unwrap();
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            assert!(list.contains("/new/") && list.contains("/stays/") && !list.contains("/goes/"), "{list}");
        }
    }
}

#[tokio::test]
async fn a_commit_that_fails_leaves_the_store_as_it_was() {
    let fixture = Fixture::new();
    let base = pulled(&fixture, &base().build()).await;
    let name: ImageReference = "web:2".parse().unwrap();
    let before = (fixture.count("blobs/sha256"), fixture.store.list().unwrap());
    for (error, code) in [
        (OverlayError::Empty, "OverlayEmpty"),
        (OverlayError::Cancelled, "Cancelled"),
        (OverlayError::Write(io::ErrorKind::StorageFull.into()), "DiskFull"),
    ] {
        let failed = fixture.store.commit_layer::<()>(&commit(&base, &name), |out| {
            out.write_all(&[7; 100_000]).unwrap();
            Err(error)
        });
        assert_eq!(failed.unwrap_err().category(), code);
        assert_eq!((fixture.count("blobs/sha256"), fixture.store.list().unwrap()), before);
        assert_eq!(fixture.count("ingest"), 0);
    }
    let long = "x".repeat(5 << 20);
    let failed = fixture.store.commit_layer(&Commit { message: Some(&long), ..commit(&base, &name) }, write);
    assert_eq!(failed.unwrap_err().category(), "ImageTooLarge");
    assert_eq!(fixture.store.list().unwrap(), before.1);
    // A base of which something is gone is no base.
    fs::remove_file(fixture.blob(&base.layers[0].digest)).unwrap();
    let failed = fixture.store.commit_layer(&commit(&base, &name), write).unwrap_err();
    assert_eq!(failed.category(), "ImageIncomplete");
}

#[tokio::test]
async fn nothing_of_a_base_is_swept_while_it_is_committed() {
    let fixture = Fixture::new();
    let base = pulled(&fixture, &base().build()).await;
    let other = Store::open(&fixture.dir.path().join("images")).unwrap();
    let name: ImageReference = "web:2".parse().unwrap();
    let (tell, told) = mpsc::channel();
    let reference = base.reference.clone();
    let (image, ()) = fixture
        .store
        .commit_layer(&commit(&base, &name), |out| {
            // Another process removes the base meanwhile.
            let how = Remove { wait: Duration::ZERO, ..Remove::default() };
            tell.send(other.remove(&reference, &how, || Ok(Uses::default()))).unwrap();
            write(out).map(drop)
        })
        .unwrap();
    assert_eq!(told.recv().unwrap().unwrap_err().category(), "StoreBusy");
    assert_eq!(fixture.store.image(&image.digest).unwrap(), Some(image));
}

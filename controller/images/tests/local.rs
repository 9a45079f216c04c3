//! Images from layouts and archives on this host, and the store across crashes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, sync::Arc, sync::atomic::AtomicBool};

use microagent_base::Digest;
use microagent_images::{PullPolicy, Store, host_platform};
use microagent_tests::image_fixture::{BuiltImage, Compression, ImageFixture, LayerBuilder, write_layout};
use serde_json::json;
use support::{Fixture, anonymous, pull, pull_with};

fn image(text: &str) -> BuiltImage {
    ImageFixture::new()
        .layer(LayerBuilder::new().file("hello", 0o644, text.as_bytes()).finish(), Compression::Gzip)
        .run("Cmd", vec!["cat", "/hello"])
        .build()
}

#[tokio::test]
async fn an_image_comes_from_a_layout_and_from_an_archive() {
    let (fixture, built) = (Fixture::new(), image("local"));
    let (layout, archive) = (fixture.dir.path().join("layout"), fixture.dir.path().join("image.tar"));
    built.write_layout(&layout, "v1");
    built.write_archive(&archive, "v1");
    for reference in [
        format!("oci-layout:{}", layout.display()),
        format!("oci-layout:{}:v1", layout.display()),
        format!("oci-archive:{}:v1", archive.display()),
    ] {
        let fresh = Fixture::new();
        let pulled = pull(&fresh.store, &reference).await.unwrap();
        assert_eq!((pulled.digest, &pulled.reference), (built.digest(), &reference));
        assert_eq!(fs::read(fresh.blob(&pulled.layers[0].digest)).unwrap(), built.layers[0]);
        assert_eq!((fresh.count("ingest"), fresh.store.image(&pulled.digest).unwrap()), (0, Some(pulled)));
    }
    // The source may vanish afterwards.
    let reference = format!("oci-layout:{}:v1", layout.display());
    pull(&fixture.store, &reference).await.unwrap();
    fs::remove_dir_all(&layout).unwrap();
    pull_with(&fixture.store, &reference, PullPolicy::IfNotPresent, &anonymous()).await.unwrap();
    assert_eq!(pull(&fixture.store, &reference).await.unwrap_err().category(), "ImageNotFound");
}

#[tokio::test]
async fn a_layout_of_several_images_wants_a_tag_and_one_of_several_platforms_does_not() {
    let (fixture, one, two) = (Fixture::new(), image("one"), image("two"));
    let layout = fixture.dir.path().join("layout");
    let tagged = |image: &BuiltImage, tag: &str| {
        let mut entry = image.entry();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        entry
    };
    write_layout(&layout, &[&one, &two], &[tagged(&one, "one"), tagged(&two, "two")]);
    let reference = format!("oci-layout:{}", layout.display());
    let error = pull(&fixture.store, &reference).await.unwrap_err();
    assert_eq!(error.category(), "InvalidReference");
    assert!(error.to_string().contains("one, two"), "{error}");
    assert_eq!(pull(&fixture.store, &format!("{reference}:two")).await.unwrap().digest, two.digest());
    assert_eq!(pull(&fixture.store, &format!("{reference}:no")).await.unwrap_err().category(), "ImageNotFound");

    let foreign = ImageFixture::new().layer(vec![0; 1024], Compression::None).platform("linux", "s390x").build();
    write_layout(&layout, &[&one, &foreign], &[foreign.entry(), one.entry()]);
    assert_eq!(pull(&fixture.store, &reference).await.unwrap().digest, one.digest());
    write_layout(&layout, &[&foreign], &[foreign.entry()]);
    assert_eq!(pull(&fixture.store, &reference).await.unwrap_err().category(), "PlatformNotFound");
}

#[tokio::test]
async fn a_damaged_layout_is_refused_and_leaves_nothing() {
    let (fixture, built) = (Fixture::new(), image("x"));
    let layout = fixture.dir.path().join("layout");
    let reference = format!("oci-layout:{}", layout.display());
    let layer = layout.join("blobs/sha256").join(Digest::of(&built.layers[0]).hex());
    let damage: [(&str, &dyn Fn()); 5] = [
        ("DigestMismatch", &|| fs::write(&layer, vec![0; built.layers[0].len()]).unwrap()),
        ("LayerTruncated", &|| fs::write(&layer, &built.layers[0][..10]).unwrap()),
        ("ImageTooLarge", &|| fs::write(&layer, vec![0; 1 << 20]).unwrap()),
        ("InvalidImage", &|| fs::remove_file(&layer).unwrap()),
        ("InvalidImage", &|| fs::write(layout.join("index.json"), "{").unwrap()),
    ];
    for (category, damage) in damage {
        built.write_layout(&layout, "v1");
        damage();
        assert_eq!(pull(&fixture.store, &reference).await.unwrap_err().category(), category);
        assert_eq!((fixture.count("blobs/sha256"), fixture.count("ingest")), (0, 0));
    }
}

#[tokio::test]
async fn an_import_that_nobody_wants_ends() {
    let (fixture, built) = (Fixture::new(), image("x"));
    let archive = fixture.dir.path().join("image.tar");
    built.write_archive(&archive, "v1");
    let reference = format!("oci-archive:{}", archive.display()).parse().unwrap();
    let cancelled = Arc::new(AtomicBool::new(true));
    let result = fixture.store.pull(&reference, &host_platform(), PullPolicy::Always, &anonymous(), cancelled).await;
    assert_eq!(result.unwrap_err().category(), "Cancelled");
}

#[tokio::test]
async fn an_image_with_a_missing_blob_is_not_whole_and_is_completed_by_the_next_pull() {
    let (fixture, built) = (Fixture::new(), image("x"));
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    let reference = format!("oci-layout:{}:v1", layout.display());
    let pulled = pull(&fixture.store, &reference).await.unwrap();
    fs::remove_file(fixture.blob(&pulled.layers[0].digest)).unwrap();
    assert_eq!(fixture.store.image(&pulled.digest).unwrap(), None);
    assert!(!fixture.store.list().unwrap()[0].complete);
    pull_with(&fixture.store, &reference, PullPolicy::IfNotPresent, &anonymous()).await.unwrap();
    assert_eq!(fixture.store.image(&pulled.digest).unwrap(), Some(pulled));
}

#[tokio::test]
async fn what_a_crash_left_is_swept_and_nothing_of_it_is_read() {
    let (fixture, built) = (Fixture::new(), image("x"));
    let root = fixture.dir.path().join("images");
    for leftover in ["ingest/.tmp-a", "baselines/.tmp-b"] {
        fs::write(root.join(leftover), "half").unwrap();
    }
    // A disk without description was renamed but not finished; a torn index of a temporary name counts for nothing.
    fs::write(root.join("baselines/00.ext4"), "half").unwrap();
    fs::write(root.join(".tmp-index"), "{").unwrap();
    let store = Store::open(&root).unwrap();
    assert_eq!((fixture.count("ingest"), fixture.count("baselines")), (0, 1));
    assert!(store.list().unwrap().is_empty() && store.baselines().unwrap().is_empty());
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    pull(&store, &format!("oci-layout:{}", layout.display())).await.unwrap();
}

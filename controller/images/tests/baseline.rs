//! Root disks of pulled images.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, process::Command, sync::atomic::AtomicBool};

use microagent_base::{Digest, Silent};
use microagent_images::{Image, Remove, Store, Uses};
use microagent_tests::image_fixture::{Compression, ImageFixture, LayerBuilder, noise_layer};
use support::{Fixture, pull};

async fn pulled(fixture: &Fixture) -> Image {
    let base = LayerBuilder::new().dir("etc", 0o755).file("etc/hello", 0o600, b"hello\n").symlink("link", "etc/hello");
    let built = ImageFixture::new()
        .layer(base.finish(), Compression::Gzip)
        .layer(noise_layer("data", 3 << 20), Compression::Zstd)
        .layer(LayerBuilder::new().whiteout("link").finish(), Compression::None)
        .build();
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    pull(&fixture.store, &format!("oci-layout:{}", layout.display())).await.unwrap()
}

#[tokio::test]
async fn a_root_disk_is_built_once_is_read_only_and_clean() {
    let fixture = Fixture::new();
    let image = pulled(&fixture).await;
    assert_eq!(fixture.store.baseline(&image).unwrap(), None);
    // Two handles have separate locks, as two processes have.
    let second = Store::open(&fixture.dir.path().join("images")).unwrap();
    let other = image.clone();
    let thread = std::thread::spawn(move || second.build_baseline(&other, &Silent).unwrap());
    let built = fixture.store.build_baseline(&image, &Silent).unwrap();
    // The same build time says that it is the same build.
    assert_eq!(thread.join().unwrap(), built);
    assert_eq!(fixture.store.baseline(&image).unwrap().as_ref(), Some(&built));
    assert_eq!(fixture.store.baselines().unwrap(), std::slice::from_ref(&built));
    assert_eq!(fs::metadata(&built.path).unwrap().permissions().mode() & 0o7777, 0o444);
    assert_eq!(fs::metadata(&built.path).unwrap().len(), built.size);
    // The disk and its description, nothing else.
    assert_eq!(fixture.count("baselines"), 2);

    if support::has("a_root_disk_is_built_once_is_read_only_and_clean", "e2fsck") {
        let check = Command::new("e2fsck").arg("-fn").arg(&built.path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        let cat = Command::new("debugfs").args(["-R", "cat /etc/hello"]).arg(&built.path).output().unwrap();
        assert_eq!(cat.stdout, b"hello\n");
    }
    let removed = fixture.store.remove(&image.digest.to_string(), &Remove::default(), || Ok(Uses::default())).unwrap();
    assert_eq!(removed.root_disks[0].image, Some(image.digest));
    assert_eq!((fixture.store.baseline(&image).unwrap(), fixture.count("baselines")), (None, 0));
}

#[tokio::test]
async fn the_same_image_gives_the_same_disk_in_another_store() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let bytes = |path| Digest::of(&fs::read(path).unwrap());
    let first = one.store.build_baseline(&pulled(&one).await, &Silent).unwrap();
    let second = two.store.build_baseline(&pulled(&two).await, &Silent).unwrap();
    assert_eq!((first.key, first.uuid, bytes(first.path)), (second.key, second.uuid, bytes(second.path)));
}

#[tokio::test]
async fn a_layer_that_was_damaged_on_disk_is_dropped_and_pulled_again() {
    let fixture = Fixture::new();
    let image = pulled(&fixture).await;
    let blob = fixture.blob(&image.layers[0].digest);
    let size = fs::metadata(&blob).unwrap().len();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&blob, vec![0; usize::try_from(size).unwrap()]).unwrap();
    let error = fixture.store.build_baseline(&image, &Silent).unwrap_err();
    assert_eq!((error.category(), error.is_retryable(), error.needs_person()), ("ImageIncomplete", true, false));
    assert_eq!(fixture.count("baselines"), 0);
    let again = pulled(&fixture).await;
    fixture.store.build_baseline(&again, &Silent).unwrap();
}

#[tokio::test]
async fn a_build_that_nobody_wants_leaves_nothing() {
    let fixture = Fixture::new();
    let image = pulled(&fixture).await;
    let error = fixture.store.build_baseline(&image, &AtomicBool::new(true)).unwrap_err();
    assert_eq!((error.category(), fixture.count("baselines")), ("Cancelled", 0));
}

#[tokio::test]
async fn a_build_that_was_killed_is_done_anew() {
    let fixture = Fixture::new();
    let image = pulled(&fixture).await;
    let first = fixture.store.build_baseline(&image, &Silent).unwrap();
    let bytes = fs::read(&first.path).unwrap();
    // Killed while writing, and killed between the disk and its description.
    for (left, name) in [("half", format!(".tmp-{}", first.key)), ("other", format!("{}.ext4", first.key))] {
        fs::remove_file(first.path.with_extension("json")).unwrap();
        fs::remove_file(&first.path).unwrap();
        fs::write(first.path.with_file_name(name), left).unwrap();
        assert_eq!(fixture.store.baseline(&image).unwrap(), None);
        let again = fixture.store.build_baseline(&image, &Silent).unwrap();
        assert_eq!((fs::read(&again.path).unwrap() == bytes, fixture.count("baselines")), (true, 2));
    }
}

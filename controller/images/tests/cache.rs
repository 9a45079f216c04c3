//! What is in the store: named, told, exported, removed and pruned, also by two at once and by one that is killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use microagent_base::{Digest, Silent};
use microagent_images::{Held, Image, Prune, PullPolicy, Remove, Removed, Store, Uses};
use microagent_tests::image_fixture::{BuiltImage, Compression, ImageFixture, noise_layer};
use support::{Fixture, anonymous, pull, pull_with, wait_until};

fn image(name: &str) -> BuiltImage {
    // The first layer is the same in all.
    let base = ImageFixture::new().layer(noise_layer("base", 300_000), Compression::Gzip);
    base.layer(noise_layer(name, 200_000), Compression::Gzip).build()
}

/// Brings an image into the store under a name of a registry.
async fn add(fixture: &Fixture, built: &BuiltImage, name: &str) -> Image {
    let layout = fixture.dir.path().join("layout");
    let _ = fs::remove_dir_all(&layout);
    built.write_layout(&layout, "v1");
    let local = format!("oci-layout:{}:v1", layout.display());
    pull(&fixture.store, &local).await.unwrap();
    fixture.store.tag(&local, name).unwrap();
    fixture.store.remove(&local, &Remove::default(), nobody).unwrap();
    fixture.store.look_up(name, None).unwrap()
}

fn nobody() -> Result<Uses, String> {
    Ok(Uses::default())
}

/// A workspace that holds this image.
fn web(image: Held) -> impl Fn() -> Result<Uses, String> {
    move || {
        let mut uses = Uses::default();
        uses.add("workspace default/web", image.clone());
        Ok(uses)
    }
}

fn all() -> Prune {
    Prune { all: true, ..Prune::default() }
}

fn names(store: &Store) -> Vec<Option<String>> {
    store.list().unwrap().into_iter().map(|image| image.reference).collect()
}

#[tokio::test]
async fn an_image_may_have_several_names_and_a_name_moves() {
    let fixture = Fixture::new();
    let one = add(&fixture, &image("one"), "r.example/one:1").await;
    let two = add(&fixture, &image("two"), "r.example/two:1").await;
    let (name, manifests) = fixture.store.tag(&one.digest.to_string(), "tool").unwrap();
    assert_eq!((name.as_str(), manifests.as_slice()), ("docker.io/library/tool:latest", [one.digest].as_slice()));
    assert_eq!(fixture.store.look_up("tool", None).unwrap().digest, one.digest);
    // A workspace finds it without asking anybody.
    let found = pull_with(&fixture.store, "tool", PullPolicy::Never, &anonymous()).await.unwrap();
    assert_eq!(found.digest, one.digest);
    fixture.store.tag("r.example/two:1", "tool").unwrap();
    assert_eq!(fixture.store.look_up("tool", None).unwrap().digest, two.digest);
    assert_eq!(fixture.store.look_up("r.example/one:1", None).unwrap().digest, one.digest);
    for (from, to, category) in [
        ("none", "tool", "ImageNotFound"),
        ("tool", "Bad Name", "InvalidReference"),
        ("tool", "oci-layout:/x", "InvalidReference"),
        ("tool", &format!("r.example/x@{}", one.digest), "InvalidReference"),
    ] {
        assert_eq!(fixture.store.tag(from, to).unwrap_err().category(), category, "{from} {to}");
    }
}

#[tokio::test]
async fn a_name_goes_first_and_the_image_with_its_last_name() {
    let fixture = Fixture::new();
    let one = add(&fixture, &image("one"), "r.example/one:1").await;
    add(&fixture, &image("two"), "r.example/two:1").await;
    fixture.store.build_baseline(&one, &Silent).unwrap();
    fixture.store.tag("r.example/one:1", "r.example/one:2").unwrap();
    let remove = |wanted: &str| fixture.store.remove(wanted, &Remove::default(), nobody).unwrap();
    let removed = remove("r.example/one:1");
    assert_eq!((removed.images.len(), removed.bytes()), (1, 0));
    let removed = remove("r.example/one:2");
    assert_eq!((removed.images[0].digest, removed.root_disks.len()), (one.digest, 1));
    // Manifest, config and the layer of its own; the other layer is shared.
    assert_eq!(removed.blobs.count, 3);
    assert!(removed.bytes() > 200_000, "{removed:?}");
    assert_eq!((fixture.count("baselines"), fixture.count("blobs/sha256")), (0, 4));
    assert_eq!(names(&fixture.store), [Some("r.example/two:1".to_owned())]);
}

#[tokio::test]
async fn an_image_that_a_workspace_uses_is_not_removed_but_its_name_may_go() {
    let fixture = Fixture::new();
    let one = add(&fixture, &image("one"), "r.example/one:1").await;
    let disk = fixture.store.build_baseline(&one, &Silent).unwrap();
    let gentle = Remove::default();
    let force = Remove { force: true, ..Remove::default() };
    for held in
        [Held::Digest(one.digest), Held::Beginning(one.digest.short()), Held::Name("r.example/one:1".to_owned())]
    {
        for wanted in ["r.example/one:1", &one.digest.to_string(), &one.digest.hex()[..8]] {
            let error = fixture.store.remove(wanted, &gentle, web(held.clone())).unwrap_err();
            assert_eq!(error.category(), "ImageInUse");
            assert!(error.to_string().contains("workspace default/web"), "{error}");
        }
    }
    let removed = fixture.store.remove("r.example/one:1", &force, web(Held::Digest(one.digest))).unwrap();
    assert_eq!((removed.images.len(), removed.bytes()), (1, 0));
    // Nothing of it has gone, and there is nothing left to take away.
    assert_eq!(names(&fixture.store), [None]);
    assert_eq!(fixture.store.image(&one.digest).unwrap().unwrap().digest, one.digest);
    assert_eq!(fixture.store.baseline(&one).unwrap(), Some(disk));
    let error = fixture.store.remove(&one.digest.to_string(), &force, web(Held::Digest(one.digest))).unwrap_err();
    assert_eq!(error.category(), "ImageInUse");
}

#[tokio::test]
async fn pruning_takes_what_nobody_uses_and_nothing_else() {
    let fixture = Fixture::new();
    let old = add(&fixture, &image("old"), "r.example/one:1").await;
    let one = add(&fixture, &image("one"), "r.example/one:1").await;
    let two = add(&fixture, &image("two"), "r.example/two:1").await;
    for image in [&old, &one, &two] {
        fixture.store.build_baseline(image, &Silent).unwrap();
    }
    let root = fixture.dir.path().join("images");
    // What was killed has left: half a transfer, half a disk, a disk without description, a blob of no image.
    fs::write(root.join("ingest").join(format!("{}.partial", Digest::of(b"x").hex())), vec![1; 9000]).unwrap();
    for left in ["baselines/.tmp-00", "baselines/00.ext4", "baselines/01.json"] {
        fs::write(root.join(left), "{").unwrap();
    }
    fs::write(fixture.blob(&Digest::of(b"y")), "y").unwrap();
    // What is not ours is left alone.
    fs::write(root.join("baselines/README"), "x").unwrap();

    let disks = |removed: &Removed| {
        let mut disks: Vec<_> = removed.root_disks.iter().map(|d| d.image).collect();
        disks.sort();
        disks
    };
    let dry = Prune { dry_run: true, ..Prune::default() };
    let would = fixture.store.prune(&dry, web(Held::Digest(one.digest))).unwrap();
    assert_eq!((fixture.store.list().unwrap().len(), fixture.count("baselines")), (3, 10));
    let removed = fixture.store.prune(&Prune::default(), web(Held::Digest(one.digest))).unwrap();
    assert_eq!(would, removed);
    assert_eq!((removed.images.len(), removed.images[0].digest), (1, old.digest));
    let mut expected = vec![None, None, None, Some(old.digest), Some(two.digest)];
    expected.sort();
    assert_eq!(disks(&removed), expected);
    assert_eq!((removed.transfers.count, removed.blobs.count), (1, 4), "manifest, config and layer of old, and y");
    assert_eq!(names(&fixture.store), [Some("r.example/one:1".to_owned()), Some("r.example/two:1".to_owned())]);
    assert!(fixture.store.baseline(&one).unwrap().is_some());
    assert_eq!((fixture.count("baselines"), fixture.count("ingest")), (3, 0));

    // Named ones go only when all are to.
    assert_eq!(fixture.store.prune(&Prune::default(), web(Held::Digest(one.digest))).unwrap(), Removed::default());
    let removed = fixture.store.prune(&all(), web(Held::Name("r.example/one:1".to_owned()))).unwrap();
    assert_eq!(removed.images[0].reference.as_deref(), Some("r.example/two:1"));
    assert_eq!(fixture.store.look_up("r.example/one:1", None).unwrap(), one);
    fixture.store.prune(&all(), nobody).unwrap();
    assert_eq!((fixture.count("blobs/sha256"), fixture.count("baselines")), (0, 1));
    assert!(fixture.store.list().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_young_stays_when_only_old_things_are_to_go() {
    let fixture = Fixture::new();
    let one = add(&fixture, &image("one"), "r.example/one:1").await;
    fixture.store.build_baseline(&one, &Silent).unwrap();
    let partial = fixture.dir.path().join("images/ingest/00.partial");
    fs::write(&partial, "x").unwrap();
    let hour = Prune { older_than: Some(Duration::from_secs(3600)), ..all() };
    assert_eq!(fixture.store.prune(&hour, nobody).unwrap(), Removed::default());
    let now = Prune { older_than: Some(Duration::ZERO), ..all() };
    let removed = fixture.store.prune(&now, nobody).unwrap();
    assert_eq!((removed.images.len(), removed.root_disks.len(), removed.transfers.count), (1, 1, 1));
}

#[tokio::test]
async fn nothing_is_removed_when_the_uses_are_not_known_or_the_store_is_busy() {
    let fixture = Fixture::new();
    add(&fixture, &image("one"), "r.example/one:1").await;
    let unknown = || Err("the record of web cannot be read; repair it".to_owned());
    let error = fixture.store.prune(&all(), unknown).unwrap_err();
    assert_eq!((error.category(), error.needs_person()), ("UsesUnknown", true));
    let error = fixture.store.remove("r.example/one:1", &Remove::default(), unknown).unwrap_err();
    assert!(error.to_string().contains("repair it"), "{error}");
    // A pull or a build holds this lock, in whatever process.
    let lock = fs::File::open(fixture.dir.path().join("images/locks/blobs")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let error = fixture.store.prune(&Prune { wait: Duration::ZERO, ..all() }, nobody).unwrap_err();
    assert_eq!((error.category(), error.is_retryable()), ("StoreBusy", true));
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    // It waits for it to end.
    let store = fixture.store.clone();
    let waiting = std::thread::spawn(move || store.prune(&all(), nobody).unwrap());
    drop(lock);
    assert_eq!(waiting.join().unwrap().images.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_to_use_an_image_while_it_is_pruned_is_seen_or_finds_it_gone() {
    let fixture = Fixture::new();
    let built = image("one");
    add(&fixture, &built, "r.example/one:1").await;
    for _ in 0..20 {
        // The record that a controller writes before it looks for the image.
        let recorded = Arc::new(AtomicBool::new(false));
        let (mark, second) = (recorded.clone(), Store::open(&fixture.dir.path().join("images")).unwrap());
        let begins = tokio::spawn(async move {
            mark.store(true, Ordering::SeqCst);
            pull_with(&second, "r.example/one:1", PullPolicy::Never, &anonymous()).await
        });
        let (store, seen) = (fixture.store.clone(), recorded.clone());
        let pruned = tokio::task::spawn_blocking(move || {
            store.prune(&all(), || {
                if seen.load(Ordering::SeqCst) { web(Held::Name("r.example/one:1".into()))() } else { nobody() }
            })
        });
        let (found, removed) = (begins.await.unwrap(), pruned.await.unwrap().unwrap());
        match found {
            Ok(image) => {
                // Whatever was found is there and whole.
                assert_eq!(fixture.store.image(&image.digest).unwrap().as_ref().map(|i| i.digest), Some(image.digest));
                fixture.store.build_baseline(&image, &Silent).unwrap();
            }
            Err(error) => {
                assert_eq!((error.category(), removed.images.len()), ("ImageNotFound", 1));
                assert_eq!(fixture.count("blobs/sha256"), 0);
                add(&fixture, &built, "r.example/one:1").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_builds_and_prunes_at_once_leave_everything_whole() {
    let fixture = Fixture::new();
    let builts: Vec<BuiltImage> = ["a", "b", "c"].into_iter().map(image).collect();
    let ends = Arc::new(AtomicBool::new(false));
    let (end, second) = (ends.clone(), Store::open(&fixture.dir.path().join("images")).unwrap());
    let pruner = std::thread::spawn(move || {
        let mut rounds = 0;
        while !end.load(Ordering::SeqCst) {
            match second.prune(&all(), nobody) {
                Ok(_) => rounds += 1,
                Err(e) => assert_eq!(e.category(), "StoreBusy"),
            }
        }
        rounds
    });
    for round in 0..12 {
        let built = &builts[round % 3];
        let layout = fixture.dir.path().join(format!("layout-{round}"));
        built.write_layout(&layout, "v1");
        let image = pull(&fixture.store, &format!("oci-layout:{}:v1", layout.display())).await.unwrap();
        // It may have been pruned since: then the build says so, and makes nothing of half an image.
        match fixture.store.build_baseline(&image, &Silent) {
            Ok(disk) => assert!(!disk.path.exists() || fs::metadata(&disk.path).unwrap().len() == disk.size),
            Err(e) => assert_eq!(e.category(), "ImageIncomplete"),
        }
        for listed in fixture.store.list().unwrap() {
            if let Some(image) = fixture.store.image(&listed.digest).unwrap() {
                assert_eq!(image.digest, listed.digest);
            }
        }
    }
    ends.store(true, Ordering::SeqCst);
    assert!(pruner.join().unwrap() > 0);
    fixture.store.prune(&all(), nobody).unwrap();
    assert_eq!((fixture.count("blobs/sha256"), fixture.count("baselines"), fixture.count("ingest")), (0, 0, 0));
}

/// Run by the next test in a process of its own, which is killed.
#[test]
#[ignore = "run by a_prune_that_is_killed_leaves_what_is_whole_and_the_next_one_goes_on"]
fn a_prune_to_be_killed() {
    let store = Store::open(std::env::var("STORE").unwrap().as_ref()).unwrap();
    let ready = std::env::var("READY").unwrap();
    let keep: Digest = std::env::var("KEEP").unwrap().parse().unwrap();
    let uses = || {
        fs::write(&ready, "").unwrap();
        web(Held::Digest(keep))()
    };
    let _ = store.prune(&all(), uses);
}

#[tokio::test]
async fn a_prune_that_is_killed_leaves_what_is_whole_and_the_next_one_goes_on() {
    let fixture = Fixture::new();
    let root = fixture.dir.path().join("images");
    let kept = add(&fixture, &image("kept"), "r.example/kept:1").await;
    fixture.store.build_baseline(&kept, &Silent).unwrap();
    let ready = fixture.dir.path().join("ready");
    for round in 0..8_u32 {
        let other = add(&fixture, &image(&format!("other-{round}")), "r.example/other:1").await;
        fixture.store.build_baseline(&other, &Silent).unwrap();
        // Much to remove, so that it is killed in the midst of it.
        for n in 0..300_u32 {
            fs::write(fixture.blob(&Digest::of(&n.to_le_bytes())), "x").unwrap();
        }
        let _ = fs::remove_file(&ready);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "a_prune_to_be_killed"])
            .env("STORE", &root)
            .env("READY", &ready)
            .env("KEEP", kept.digest.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("a look at the uses", || ready.exists());
        let before = fixture.count("blobs/sha256");
        // Later in each round: in the index, in the disks, in the blobs.
        wait_until("some of the removal", || {
            before - fixture.count("blobs/sha256") >= round as usize * 40 || child.try_wait().unwrap().is_some()
        });
        let _ = child.kill();
        child.wait().unwrap();
        let store = Store::open(&root).unwrap();
        for listed in store.list().unwrap() {
            assert!(listed.complete, "{listed:?}");
            let image = store.image(&listed.digest).unwrap().unwrap();
            store.build_baseline(&image, &Silent).unwrap();
        }
        assert!(store.image(&kept.digest).unwrap().is_some() && store.baseline(&kept).unwrap().is_some());
        store.prune(&all(), web(Held::Digest(kept.digest))).unwrap();
        assert_eq!((fixture.count("blobs/sha256"), fixture.count("baselines")), (4, 2), "round {round}");
    }
}

#[tokio::test]
async fn the_sizes_are_those_of_the_disk_and_what_is_shared_counts_once() {
    let fixture = Fixture::new();
    let one = add(&fixture, &image("one"), "r.example/one:1").await;
    add(&fixture, &image("two"), "r.example/two:1").await;
    fixture.store.tag("r.example/one:1", "r.example/again:1").unwrap();
    let disk = fixture.store.build_baseline(&one, &Silent).unwrap();
    let listed = fixture.store.list().unwrap();
    let row = |name: &str| listed.iter().find(|i| i.reference.as_deref() == Some(name)).unwrap();
    assert_eq!((row("r.example/one:1").root_disk, row("r.example/two:1").root_disk), (Some(disk.allocated), None));
    assert!(disk.allocated < disk.size, "the disk is sparse");
    let usage = fixture.store.disk_usage(&web(Held::Digest(one.digest))().unwrap()).unwrap();
    assert_eq!((usage.images.total, usage.images.active), (2, 1));
    assert_eq!((usage.root_disks.total, usage.root_disks.active, usage.root_disks.reclaimable), (1, 1, 0));
    let sum: u64 = listed.iter().map(|i| i.size).sum();
    assert!(usage.images.bytes < sum, "{usage:?} {sum}");
    let pruned = fixture.store.prune(&all(), web(Held::Digest(one.digest))).unwrap();
    assert_eq!(pruned.blobs.bytes, usage.images.reclaimable);
}

/// The members of a tar file, with what they hold.
fn members(archive: &[u8]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut tar = tar::Archive::new(archive);
    let members = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        (entry.path().unwrap().into_owned(), bytes)
    });
    members.collect()
}

fn export(store: &Store, wanted: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.export_to(wanted, None, &mut bytes, Arc::new(Silent)).unwrap();
    bytes
}

#[tokio::test]
async fn an_image_is_exported_with_the_same_bytes_everywhere_and_read_by_all() {
    const TEST: &str = "an_image_is_exported_with_the_same_bytes_everywhere_and_read_by_all";
    let (one, two) = (Fixture::new(), Fixture::new());
    let built = image("one");
    add(&one, &built, "r.example/team/one:1").await;
    add(&two, &image("other"), "r.example/other:1").await;
    add(&two, &built, "r.example/team/one:1").await;
    let bytes = export(&one.store, "r.example/team/one:1");
    assert!(bytes == export(&two.store, &built.digest().hex()[..12]));
    let inside = members(&bytes);
    let holds = |name: &str| inside.iter().find(|(path, _)| path == Path::new(name)).map(|(_, bytes)| bytes.clone());
    for blob in built.layers.iter().chain([&built.config, &built.manifest]) {
        assert!(holds(&format!("blobs/sha256/{}", Digest::of(blob).hex())).as_ref() == Some(blob));
    }
    assert_eq!(inside.len(), 9);

    // To a file that is there already, which is replaced whole.
    let file = one.dir.path().join("image.tar");
    fs::write(&file, "old").unwrap();
    one.store.export("r.example/team/one:1", None, &file, Arc::new(Silent)).unwrap();
    assert!(fs::read(&file).unwrap() == bytes);
    let third = Fixture::new();
    for reference in [format!("oci-archive:{}", file.display()), format!("oci-archive:{}:1", file.display())] {
        assert_eq!(pull(&third.store, &reference).await.unwrap().digest, built.digest());
    }
    if support::has(TEST, "skopeo") {
        for transport in ["oci-archive", "docker-archive"] {
            let output = Command::new("skopeo").arg("inspect").arg(format!("{transport}:{}", file.display())).output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{transport}: {said}");
            let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(told["Layers"].as_array().unwrap().len(), 2, "{transport}: {told}");
        }
    }
}

/// Takes so many bytes, and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_cannot_be_exported_whole_leaves_no_file() {
    let fixture = Fixture::new();
    let built = image("one");
    add(&fixture, &built, "r.example/one:1").await;
    let full = fixture.store.export_to("r.example/one:1", None, &mut Full(100_000), Arc::new(Silent));
    assert_eq!(full.unwrap_err().category(), "DiskFull");
    let out = fixture.dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("image.tar");
    let cancelled = fixture.store.export("r.example/one:1", None, &file, Arc::new(AtomicBool::new(true)));
    assert_eq!(cancelled.unwrap_err().category(), "Cancelled");
    let blob = fixture.blob(&Digest::of(&built.layers[1]));
    let size = fs::metadata(&blob).unwrap().len();
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, vec![0; usize::try_from(size).unwrap()]).unwrap();
    let damaged = fixture.store.export("r.example/one:1", None, &file, Arc::new(Silent)).unwrap_err();
    assert!(damaged.to_string().contains("was damaged on this disk"), "{damaged}");
    let gone = fixture.store.export("r.example/one:1", None, &file, Arc::new(Silent)).unwrap_err();
    assert_eq!(gone.category(), "ImageIncomplete");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

//! Root disks that are made while their layers come.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use microagent_base::{Digest, Progress, Silent, lock::FileLock, progress::Step};
use microagent_images::{Baseline, Error, Image, PullOptions, PullPolicy, Store, host_platform};
use microagent_tests::image_fixture::{BuiltImage, Compression, ImageFixture, LayerBuilder, noise_layer};
use support::{Fixture, Reply, Request, Server, anonymous, faithful, pull, wait_until};

/// Layers of every compression, the largest in the middle.
fn image() -> BuiltImage {
    ImageFixture::new()
        .layer(LayerBuilder::new().dir("etc", 0o755).file("etc/hello", 0o600, b"hello\n").finish(), Compression::Gzip)
        .layer(noise_layer("large", 8 << 20), Compression::Zstd)
        .layer(noise_layer("data", 4 << 20), Compression::None)
        .layer(noise_layer("more", 700_000), Compression::Gzip)
        .build()
}

fn large(image: &BuiltImage) -> String {
    Digest::of(&image.layers[1]).to_string()
}

fn reference(server: &Server) -> String {
    format!("{}/team/tool:v1", server.addr())
}

async fn pull_baseline(
    store: &Store,
    server: &Server,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<(Image, Baseline), Error> {
    let reference = reference(server).parse()?;
    store.pull_baseline(&reference, &host_platform(), PullPolicy::Always, options, progress).await
}

/// The disk of [`image`], pulled first and built then.
fn expected() -> &'static [u8] {
    static DISK: OnceLock<Vec<u8>> = OnceLock::new();
    // A thread of its own, for a runtime is not to be dropped within another.
    DISK.get_or_init(|| std::thread::spawn(pulled_then_built).join().unwrap())
}

fn pulled_then_built() -> Vec<u8> {
    let (fixture, built) = (Fixture::new(), image());
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let image = runtime.block_on(pull(&fixture.store, &format!("oci-layout:{}", layout.display()))).unwrap();
    fs::read(fixture.store.build_baseline(&image, &Silent).unwrap().path).unwrap()
}

/// The disk that a build is writing.
fn disk_in_the_making(images: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(images.join("baselines")).unwrap().flatten();
    files.map(|file| file.path()).find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".tmp-"))
}

fn has_data(images: &Path) -> bool {
    disk_in_the_making(images).is_some_and(|disk| disk.metadata().is_ok_and(|m| m.len() > 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_is_in_the_making_while_layers_come_and_is_the_same() {
    for parallel in [1, 3] {
        let (fixture, built) = (Fixture::new(), image());
        let (answer, held, images) =
            (faithful(&built, "team/tool", "v1"), large(&built), fixture.dir.path().join("images"));
        // The first half of the largest layer is sent, and the rest is asked for only once it is on the disk.
        let server = Server::start(move |request| {
            let mut reply = answer(request);
            if request.path.ends_with(&held) {
                if request.offset().is_some() {
                    wait_until("a build beside the pull", || has_data(&images));
                } else {
                    reply.cut = Some(reply.body.len() / 2);
                }
            }
            reply
        });
        let options = PullOptions { parallel, ..anonymous() };
        let (image, disk) = pull_baseline(&fixture.store, &server, &options, Arc::new(Silent)).await.unwrap();
        assert!(fs::read(&disk.path).unwrap() == expected());
        assert_eq!(fixture.store.baseline(&image).unwrap(), Some(disk.clone()));
        assert_eq!(fixture.store.image(&image.digest).unwrap(), Some(image));
        assert_eq!((fixture.count("baselines"), fixture.count("ingest")), (2, 0));
        // Once more: all is there.
        assert_eq!(pull_baseline(&fixture.store, &server, &options, Arc::new(Silent)).await.unwrap().1, disk);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layout_is_imported_and_built_in_one_go() {
    let (fixture, built) = (Fixture::new(), image());
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    let reference = format!("oci-layout:{}", layout.display()).parse().unwrap();
    let options = anonymous();
    let both =
        fixture.store.pull_baseline(&reference, &host_platform(), PullPolicy::Always, &options, Arc::new(Silent)).await;
    assert!(fs::read(both.unwrap().1.path).unwrap() == expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_of_wrong_bytes_is_made_anew_from_the_right_ones() {
    for layer in 1..4 {
        let (fixture, built) = (Fixture::new(), image());
        let digest = Digest::of(&built.layers[layer]);
        // What a power cut may leave: the right length, another content. Its head is right, so that it is read far.
        let mut damaged = built.layers[layer][..300_000].to_vec();
        damaged[150_000..].fill(0);
        fs::write(fixture.dir.path().join("images/ingest").join(format!("{}.partial", digest.hex())), damaged).unwrap();
        let server = Server::start(faithful(&built, "team/tool", "v1"));
        let (_, disk) = pull_baseline(&fixture.store, &server, &anonymous(), Arc::new(Silent)).await.unwrap();
        assert!(fs::read(&disk.path).unwrap() == expected());
        assert_eq!(server.asked(&digest.hex()), 2);
        assert_eq!(fixture.count("baselines"), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_of_a_pull_that_fails_is_told_and_no_disk_is_left() {
    let not_there: fn(Reply) -> Reply = |_| Reply::status(404);
    let wrong: fn(Reply) -> Reply = |reply| Reply { body: vec![0; reply.body.len()], ..reply };
    let more: fn(Reply) -> Reply = |mut reply| {
        reply.body.push(0);
        reply
    };
    let less: fn(Reply) -> Reply = |mut reply| {
        reply.body.pop();
        reply
    };
    for (category, spoil) in
        [("ImageNotFound", not_there), ("DigestMismatch", wrong), ("ImageTooLarge", more), ("LayerTruncated", less)]
    {
        for layer in [0, 1] {
            let (fixture, built) = (Fixture::new(), image());
            let (answer, spoilt) = (faithful(&built, "team/tool", "v1"), Digest::of(&built.layers[layer]).to_string());
            let server = Server::start(move |request| {
                let reply = answer(request);
                if request.path.ends_with(&spoilt) { spoil(reply) } else { reply }
            });
            let options = PullOptions { parallel: 1, ..anonymous() };
            let error = pull_baseline(&fixture.store, &server, &options, Arc::new(Silent)).await.unwrap_err();
            assert_eq!((error.category(), fixture.count("baselines")), (category, 0), "{error}");
            assert!(fixture.store.list().unwrap().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_cannot_be_built_leaves_the_image_and_says_so() {
    let fixture = Fixture::new();
    let built = ImageFixture::new()
        .layer(LayerBuilder::new().file("good", 0o644, b"x").finish(), Compression::Gzip)
        .layer(vec![b'x'; 100_000], Compression::None)
        .build();
    let server = Server::start(faithful(&built, "team/tool", "v1"));
    let result = pull_baseline(&fixture.store, &server, &anonymous(), Arc::new(Silent)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Build { .. }) && error.to_string().contains("layer 2"), "{error}");
    assert!(!error.is_retryable());
    assert_eq!((fixture.store.list().unwrap().len(), fixture.count("baselines")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_was_damaged_in_the_store_is_dropped_and_comes_again() {
    let (fixture, built) = (Fixture::new(), image());
    let blob = fixture.blob(&Digest::of(&built.layers[2]));
    fs::write(&blob, vec![7; built.layers[2].len()]).unwrap();
    let server = Server::start(faithful(&built, "team/tool", "v1"));
    let error = pull_baseline(&fixture.store, &server, &anonymous(), Arc::new(Silent)).await.unwrap_err();
    assert_eq!((error.category(), blob.exists(), fixture.count("baselines")), ("ImageIncomplete", false, 0));
    let (_, disk) = pull_baseline(&fixture.store, &server, &anonymous(), Arc::new(Silent)).await.unwrap();
    assert!(fs::read(&disk.path).unwrap() == expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_bring_each_layer_once_and_make_one_disk() {
    let (fixture, built) = (Fixture::new(), image());
    let server = Arc::new(Server::start(faithful(&built, "team/tool", "v1")));
    let mut both = Vec::new();
    for _ in 0..2 {
        // A handle of its own has its own locks, as a process has.
        let (store, server) = (Store::open(&fixture.dir.path().join("images")).unwrap(), server.clone());
        both.push(tokio::spawn(async move {
            pull_baseline(&store, &server, &anonymous(), Arc::new(Silent)).await.unwrap()
        }));
    }
    let (one, two) = (both.remove(0).await.unwrap(), both.remove(0).await.unwrap());
    assert_eq!(one, two);
    assert!(fs::read(&one.1.path).unwrap() == expected());
    for layer in &built.layers {
        assert_eq!(server.asked(&Digest::of(layer).hex()), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_another_process_brings_holds_up_no_other() {
    let (fixture, built) = (Fixture::new(), image());
    let images = fixture.dir.path().join("images");
    let digest = Digest::of(&built.layers[1]);
    let lock = images.join(format!("locks/blob-{}", &digest.hex()[..2]));
    let held = FileLock::try_exclusive(&lock).unwrap();
    let server = Server::start(faithful(&built, "team/tool", "v1"));
    let (blob, bytes, watched) = (fixture.blob(&digest), built.layers[1].clone(), images.clone());
    // The other process: it lets go of its layer only when the layers of this one are on the disk.
    let other = std::thread::spawn(move || {
        wait_until("a build of the other layers", || has_data(&watched));
        fs::write(&blob, bytes).unwrap();
        drop(held);
    });
    let (_, disk) = pull_baseline(&fixture.store, &server, &anonymous(), Arc::new(Silent)).await.unwrap();
    other.join().unwrap();
    assert!(fs::read(&disk.path).unwrap() == expected());
    assert_eq!(server.asked(&digest.hex()), 0);
}

/// Cancels once the disk is in the making.
struct CancelAtFirstData(PathBuf, AtomicBool);

impl Progress for CancelAtFirstData {
    fn step(&self, _: Step) {}

    fn cancelled(&self) -> bool {
        self.1.load(Ordering::SeqCst) || has_data(&self.0) && !self.1.swap(true, Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_nobody_wants_ends_though_the_registry_is_silent() {
    let (fixture, built) = (Fixture::new(), image());
    let (answer, held) = (faithful(&built, "team/tool", "v1"), large(&built));
    let server = Server::start(move |request| {
        let hang = request.path.ends_with(&held);
        Reply { hang, cut: hang.then_some(500_000), ..answer(request) }
    });
    let progress = Arc::new(CancelAtFirstData(fixture.dir.path().join("images"), AtomicBool::new(false)));
    let error = pull_baseline(&fixture.store, &server, &anonymous(), progress).await.unwrap_err();
    assert_eq!((error.category(), fixture.count("baselines")), ("Cancelled", 0));
}

/// Run by the next test in a process of its own, which is then killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by one_that_was_killed_is_done_anew_from_what_was_there"]
async fn one_to_be_killed() {
    let store = Store::open(std::env::var("STORE").unwrap().as_ref()).unwrap();
    let reference = std::env::var("REFERENCE").unwrap().parse().unwrap();
    let (options, silent) = (anonymous(), Arc::new(Silent));
    let _ = store.pull_baseline(&reference, &host_platform(), PullPolicy::Always, &options, silent).await;
}

fn child(images: &Path, server: &Server) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "one_to_be_killed"])
        .env("STORE", images)
        .env("REFERENCE", reference(server))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_killed_is_done_anew_from_what_was_there() {
    let built = image();
    // Killed while the n-th layer is half there, and once all layers have been sent.
    for kill_at in 0..=built.layers.len() {
        let fixture = Fixture::new();
        let images = fixture.dir.path().join("images");
        let (answer, count, killing) =
            (faithful(&built, "team/tool", "v1"), AtomicUsize::new(0), Arc::new(AtomicBool::new(true)));
        let (on, layers) =
            (killing.clone(), built.layers.iter().map(|l| Digest::of(l).to_string()).collect::<Vec<_>>());
        let server = Server::start(move |request: &Request| {
            let reply = answer(request);
            let is_layer = layers.iter().any(|layer| request.path.ends_with(layer));
            let hang = on.load(Ordering::SeqCst) && is_layer && count.fetch_add(1, Ordering::SeqCst) == kill_at;
            Reply { hang, cut: hang.then_some(reply.body.len() / 2), ..reply }
        });
        let mut child = child(&images, &server);
        let asked = (kill_at + 1).min(built.layers.len());
        wait_until("the layers before", || {
            let names = built.layers.iter().map(|l| Digest::of(l).hex());
            names.map(|name| server.asked(&name)).sum::<usize>() >= asked && (has_data(&images) || kill_at == 0)
                || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        killing.store(false, Ordering::SeqCst);
        let store = Store::open(&images).unwrap();
        for whole in store.baselines().unwrap() {
            assert!(fs::read(whole.path).unwrap() == expected());
        }
        let (_, disk) = pull_baseline(&store, &server, &anonymous(), Arc::new(Silent)).await.unwrap();
        assert!(fs::read(&disk.path).unwrap() == expected());
        assert_eq!((fixture.count("baselines"), fixture.count("ingest")), (2, 0));
    }
}

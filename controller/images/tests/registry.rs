//! Pulls from a real registry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use microagent_base::Digest;
use microagent_images::{PullPolicy, Remove, Uses, host_platform};
use microagent_tests::{
    image_fixture::{Compression, ImageFixture, LayerBuilder, noise_layer, push_index},
    registry::Registry,
};
use support::{Fixture, anonymous, pull, pull_with};

fn hello(text: &str) -> ImageFixture {
    ImageFixture::new().layer(LayerBuilder::new().file("hello", 0o644, text.as_bytes()).finish(), Compression::Gzip)
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_with_plain_gzip_and_zstd_layers() {
    let Some(registry) = Registry::start("an_image_is_pulled_by_tag") else { return };
    let fixture = Fixture::new();
    for docker in [false, true] {
        let mut image = ImageFixture::new().run("Entrypoint", vec!["/bin/tool"]).run("Env", vec!["A=1"]);
        for (name, compression) in [("a", Compression::None), ("b", Compression::Gzip), ("c", Compression::Zstd)] {
            image = image.layer(noise_layer(name, 40_000), compression);
        }
        let built = if docker { image.docker().build() } else { image.build() };
        let reference = built.push(&registry, "team/tool", if docker { "docker" } else { "oci" });
        let pulled = pull(&fixture.store, &reference).await.unwrap();
        assert_eq!((pulled.digest, pulled.reference.as_str()), (built.digest(), reference.as_str()));
        assert_eq!(
            (pulled.config.entrypoint.as_slice(), pulled.config.env.as_slice()),
            (["/bin/tool".to_owned()].as_slice(), ["A=1".to_owned()].as_slice())
        );
        assert_eq!((pulled.config.created, pulled.platform.clone()), (1_700_000_000, host_platform()));
        for (layer, bytes) in pulled.layers.iter().zip(&built.layers) {
            assert_eq!(std::fs::read(fixture.blob(&layer.digest)).unwrap(), *bytes);
        }
        assert_eq!(fixture.store.image(&built.digest()).unwrap(), Some(pulled));
    }
    assert_eq!(fixture.count("ingest"), 0);
}

#[tokio::test]
async fn a_pinned_image_that_is_complete_needs_no_registry() {
    let Some(registry) = Registry::start("a_pinned_image_that_is_complete_needs_no_registry") else { return };
    let (fixture, built) = (Fixture::new(), hello("pinned").build());
    built.push(&registry, "team/tool", "v1");
    let pinned = format!("{}/team/tool@{}", registry.addr(), built.digest());
    let first = pull(&fixture.store, &pinned).await.unwrap();
    drop(registry);
    assert_eq!(pull(&fixture.store, &pinned).await.unwrap(), first);
    let wrong = format!("127.0.0.1:1/team/tool@{}", Digest::of(b"else"));
    assert_eq!(
        pull_with(&fixture.store, &wrong, PullPolicy::Never, &anonymous()).await.unwrap_err().category(),
        "ImageNotFound"
    );
}

#[tokio::test]
async fn the_manifest_of_the_platform_is_taken_from_an_index() {
    let Some(registry) = Registry::start("the_manifest_of_the_platform_is_taken_from_an_index") else { return };
    let (fixture, native) = (Fixture::new(), hello("native").build());
    let foreign = hello("foreign").platform("linux", "s390x").build();
    let reference = push_index(&registry, "team/multi", "v1", &[&foreign, &native]);
    assert_eq!(pull(&fixture.store, &reference).await.unwrap().digest, native.digest());
    let s390x = "linux/s390x".parse().unwrap();
    let progress = std::sync::Arc::new(microagent_base::Silent);
    let other = fixture
        .store
        .pull(&reference.parse().unwrap(), &s390x, PullPolicy::Always, &anonymous(), progress.clone())
        .await
        .unwrap();
    assert_eq!(other.digest, foreign.digest());
    let error = fixture
        .store
        .pull(
            &reference.parse().unwrap(),
            &"linux/riscv64".parse().unwrap(),
            PullPolicy::Always,
            &anonymous(),
            progress,
        )
        .await
        .unwrap_err();
    assert_eq!(error.category(), "PlatformNotFound");
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert_eq!(fixture.store.list().unwrap().len(), 2);
}

#[tokio::test]
async fn an_index_pinned_by_digest_is_found_again_without_registry() {
    let Some(registry) = Registry::start("an_index_pinned_by_digest") else { return };
    let (fixture, native) = (Fixture::new(), hello("native").build());
    push_index(&registry, "team/multi", "v1", &[&native]);
    let link = registry.storage().join("docker/registry/v2/repositories/team/multi/_manifests/tags/v1/current/link");
    let index = std::fs::read_to_string(link).unwrap();
    let pinned = format!("{}/team/multi@{index}", registry.addr());
    let first = pull(&fixture.store, &pinned).await.unwrap();
    drop(registry);
    assert_eq!(pull(&fixture.store, &pinned).await.unwrap(), first);
}

#[tokio::test]
async fn a_missing_image_says_so_and_needs_a_person() {
    let Some(registry) = Registry::start("a_missing_image_says_so") else { return };
    let fixture = Fixture::new();
    let error = pull(&fixture.store, &format!("{}/no/such:tag", registry.addr())).await.unwrap_err();
    assert_eq!(error.category(), "ImageNotFound");
    assert!(error.needs_person() && error.to_string().contains("check the name"), "{error}");
}

#[tokio::test]
async fn a_moved_tag_is_followed_by_always_and_not_by_if_not_present() {
    let Some(registry) = Registry::start("a_moved_tag") else { return };
    let (fixture, old, new) = (Fixture::new(), hello("old").build(), hello("new").build());
    let reference = old.push(&registry, "team/tool", "latest");
    pull(&fixture.store, &reference).await.unwrap();
    new.push(&registry, "team/tool", "latest");
    let present = pull_with(&fixture.store, &reference, PullPolicy::IfNotPresent, &anonymous()).await.unwrap();
    assert_eq!(present.digest, old.digest());
    assert_eq!(pull(&fixture.store, &reference).await.unwrap().digest, new.digest());
    // The older one stays for the workspaces that were made from it.
    assert!(fixture.store.image(&old.digest()).unwrap().is_some());
    let names: Vec<_> = fixture.store.list().unwrap().into_iter().map(|i| i.reference).collect();
    assert_eq!(names, [None, Some(reference)]);
}

#[tokio::test]
async fn removing_an_image_keeps_the_layers_that_others_share() {
    let Some(registry) = Registry::start("removing_an_image") else { return };
    let (fixture, shared) = (Fixture::new(), noise_layer("shared", 50_000));
    let base = ImageFixture::new().layer(shared.clone(), Compression::Gzip);
    let (one, two) = (base.clone().build(), base.layer(noise_layer("own", 9_000), Compression::Gzip).build());
    let first = one.push(&registry, "team/one", "v1");
    let second = two.push(&registry, "team/two", "v1");
    pull(&fixture.store, &first).await.unwrap();
    pull(&fixture.store, &second).await.unwrap();
    let remove = |wanted: &str| fixture.store.remove(wanted, &Remove::default(), || Ok(Uses::default()));
    let removed = remove(&second).unwrap();
    // Its manifest, its config and its own layer.
    assert_eq!((removed.images[0].reference.as_deref(), removed.blobs.count), (Some(second.as_str()), 3));
    assert!(fixture.store.image(&one.digest()).unwrap().is_some());
    remove(&one.digest().to_string()).unwrap();
    assert_eq!(fixture.count("blobs/sha256"), 0);
    assert_eq!(remove(&first).unwrap_err().category(), "ImageNotFound");
}

#[tokio::test]
async fn a_blob_that_is_damaged_in_the_registry_never_enters_the_store() {
    let Some(registry) = Registry::start("a_blob_that_is_damaged") else { return };
    let (fixture, built) = (Fixture::new(), hello("x").build());
    let reference = built.push(&registry, "team/tool", "v1");
    let layer = Digest::of(&built.layers[0]);
    let mut bytes = built.layers[0].clone();
    bytes[20] ^= 1;
    std::fs::write(registry.blob_file(&layer), &bytes).unwrap();
    let error = pull(&fixture.store, &reference).await.unwrap_err();
    assert_eq!(error.category(), "DigestMismatch");
    assert!(error.to_string().contains(registry.addr()), "{error}");
    assert!(!fixture.blob(&layer).exists());
    assert_eq!((fixture.store.list().unwrap().len(), fixture.count("ingest")), (0, 0));
}

#[tokio::test]
async fn an_image_that_another_tool_pushed_is_pulled_alike() {
    const TEST: &str = "an_image_that_another_tool_pushed_is_pulled_alike";
    let Some(registry) = Registry::start(TEST) else { return };
    if !support::has(TEST, "skopeo") {
        return;
    }
    let (fixture, built) = (Fixture::new(), hello("skopeo").build());
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    let target = format!("{}/team/tool:v1", registry.addr());
    let copy = std::process::Command::new("skopeo")
        .args(["copy", "--quiet", "--dest-tls-verify=false"])
        .args([format!("oci:{}:v1", layout.display()), format!("docker://{target}")])
        .status()
        .unwrap();
    assert!(copy.success());
    assert_eq!(pull(&fixture.store, &target).await.unwrap().digest, built.digest());
    // And another tool reads our store.
    let inspect = std::process::Command::new("skopeo")
        .arg("inspect")
        .arg(format!("oci:{}:{target}", fixture.dir.path().join("images").display()))
        .output()
        .unwrap();
    assert!(inspect.status.success(), "{}", String::from_utf8_lossy(&inspect.stderr));
}

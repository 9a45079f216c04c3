//! Images as `docker save` writes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs::File, path::Path};

use microagent_base::{Digest, Silent};
use microagent_images::PullPolicy;
use microagent_tests::image_fixture::{BuiltImage, Compression, ImageFixture, LayerBuilder, index};
use serde_json::{Value, json};
use support::{Fixture, anonymous, pull, pull_with};

fn image(text: &str, compression: Compression) -> BuiltImage {
    let shared = LayerBuilder::new().file("shared", 0o644, b"shared").finish();
    ImageFixture::new()
        .layer(shared, Compression::None)
        .layer(LayerBuilder::new().file("own", 0o644, text.as_bytes()).finish(), compression)
        .build()
}

enum Member<'a> {
    File(&'a [u8]),
    Link(&'a str),
}

fn write(path: &Path, members: &[(String, Member<'_>)]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, member) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match member {
            Member::File(bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
            Member::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.finish().unwrap();
}

/// The old form: a directory for each layer, links where two are the same.
fn legacy(path: &Path, images: &[(&BuiltImage, Value)], link: &str) {
    let mut members = Vec::new();
    let mut manifest = Vec::new();
    for (number, (image, tags)) in images.iter().enumerate() {
        let config = format!("{}.json", Digest::of(&image.config).hex());
        let names: Vec<String> = (0..image.layers.len()).map(|layer| format!("{number}{layer}/layer.tar")).collect();
        for (layer, (name, bytes)) in names.iter().zip(&image.layers).enumerate() {
            let is_shared = number > 0 && layer == 0;
            members.push((name.clone(), if is_shared { Member::Link(link) } else { Member::File(bytes) }));
        }
        members.push((config.clone(), Member::File(&image.config)));
        manifest.push(json!({"Config": config, "RepoTags": tags, "Layers": names}));
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    members.push(("manifest.json".to_owned(), Member::File(&manifest)));
    write(path, &members);
}

#[tokio::test]
async fn the_old_form_is_read_by_name_with_links_and_compressed_layers() {
    let (fixture, one, two) = (Fixture::new(), image("one", Compression::None), image("two", Compression::Gzip));
    let path = fixture.dir.path().join("saved.tar");
    legacy(&path, &[(&one, json!(["tool:1"])), (&two, json!(["r.example/tool:2", "tool:two"]))], "../00/layer.tar");
    let all = format!("docker-archive:{}", path.display());
    let error = pull(&fixture.store, &all).await.unwrap_err();
    assert_eq!(error.category(), "InvalidReference");
    assert!(error.to_string().contains("r.example/tool:2"), "{error}");
    assert_eq!(pull(&fixture.store, &format!("{all}:tool:3")).await.unwrap_err().category(), "ImageNotFound");
    for (name, built) in [("tool:1", &one), ("r.example/tool:2", &two), ("tool:two", &two)] {
        let pulled = pull(&fixture.store, &format!("{all}:{name}")).await.unwrap();
        let layers: Vec<Digest> = pulled.layers.iter().map(|layer| layer.digest).collect();
        assert_eq!(layers, built.layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>());
        fixture.store.build_baseline(&pulled, &Silent).unwrap();
    }
    // The same archive is the same image each time, and needs not be there once it is in the store.
    let first = pull(&fixture.store, &format!("{all}:tool:1")).await.unwrap();
    assert_eq!(pull(&Fixture::new().store, &format!("{all}:tool:1")).await.unwrap().digest, first.digest);
    std::fs::remove_file(path).unwrap();
    pull_with(&fixture.store, &format!("{all}:tool:1"), PullPolicy::IfNotPresent, &anonymous()).await.unwrap();
}

#[tokio::test]
async fn the_new_form_gives_the_image_the_digest_of_its_manifest() {
    for nested in [false, true] {
        let (fixture, built) = (Fixture::new(), image("x", Compression::None));
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let mut entry = built.entry();
        let inner = index(&[entry.clone()]);
        if nested {
            entry = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": Digest::of(&inner), "size": inner.len()});
        }
        let top = index(&[entry]);
        let layers: Vec<String> = built.layers.iter().map(|layer| blob(layer)).collect();
        let manifest = json!([{"Config": blob(&built.config), "RepoTags": ["tool:1"], "Layers": layers}]).to_string();
        let mut members = vec![
            ("manifest.json".to_owned(), Member::File(manifest.as_bytes())),
            ("index.json".to_owned(), Member::File(&top)),
            ("oci-layout".to_owned(), Member::File(br#"{"imageLayoutVersion":"1.0.0"}"#)),
        ];
        for bytes in built.layers.iter().chain([&built.config, &built.manifest, &inner]) {
            members.push((blob(bytes), Member::File(bytes)));
        }
        let path = fixture.dir.path().join("saved.tar");
        write(&path, &members);
        let pulled = pull(&fixture.store, &format!("docker-archive:{}", path.display())).await.unwrap();
        assert_eq!(pulled.digest, built.digest());
    }
}

#[tokio::test]
async fn what_leads_out_lies_or_is_missing_is_refused_and_leaves_nothing() {
    let (one, two) = (image("one", Compression::None), image("two", Compression::None));
    for link in ["../../etc/passwd", "/etc/passwd", "../10/layer.tar", "../nowhere/layer.tar"] {
        let fixture = Fixture::new();
        let path = fixture.dir.path().join("saved.tar");
        legacy(&path, &[(&one, json!(["a:1"])), (&two, json!(["b:1"]))], link);
        let error = pull(&fixture.store, &format!("docker-archive:{}:b:1", path.display())).await.unwrap_err();
        assert_eq!(error.category(), "InvalidImage", "{link}: {error}");
        assert_eq!((fixture.count("blobs/sha256"), fixture.count("ingest")), (0, 0));
    }
    // Another layer than the config says, another config than its name says, and documents that are none.
    let lies = BuiltImage { layers: vec![one.layers[0].clone(), two.layers[1].clone()], ..one.clone() };
    let fewer = BuiltImage { layers: vec![one.layers[0].clone()], ..one.clone() };
    for (image, category) in [(lies, "DigestMismatch"), (fewer, "InvalidImage")] {
        let fixture = Fixture::new();
        let path = fixture.dir.path().join("saved.tar");
        legacy(&path, &[(&image, Value::Null)], "");
        let error = pull(&fixture.store, &format!("docker-archive:{}", path.display())).await.unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        assert!(fixture.store.list().unwrap().is_empty());
    }
    let config = format!("{}.json", "0".repeat(64));
    let manifest = json!([{"Config": config, "Layers": ["l"]}]).to_string();
    for members in [
        vec![("manifest.json".to_owned(), Member::File(b"{}"))],
        vec![("other".to_owned(), Member::File(b"x"))],
        vec![("manifest.json".to_owned(), Member::File(manifest.as_bytes())), (config, Member::File(&one.config))],
    ] {
        let fixture = Fixture::new();
        let path = fixture.dir.path().join("saved.tar");
        write(&path, &members);
        let error = pull(&fixture.store, &format!("docker-archive:{}", path.display())).await.unwrap_err();
        assert_eq!(error.category(), "InvalidImage", "{error}");
    }
}

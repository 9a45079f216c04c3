//! Pulls through mirrors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use microagent_base::Digest;
use microagent_images::{Credentials, Error, Image, PullOptions, PullPolicy, Registries};
use microagent_tests::image_fixture::{BuiltImage, Compression, ImageFixture, noise_layer};
use serde_json::json;
use support::{Fixture, Reply, Request, Server, anonymous, faithful, pull_with};

fn image() -> BuiltImage {
    ImageFixture::new()
        .layer(noise_layer("a", 300_000), Compression::None)
        .layer(noise_layer("b", 200_000), Compression::Gzip)
        .build()
}

fn mirrored(origin: &Server, mirrors: &[&str]) -> PullOptions {
    let mirrors: Vec<_> = mirrors.iter().map(|location| json!({"location": location})).collect();
    let file = json!({"registries": [{"prefix": origin.addr(), "mirrors": mirrors}]});
    let registries: Registries = serde_json::from_value(file).unwrap();
    PullOptions { registries, parallel: 1, ..anonymous() }
}

async fn pull(fixture: &Fixture, origin: &Server, options: &PullOptions) -> Result<Image, Error> {
    let reference = format!("{}/team/tool:v1", origin.addr());
    pull_with(&fixture.store, &reference, PullPolicy::Always, options).await
}

fn is_layer(image: &BuiltImage, request: &Request) -> bool {
    image.layers.iter().any(|layer| request.path.ends_with(&Digest::of(layer).hex()))
}

#[tokio::test]
async fn a_mirror_serves_in_place_of_the_registry_under_its_own_path() {
    let (fixture, built) = (Fixture::new(), image());
    let (origin, mirror) =
        (Server::start(|_| Reply::status(500)), Server::start(faithful(&built, "hub/team/tool", "v1")));
    let options = mirrored(&origin, &[&format!("{}/hub", mirror.addr())]);
    let pulled = pull(&fixture, &origin, &options).await.unwrap();
    assert_eq!((pulled.digest, origin.requests().len()), (built.digest(), 0));
    // It is the image of the registry, whoever brought it.
    assert_eq!(pulled.reference, format!("{}/team/tool:v1", origin.addr()));
}

#[tokio::test]
async fn mirrors_that_fail_are_passed_over_in_order_and_asked_no_more() {
    let built = image();
    let origin = Server::start(faithful(&built, "team/tool", "v1"));
    let gone = Server::start(|_| Reply::status(404));
    let denies = Server::start(|_| Reply::status(403));
    let nonsense = Server::start(|_| Reply::ok(b"<html>".to_vec()));
    let (fixture, options) = (Fixture::new(), mirrored(&origin, &[gone.addr(), denies.addr()]));
    pull(&fixture, &origin, &options).await.unwrap();
    assert_eq!((gone.requests().len(), denies.requests().len()), (1, 1));
    // A tag means what the mirror says, so what it says must be an image.
    let error = pull(&Fixture::new(), &origin, &mirrored(&origin, &[nonsense.addr()])).await.unwrap_err();
    assert_eq!(error.category(), "InvalidImage");
    // A digest is held against what comes.
    let pinned = format!("{}/team/tool@{}", origin.addr(), built.digest());
    let options = mirrored(&origin, &[nonsense.addr()]);
    pull_with(&Fixture::new().store, &pinned, PullPolicy::Always, &options).await.unwrap();
}

#[tokio::test]
async fn a_layer_goes_on_elsewhere_after_a_cut_and_anew_after_wrong_bytes() {
    let built = image();
    for spoil in ["cut", "wrong half", "wrong", "too long"] {
        let (fixture, served, answer) = (Fixture::new(), built.clone(), faithful(&built, "team/tool", "v1"));
        let mirror = Server::start(move |request| {
            let reply = answer(request);
            if !is_layer(&served, request) {
                return reply;
            }
            if request.offset().is_some() {
                return Reply::status(404);
            }
            match spoil {
                "cut" => Reply { cut: Some(100_000), ..reply },
                "wrong half" => Reply { cut: Some(100_000), body: vec![0; reply.body.len()], ..reply },
                "wrong" => Reply { body: vec![0; reply.body.len()], ..reply },
                _ => Reply { body: [reply.body, vec![0]].concat(), ..Reply::ok(Vec::new()) },
            }
        });
        let origin = Server::start(faithful(&built, "team/tool", "v1"));
        let pulled = pull(&fixture, &origin, &mirrored(&origin, &[mirror.addr()])).await.unwrap();
        for layer in &pulled.layers {
            assert_eq!(Digest::of(&std::fs::read(fixture.blob(&layer.digest)).unwrap()), layer.digest, "{spoil}");
        }
        let first = origin.requests().into_iter().find(|r| is_layer(&built, r)).unwrap();
        assert_eq!(first.offset().is_some(), spoil.contains("cut") || spoil.contains("half"), "{spoil}");
        assert_eq!(fixture.count("ingest"), 0);
    }
}

#[tokio::test]
async fn when_all_fail_the_error_names_each_mirror_and_why() {
    let origin = Server::start(|_| Reply::status(404));
    let denies = Server::start(|_| Reply::status(403));
    let options = mirrored(&origin, &[denies.addr(), "127.0.0.1:1"]);
    let error = pull(&Fixture::new(), &origin, &options).await.unwrap_err();
    assert_eq!((error.category(), error.needs_person()), ("ImageNotFound", true));
    let text = error.to_string();
    for part in [origin.addr(), denies.addr(), "403", "127.0.0.1:1", "refused"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn a_login_goes_to_the_place_that_it_is_for() {
    let (fixture, built) = (Fixture::new(), image());
    let challenge = || Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"");
    let mirror = Server::start(move |_| challenge());
    let answer = faithful(&built, "team/tool", "v1");
    let origin = Server::start(move |request| match request.header("authorization") {
        Some("Basic bWU6cHc=") => answer(request),
        _ => challenge(),
    });
    let file = fixture.dir.path().join("config.json");
    std::fs::write(&file, json!({"auths": {origin.addr(): {"auth": "bWU6cHc="}}}).to_string()).unwrap();
    let options =
        PullOptions { credentials: Credentials::none().with_file(file), ..mirrored(&origin, &[mirror.addr()]) };
    pull(&fixture, &origin, &options).await.unwrap();
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(mirror.requests().len(), 1);
}

//! Who is let in, and what is told to those who are not.

use std::sync::{Mutex, atomic::Ordering};

use microagent_gate::ReviewError;
use rcgen::ExtendedKeyUsagePurpose;

use crate::{
    EXEC, Host, LOG, certificates,
    client::{Answer, Client},
    cluster::user,
    record,
};

/// A log request with this certificate, and these headers.
async fn show(host: &Host, identity: &certificates::Identity, headers: &str) -> Answer {
    let mut client = Client::connect(host.address, Some(identity)).await.unwrap().0;
    client.send(&format!("{LOG} HTTP/1.1\r\nHost: gate\r\n{headers}\r\n")).await;
    client.answer().await
}

#[tokio::test]
async fn a_token_is_reviewed_and_what_it_may_is_asked_in_the_words_of_rbac() {
    let host = Host::new().await;
    assert_eq!(host.ask(LOG).await.code, 200);
    let asked = host.cluster.asked.lock().unwrap().clone();
    assert_eq!(asked[0].0, user("jane"));
    let access = &asked[0].1;
    assert_eq!((access.verb, access.subresource), ("get", "log"));
    assert_eq!((access.namespace.as_str(), access.name.as_str()), ("team", "web"));
}

#[tokio::test]
async fn the_same_question_is_asked_once_in_a_while() {
    let host = Host::new().await;
    for _ in 0..3 {
        assert_eq!(host.ask(LOG).await.code, 200);
    }
    assert_eq!(host.cluster.asked.lock().unwrap().len(), 1);
    assert_eq!(host.cluster.tokens.load(Ordering::Relaxed), 1);
    assert_eq!(host.ask(EXEC).await.code, 400, "another right, no upgrade");
    assert_eq!(host.cluster.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn who_may_not_is_told_what_to_be_granted_and_a_grant_counts_at_once() {
    let host = Host::new().await;
    let ask = || host.ask_as(LOG, "Authorization: Bearer joe-token\r\n");
    let answer = ask().await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.status(),
        (
            "Forbidden".to_owned(),
            "workspaces.microagent.dev \"web\" is forbidden: User \"joe\" cannot get resource \"workspaces/log\" in API group \
             \"microagent.dev\" in the namespace \"team\": no role"
                .to_owned()
        )
    );
    host.cluster.granted.lock().unwrap().push(user("joe"));
    assert_eq!(ask().await.code, 200);
}

#[tokio::test]
async fn strangers_learn_nothing_of_what_is_there() {
    let host = Host::new().await;
    for headers in [
        "",
        "Authorization: Bearer nobodys-token\r\n",
        "Authorization: Basic amFuZTp4\r\n",
        "Authorization: Bearer \r\n",
    ] {
        for line in [LOG.to_owned(), LOG.replace("web", "none"), EXEC.to_owned()] {
            let answer = host.ask_as(&line, headers).await;
            assert_eq!((answer.code, answer.status().0.as_str()), (401, "Unauthorized"), "{headers:?}");
        }
    }
    let denied = host.ask_as(&LOG.replace("web", "none"), "Authorization: Bearer joe-token\r\n").await;
    assert_eq!(denied.code, 403);
    let missing = host.ask(&LOG.replace("web", "none")).await;
    assert_eq!((missing.code, missing.status().0.as_str()), (404, "NotFound"));
}

#[tokio::test]
async fn a_certificate_of_the_clusters_ca_names_user_and_groups() {
    let host = Host::new().await;
    let ca = certificates::ca("cluster");
    *host.cluster.ca.lock().unwrap() = Some(ca.pem.clone());
    assert_eq!(show(&host, &ca.user("jane", &["admins"]), "").await.code, 200);
    let asked = host.cluster.asked.lock().unwrap()[0].0.clone();
    assert_eq!((asked.name.as_str(), asked.uid), ("jane", None));
    assert_eq!(asked.groups, ["admins", "system:authenticated"]);
    assert_eq!(host.cluster.tokens.load(Ordering::Relaxed), 0);
    assert_eq!(show(&host, &ca.user("eve", &[]), "").await.code, 403);
    assert_eq!(host.cluster.reads.load(Ordering::Relaxed), 1, "the CA is not read for each request");
}

#[tokio::test]
async fn a_certificate_of_another_ca_or_for_another_purpose_is_nobodys() {
    let host = Host::new().await;
    let ca = certificates::ca("cluster");
    let no_ca = show(&host, &ca.user("jane", &[]), "").await;
    assert!(no_ca.status().1.contains("no CA for the certificates of users"));

    let host = Host::new().await;
    *host.cluster.ca.lock().unwrap() = Some(ca.pem.clone());
    let other = certificates::ca("cluster");
    for (identity, why) in [
        (other.user("jane", &[]), "certificate"),
        (ca.sign(Some("jane"), &[], ExtendedKeyUsagePurpose::ServerAuth), "extended key usage"),
        (ca.sign(None, &["admins"], ExtendedKeyUsagePurpose::ClientAuth), "no common name"),
        (ca.user("", &[]), "empty"),
    ] {
        let answer = show(&host, &identity, "").await;
        assert_eq!(answer.code, 401);
        assert!(answer.status().1.to_lowercase().contains(&why.to_lowercase()), "{why}: {:?}", answer.status());
        let with_token = show(&host, &identity, "Authorization: Bearer jane-token\r\n").await;
        assert_eq!(with_token.code, 200, "a token counts beside a certificate that does not");
    }
}

#[tokio::test]
async fn nobody_acts_as_another() {
    let host = Host::new().await;
    for header in ["Impersonate-User: joe", "impersonate-group: devs", "Impersonate-Extra-Scopes: all"] {
        let answer = host.ask_as(LOG, &format!("Authorization: Bearer jane-token\r\n{header}\r\n")).await;
        assert_eq!(answer.code, 400, "{header}");
        assert!(answer.status().1.contains("impersonat"));
    }
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_lets_nobody_in() {
    let host = Host::new().await;
    let down: fn() -> ReviewError =
        || ReviewError::NoAnswer { what: "create tokenreviews", why: "connection refused".to_owned() };
    let no_right: fn() -> ReviewError =
        || ReviewError::NotPermitted { what: "create tokenreviews", why: "RBAC".to_owned() };
    let ca = certificates::ca("cluster");
    for (fault, code, text) in [(down, 503, "connection refused"), (no_right, 500, "grant that to its service account")]
    {
        *host.cluster.fault.lock().unwrap() = Some(fault);
        for answer in [host.ask(LOG).await, show(&host, &ca.user("jane", &[]), "").await] {
            assert_eq!(answer.code, code);
            assert!(answer.status().1.contains(text), "{:?}", answer.status());
        }
    }
}

/// Everything that was traced.
#[derive(Clone, Default)]
struct Traced(std::sync::Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_request_leaves_a_line_and_none_has_a_token() {
    let traced = Traced::default();
    let writer = traced.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let host = Host::new().await;
    crate::append(&host.path("workload.log"), &record(0, "hello"));
    host.ask(LOG).await;
    host.ask_as(LOG, "Authorization: Bearer joe-token\r\n").await;
    host.ask_as(EXEC, "Authorization: Bearer nobodys-token\r\n").await;
    let text = String::from_utf8(traced.0.lock().unwrap().clone()).unwrap();
    let audit: Vec<_> = text.lines().filter(|line| line.contains("microagent_gate::audit")).collect();
    for (line, parts) in audit.iter().zip([
        ["user=\"jane\"", "verb=\"get\"", "decision=\"Allowed\""],
        ["user=\"joe\"", "verb=\"get\"", "decision=\"Forbidden\""],
        ["user=\"\"", "verb=\"create\"", "decision=\"Unauthorized\""],
    ]) {
        for part in parts.into_iter().chain(["namespace=\"team\"", "workspace=\"web\""]) {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_eq!(audit.len(), 3, "{text}");
    for secret in ["jane-token", "joe-token", "nobodys-token", "hello"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

//! What users see when a manifest is wrong: golden texts, one for each kind of mistake.

// The lints spare only the test functions themselves; these are their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cases;

use cases::{HEAD, with_spec};
use microagent_crds::{
    Reason, Workspace,
    manifest::{self, MAX_FILE_BYTES},
    parse,
    unsupported::{Origin, UNSUPPORTED},
};

fn errors(text: &str) -> String {
    let errors = parse(text, "ws.yaml").into_iter().filter_map(Result::err);
    errors.map(|error| error.to_string()).collect::<Vec<_>>().join("\n\n")
}

fn ok(text: &str) -> Workspace {
    let mut all = parse(text, "ws.yaml");
    assert_eq!(all.len(), 1);
    all.pop().unwrap().unwrap_or_else(|error| panic!("{error}"))
}

/// Each mistake under its title, so that a reader of the snapshot sees them side by side.
fn golden(name: &str, cases: &[(&str, String)]) {
    let mut page = String::new();
    for (title, text) in cases {
        let errors = errors(text);
        assert!(!errors.is_empty(), "{title} is accepted");
        page.push_str(&format!("## {title}\n{errors}\n\n"));
    }
    insta::assert_snapshot!(name, page);
}

#[test]
fn text_that_is_not_yaml_shows_where_it_stops_being_yaml() {
    golden(
        "not_yaml",
        &[
            ("bad indentation", format!("{HEAD}spec:\n  image: a\n bad: b\n")),
            ("unclosed quote", format!("{HEAD}spec:\n  image: \"debian\n")),
            ("a tab", format!("{HEAD}spec:\n\timage: debian\n")),
            ("unclosed list", format!("{HEAD}spec: {{image: a, args: [b, c}}\n")),
            ("a duplicate key", format!("{HEAD}spec:\n  image: a\n  runPolicy: Once\n  image: b\n")),
            ("a duplicate label", format!("{HEAD}  labels:\n    a: x\n    a: y\nspec:\n  image: a\n")),
            ("a tagged value", format!("{HEAD}spec:\n  image: !Secret a\n")),
            ("the second document", format!("{}---\n{HEAD}spec: [\n", with_spec(""))),
            ("a control character", format!("{HEAD}spec:\n  image: a\u{7}b\n")),
        ],
    );
}

#[test]
fn a_wrong_kind_of_document_is_told_apart_from_a_wrong_field() {
    golden("not_a_workspace", &cases::not_a_workspace());
}

#[test]
fn unknown_and_missing_fields_show_the_name_that_was_meant() {
    golden("fields", &cases::fields());
}

#[test]
fn values_of_another_type_or_form_are_explained() {
    golden("values", &cases::values());
}

#[test]
fn each_rule_of_the_schema_is_kept() {
    golden("rules", &cases::rules());
}

#[test]
fn what_cannot_be_done_yet_is_refused_by_name() {
    golden("unsupported", &cases::unsupported());
}

#[test]
fn everything_in_the_table_has_a_golden_refusal() {
    let golden = include_str!("snapshots/errors__unsupported.snap");
    // What only a cluster refuses stands in no file.
    for one in UNSUPPORTED.iter().filter(|one| one.only != Some(Origin::Kubernetes)) {
        assert!(golden.contains(&one.message()), "no golden refusal for {}", one.field);
    }
}

#[test]
fn the_environment_of_an_agent_is_not_for_workspaces_of_a_cluster() {
    let spec = |from| serde_json::json!({ "image": "a", "secrets": [{ "name": "a", "env": "A", "from": from }] });
    let read = |from| manifest::from_object("team/a", ("team", "a"), &spec(from)).map_err(Box::new);
    let error = read(serde_json::json!({ "env": "A" })).unwrap_err();
    assert_eq!(error.reason(), Reason::NotSupported);
    let text = error.to_string();
    assert!(text.contains("spec.secrets[0].from.env") && text.contains("in a cluster"), "{text}");
    assert!(text.contains("secretKeyRef"), "{text}");
    read(serde_json::json!({ "secretKeyRef": { "name": "a", "key": "k" } })).unwrap();
}

#[test]
fn a_refusal_has_another_reason_than_a_mistake() {
    let reason = |text: &str| parse(text, "a").pop().unwrap().unwrap_err().reason();
    assert_eq!(reason(&with_spec("rootDisk: {mode: Copy}")), Reason::NotSupported);
    assert_eq!(reason(&with_spec("powerState: Off")), Reason::InvalidManifest);
}

#[test]
fn too_much_is_refused_before_it_is_read() {
    let large = format!("{HEAD}# {}\n", "x".repeat(MAX_FILE_BYTES));
    let many = "a: 1\n---\n".repeat(400);
    let last = parse(&many, "ws.yaml").pop().unwrap().unwrap_err();
    insta::assert_snapshot!("too_much", format!("{}\n\n{last}", errors(&large)));
    assert_eq!(parse(&many, "ws.yaml").len(), 257);
}

#[test]
fn a_full_manifest_is_accepted() {
    let workspace = ok(&cases::full());
    assert_eq!(workspace.spec.resources.cpus.vcpus(), 2);
    assert_eq!(workspace.spec.files[0].mode_bits(), 0o600);
    assert_eq!(workspace.spec.disks.len(), 2);
}

#[test]
fn what_the_api_server_adds_is_passed_over() {
    let text = with_spec("").replace(
        "  name: demo\n",
        "  name: demo\n  uid: abc\n  resourceVersion: \"7\"\n  generation: 3\n  creationTimestamp: null\n  managedFields: []\n",
    ) + "status:\n  phase: Running\n  anything: 1\n";
    let workspace = ok(&text);
    assert_eq!(workspace.metadata.uid, None);
    assert_eq!(workspace.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(workspace.status, None);
}

#[test]
fn one_bad_document_does_not_hide_the_others() {
    let text =
        format!("{}---\n{}---\n---\n{}", with_spec(""), with_spec("zebra: 1"), with_spec("").replace("demo", "other"));
    let all = parse(&text, "ws.yaml");
    assert_eq!(all.len(), 3);
    let error = all[1].as_ref().unwrap_err();
    assert_eq!((error.document, error.line, error.column), (1, 14, 3));
    assert_eq!(error.workspace, Some(("default".to_owned(), "demo".to_owned())));
    assert_eq!(all[2].as_ref().unwrap().metadata.name.as_deref(), Some("other"));
}

#[test]
fn json_is_read_as_well() {
    let text =
        r#"{"apiVersion":"microagent.dev/v1alpha1","kind":"Workspace","metadata":{"name":"a"},"spec":{"image":"b"}}"#;
    assert_eq!(ok(text).spec.image, "b");
    assert!(parse("", "a").is_empty());
    assert!(parse("# nothing\n---\n", "a").is_empty());
}

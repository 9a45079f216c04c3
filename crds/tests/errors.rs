//! What users see when a manifest is wrong: golden texts, one for each kind of mistake.

// The lints spare only the test functions themselves; these are their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use microagent_crds::{Reason, Workspace, manifest::MAX_FILE_BYTES, parse};

const HEAD: &str = "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata:\n  name: demo\n";

/// A manifest whose spec has these lines beside the image.
fn with_spec(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    format!("{HEAD}spec:\n  image: docker.io/library/debian:12\n{lines}")
}

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
    golden(
        "not_a_workspace",
        &[
            ("a Pod", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n".to_owned()),
            ("another version", HEAD.replace("v1alpha1", "v1")),
            ("no kind", "apiVersion: microagent.dev/v1alpha1\nspec: {}\n".to_owned()),
            ("a text", "hello\n".to_owned()),
            ("a list", "apiVersion: v1\nkind: List\nitems: []\n".to_owned()),
        ],
    );
}

#[test]
fn unknown_and_missing_fields_show_the_name_that_was_meant() {
    golden(
        "fields",
        &[
            ("a slip", format!("{HEAD}spec:\n  imgae: debian\n")),
            ("a wrong case", with_spec("runpolicy: Once")),
            ("a word from elsewhere", with_spec("entrypoint: [sh]")),
            ("a word from a Pod", with_spec("env:\n- name: A\n  valueFrom: {secretKeyRef: {name: a, key: b}}")),
            ("deep in a list", with_spec("disks:\n- name: a\n  mountPath: /a\n  source: {empty: {sise: 1Gi}}")),
            ("no such word", with_spec("rootDisk:\n  zebra: 1")),
            ("unknown and null", with_spec("zebra:")),
            ("in metadata", format!("{HEAD}  generateName: x\nspec:\n  image: a\n")),
            ("at the top", format!("{}image: a\n", with_spec(""))),
            ("no image", format!("{HEAD}spec:\n  runPolicy: Once\n")),
            (
                "no name",
                "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {}\nspec:\n  image: a\n".to_owned(),
            ),
            ("no spec", HEAD.to_owned()),
        ],
    );
}

#[test]
fn values_of_another_type_or_form_are_explained() {
    golden(
        "values",
        &[
            ("a number for a text", with_spec("env:\n- name: PORT\n  value: 8080")),
            ("a truth for a text", with_spec("args: [true]")),
            ("a text for a list", with_spec("command: sleep 1")),
            ("a number for fields", with_spec("resources: 1")),
            ("an unknown word", with_spec("runPolicy: always")),
            ("a size without sense", with_spec("resources:\n  memory: 512MB")),
            ("a size that is a number", with_spec("resources:\n  memory: 536870912")),
            ("a fraction of a CPU as a number", with_spec("resources:\n  cpus: 0.5")),
            ("a negative size", with_spec("resources:\n  disk: -1Gi")),
            ("a time", with_spec("lifecycle:\n  expiresAt: tomorrow")),
            ("too large for its type", with_spec("lifecycle:\n  terminationGracePeriodSeconds: 5000000000")),
            ("a name", with_spec("").replace("name: demo", "name: Demo_1")),
            ("a long name", with_spec("").replace("name: demo", &format!("name: {}", "a".repeat(64)))),
            ("a namespace", with_spec("").replace("name: demo", "name: demo\n  namespace: a.b")),
            ("a label", with_spec("").replace("name: demo", "name: demo\n  labels:\n    ok: fine\n    a/b.c: \"-\"")),
        ],
    );
}

#[test]
fn each_rule_of_the_schema_is_kept() {
    let disk = |line: &str| {
        with_spec(&format!("disks:\n- name: data\n  mountPath: /data\n  source: {{empty: {{size: 1Gi}}}}\n{line}"))
    };
    golden(
        "rules",
        &[
            ("empty image", format!("{HEAD}spec:\n  image: \"\"\n")),
            ("a blank in the image", format!("{HEAD}spec:\n  image: a b\n")),
            ("too many CPUs", with_spec("resources:\n  cpus: 65")),
            ("no CPU", with_spec("resources:\n  cpus: \"0\"")),
            ("CPUs as a text", with_spec("resources:\n  cpus: \"64.5\"")),
            ("too little memory", with_spec("resources:\n  memory: 63Mi")),
            ("too much disk", with_spec("resources:\n  disk: 17Ti")),
            ("path without source", with_spec("kernel:\n  path: /boot/vmlinuz")),
            ("source without path", with_spec("kernel:\n  source: path")),
            ("url without sha256", with_spec("kernel:\n  source: url\n  url: https://example.com/k")),
            (
                "plain http",
                with_spec(&format!(
                    "kernel:\n  source: url\n  url: http://example.com/k\n  sha256: {}",
                    "a".repeat(64)
                )),
            ),
            ("a short sha256", with_spec("kernel:\n  source: url\n  url: https://example.com/k\n  sha256: abc")),
            ("oci without image", with_spec("kernel:\n  source: oci")),
            ("version of a path", with_spec("kernel:\n  source: path\n  path: /k\n  version: \"6.1\"")),
            ("two kernel arguments in one", with_spec("kernel:\n  args: [\"a b\"]")),
            ("a relative working directory", with_spec("workingDir: work")),
            ("a path upwards", with_spec("files:\n- path: /a/../etc/passwd\n  content: x")),
            ("a path with a line break", with_spec("files:\n- path: \"/a\\nb\"\n  content: x")),
            ("no content", with_spec("files:\n- path: /a")),
            ("a mode that is not octal", with_spec("files:\n- path: /a\n  content: x\n  mode: \"0999\"")),
            ("an owner", with_spec("files:\n- path: /a\n  content: x\n  owner: \"a:b:c\"")),
            ("one path twice", with_spec("files:\n- {path: /a, content: x}\n- {path: /a, content: y}")),
            ("one variable twice", with_spec("env:\n- {name: A}\n- {name: A}")),
            ("a variable with =", with_spec("env:\n- {name: A=B}")),
            ("a NUL in an argument", with_spec("args: [\"a\\0b\"]")),
            ("one disk name twice", disk("- {name: data, mountPath: /x, source: {empty: {size: 1Gi}}}")),
            ("one mount path twice", disk("- {name: more, mountPath: /data, source: {empty: {size: 1Gi}}}")),
            ("a disk over the root", disk("- {name: more, mountPath: /, source: {empty: {size: 1Gi}}}")),
            ("a disk over the root, longer", disk("- {name: more, mountPath: //, source: {empty: {size: 1Gi}}}")),
            (
                "a disk with two sources",
                disk("- {name: more, mountPath: /x, source: {empty: {size: 1Gi}, image: {path: /d}}}"),
            ),
            ("a disk with no source", disk("- {name: more, mountPath: /x, source: {}}")),
            ("a disk too small", disk("- {name: more, mountPath: /x, source: {empty: {size: 1Mi}}}")),
            ("a disk's name", disk("- {name: More, mountPath: /x, source: {empty: {size: 1Gi}}}")),
            ("a secret with two targets", with_spec("secrets:\n- {name: a, env: A, path: /a, from: {env: A}}")),
            ("a secret with no source", with_spec("secrets:\n- {name: a, env: A, from: {}}")),
            ("egress without a proxy", with_spec("network:\n  egress: {allow: []}")),
            ("an egress host", with_spec("network:\n  mode: Mediated\n  egress:\n    allow: [{host: \"https://a\"}]")),
            (
                "one host port twice",
                with_spec("network:\n  ports:\n  - {guestPort: 1, hostPort: 80}\n  - {guestPort: 2, hostPort: 80}"),
            ),
            ("a port out of range", with_spec("network:\n  ports:\n  - {guestPort: 0}")),
            ("a host address", with_spec("network:\n  ports:\n  - {guestPort: 1, hostIP: localhost}")),
            ("a probe of two kinds", with_spec("health: {exec: {command: [a]}, tcpSocket: {port: 1}}")),
            ("a probe of no kind", with_spec("health: {periodSeconds: 3}")),
            ("a probe's period", with_spec("health: {exec: {command: [a]}, periodSeconds: 0}")),
            ("a long grace", with_spec("lifecycle:\n  terminationGracePeriodSeconds: 3601")),
            ("an output's path", with_spec("outputs:\n- {name: a, path: out}")),
            ("several at once", with_spec("workingDir: a\nuser: \"\"\nresources: {memory: 1Ki}")),
            ("several rules at once", with_spec("workingDir: a\nresources: {memory: 1Ki}")),
        ],
    );
}

#[test]
fn what_cannot_be_done_yet_is_refused_by_name() {
    golden(
        "unsupported",
        &[
            ("docker-archive", format!("{HEAD}spec:\n  image: docker-archive:/a.tar\n")),
            ("pull secrets", with_spec("imagePullSecrets: [{name: a}]")),
            ("firecracker", with_spec("backend: Firecracker")),
            ("apple-vf", with_spec("backend: AppleVf")),
            (
                "kernel url",
                with_spec(&format!("kernel: {{source: url, url: \"https://a/b\", sha256: {}}}", "a".repeat(64))),
            ),
            ("kernel oci", with_spec("kernel: {source: oci, image: a/b}")),
            ("kernel digest", with_spec(&format!("kernel: {{source: path, path: /k, sha256: {}}}", "a".repeat(64)))),
            ("copied root disk", with_spec("rootDisk: {mode: Copy}")),
            (
                "content from elsewhere",
                with_spec("files:\n- {path: /a, content: x}\n- {path: /b, contentFrom: {file: /c}}"),
            ),
            ("bundle", with_spec("disks:\n- {name: a, mountPath: /a, source: {bundle: {path: /b}}}")),
            ("secrets", with_spec("secrets:\n- {name: a, env: A, from: {env: A}}")),
            ("mediated network", with_spec("network: {mode: Mediated}")),
            ("user network", with_spec("network: {mode: User}")),
            ("ports", with_spec("network:\n  ports: [{guestPort: 80}]")),
            ("egress", with_spec("network: {mode: Mediated, egress: {allow: [{host: example.com}]}}")),
            ("a probe over TLS", with_spec("health: {httpGet: {port: 443, scheme: HTTPS}}")),
            ("placement", with_spec("placement: {onNodeLost: Reschedule}")),
            ("node", with_spec("nodeName: a")),
        ],
    );
}

#[test]
fn everything_in_the_table_has_a_golden_refusal() {
    let golden = include_str!("snapshots/errors__unsupported.snap");
    for one in microagent_crds::unsupported::UNSUPPORTED {
        assert!(golden.contains(&one.message()), "no golden refusal for {}", one.field);
    }
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
    let text = with_spec(
        "imagePullPolicy: Always\nrunPolicy: Once\npowerState: Paused\nbackend: Qemu\n\
         kernel: {source: package, version: \"6.1\", args: [quiet, loglevel=3]}\n\
         resources: {cpus: 2, memory: 1Gi, disk: 20Gi}\nrootDisk: {mode: Overlay}\n\
         setup: [{run: \"apt-get update\"}]\ncommand: [sh, -c]\nargs: [\"echo $A\"]\nenv: [{name: A, value: b}, {name: B}]\n\
         workingDir: /work\nuser: \"1000:1000\"\nfiles: [{path: /etc/motd, content: hi, mode: \"0600\", owner: root}]\n\
         disks:\n- {name: data, mountPath: /data, source: {empty: {size: 1Gi}}}\n\
         - {name: ref, mountPath: /ref, readOnly: true, source: {image: {path: /srv/ref.ext4}}}\n\
         network: {mode: None}\nlifecycle: {terminationGracePeriodSeconds: 5, onDelete: Retain, ttlSecondsAfterFinished: 0, \
         idleTimeoutSeconds: 60, expiresAt: \"2030-01-01T00:00:00Z\", progressDeadlineSeconds: 300}\n\
         outputs: [{name: out, path: /out}]\nhealth: {httpGet: {port: 80}}\nworkingDir2:",
    );
    assert!(errors(&text).contains("unknown field `workingDir2`"));
    let workspace = ok(text.trim_end().trim_end_matches("workingDir2:"));
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

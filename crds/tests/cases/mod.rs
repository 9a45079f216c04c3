//! Manifests with one mistake each, under a title. The API server is asked about them too, by the tests on a control plane.

/// The start of a manifest, without its spec.
pub(crate) const HEAD: &str = "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata:\n  name: demo\n";

/// A manifest whose spec has these lines beside the image.
pub(crate) fn with_spec(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    format!("{HEAD}spec:\n  image: docker.io/library/debian:12\n{lines}")
}

/// A wrong kind of document.
pub(crate) fn not_a_workspace() -> Vec<(&'static str, String)> {
    vec![
        ("a Pod", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n".to_owned()),
        ("another version", HEAD.replace("v1alpha1", "v1")),
        ("no kind", "apiVersion: microagent.dev/v1alpha1\nspec: {}\n".to_owned()),
        ("a text", "hello\n".to_owned()),
        ("a list", "apiVersion: v1\nkind: List\nitems: []\n".to_owned()),
    ]
}

/// Names of fields that are wrong or missing.
pub(crate) fn fields() -> Vec<(&'static str, String)> {
    vec![
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
    ]
}

/// Values of another type or form.
pub(crate) fn values() -> Vec<(&'static str, String)> {
    vec![
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
    ]
}

/// Each rule of the schema, broken.
pub(crate) fn rules() -> Vec<(&'static str, String)> {
    let disk = |line: &str| {
        with_spec(&format!("disks:\n- name: data\n  mountPath: /data\n  source: {{empty: {{size: 1Gi}}}}\n{line}"))
    };
    vec![
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
            with_spec(&format!("kernel:\n  source: url\n  url: http://example.com/k\n  sha256: {}", "a".repeat(64))),
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
        (
            "one variable of two secrets",
            with_spec("secrets:\n- {name: a, env: A, from: {file: /a}}\n- {name: b, env: A, from: {file: /b}}"),
        ),
        (
            "one path of two secrets",
            with_spec("secrets:\n- {name: a, path: /x, from: {file: /a}}\n- {name: b, path: /x, from: {file: /b}}"),
        ),
        (
            "a variable and a secret of one name",
            with_spec("env: [{name: A, value: x}]\nsecrets:\n- {name: a, env: A, from: {file: /a}}"),
        ),
        (
            "a file and a secret of one path",
            with_spec("files: [{path: /x, content: x}]\nsecrets:\n- {name: a, path: /x, from: {file: /a}}"),
        ),
        (
            "a Secret of another namespace",
            with_spec("secrets:\n- {name: a, env: A, from: {secretKeyRef: {name: ../../b/secrets/c, key: k}}}"),
        ),
        ("a Secret's key", with_spec("secrets:\n- {name: a, env: A, from: {secretKeyRef: {name: a, key: a/b}}}")),
        ("a pull secret of another namespace", with_spec("imagePullSecrets: [{name: b/c}]")),
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
    ]
}

/// What is right and cannot be done yet.
pub(crate) fn unsupported() -> Vec<(&'static str, String)> {
    vec![
        ("pull secrets", with_spec("imagePullSecrets: [{name: a}]")),
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
        (
            "a Secret",
            with_spec(
                "secrets:\n- {name: a, env: A, from: {env: A}}\n- {name: b, env: B, from: {secretKeyRef: {name: s, key: k}}}",
            ),
        ),
        ("mediated network", with_spec("network: {mode: Mediated}")),
        ("user network", with_spec("network: {mode: User}")),
        ("ports", with_spec("network:\n  ports: [{guestPort: 80}]")),
        ("egress", with_spec("network: {mode: Mediated, egress: {allow: [{host: example.com}]}}")),
        ("a probe over TLS", with_spec("health: {httpGet: {port: 443, scheme: HTTPS}}")),
        ("placement", with_spec("placement: {onNodeLost: Reschedule}")),
        ("node", with_spec("nodeName: a")),
    ]
}

/// A manifest with nearly everything in it, and nothing wrong.
pub(crate) fn full() -> String {
    with_spec(
        "imagePullPolicy: Always\nrunPolicy: Once\npowerState: Paused\nbackend: Qemu\n\
         kernel: {source: package, version: \"6.1\", args: [quiet, loglevel=3]}\n\
         resources: {cpus: 2, memory: 1Gi, disk: 20Gi}\nrootDisk: {mode: Overlay}\n\
         setup: [{run: \"apt-get update\"}]\ncommand: [sh, -c]\nargs: [\"echo $A\"]\nenv: [{name: A, value: b}, {name: B}]\n\
         workingDir: /work\nuser: \"1000:1000\"\nfiles: [{path: /etc/motd, content: hi, mode: \"0600\", owner: root}]\n\
         disks:\n- {name: data, mountPath: /data, source: {empty: {size: 1Gi}}}\n\
         - {name: ref, mountPath: /ref, readOnly: true, source: {image: {path: /srv/ref.ext4}}}\n\
         network: {mode: None}\nlifecycle: {terminationGracePeriodSeconds: 5, onDelete: Retain, ttlSecondsAfterFinished: 0, \
         idleTimeoutSeconds: 60, expiresAt: \"2030-01-01T00:00:00Z\", progressDeadlineSeconds: 300}\n\
         outputs: [{name: out, path: /out}]\nsecrets:\n- {name: token, env: TOKEN, from: {env: TOKEN}}\n\
         - {name: key, path: /run/key, from: {file: /etc/key}}\nhealth: {httpGet: {port: 80}}",
    )
}

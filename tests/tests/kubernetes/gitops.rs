//! What Flux and Argo CD make of workspaces: their own code (`scripts/gitops-verdict`) judges objects of a real API server, with the
//! conditions that the controller and placement tell.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

use microagent_tests::cluster::{Cluster, Kubectl};
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const TIME: &str = "2026-01-02T03:04:05Z";

/// A control plane of these tests: in the one that all share placement may run, and tells statuses too.
fn apart(test: &str) -> Option<&'static Cluster> {
    static APART: OnceLock<Option<Cluster>> = OnceLock::new();
    APART.get_or_init(|| Cluster::start(test)).as_ref()
}

/// The program that judges, if it is built.
fn judge(test: &str) -> Option<String> {
    let found = Command::new(format!("{ROOT}/scripts/gitops-verdict")).arg("find").output().expect("a script");
    if found.status.success() {
        return Some(String::from_utf8_lossy(&found.stdout).trim().to_owned());
    }
    let why = String::from_utf8_lossy(&found.stderr).into_owned();
    println!("SKIP {test}: {}", why.lines().last().unwrap_or_default().trim_start_matches("error: "));
    None
}

/// What kstatus and Argo CD say of each object.
fn verdicts(judge: &str, objects: &[Value]) -> Vec<Value> {
    let script = format!("{ROOT}/manifests/gitops/argocd/health.lua");
    let mut command = Command::new(judge);
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program");
    let mut stdin = child.stdin.take().expect("an input");
    let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(lines.as_bytes()));
        child.wait_with_output().expect("an output")
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A workspace as its controller leaves it.
struct Case {
    name: &'static str,
    phase: &'static str,
    /// Type, status, reason.
    conditions: &'static [(&'static str, &'static str, &'static str)],
    kstatus: &'static str,
    argo: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "no-room",
        phase: "Pending",
        conditions: &[
            ("Scheduled", "False", "Unschedulable"),
            ("Reconciling", "True", "Unschedulable"),
            ("Ready", "False", "Unschedulable"),
        ],
        kstatus: "InProgress",
        argo: "Progressing",
    },
    Case {
        name: "building",
        phase: "Building",
        conditions: &[
            ("ImageResolved", "False", "PullingImage"),
            ("Reconciling", "True", "Progressing"),
            ("Stalled", "False", "Settled"),
            ("Ready", "False", "PullingImage"),
        ],
        kstatus: "InProgress",
        argo: "Progressing",
    },
    Case {
        name: "backing-off",
        phase: "Pending",
        conditions: &[
            ("Running", "False", "BackingOff"),
            ("Reconciling", "True", "Progressing"),
            ("Stalled", "False", "Settled"),
            ("Ready", "False", "BackingOff"),
        ],
        kstatus: "InProgress",
        argo: "Progressing",
    },
    Case {
        name: "running",
        phase: "Running",
        conditions: &[
            ("Scheduled", "True", "Scheduled"),
            ("Running", "True", "Running"),
            ("RestartRequired", "False", "UpToDate"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "False", "Settled"),
            ("Ready", "True", "Running"),
        ],
        kstatus: "Current",
        argo: "Healthy",
    },
    Case {
        name: "halted",
        phase: "Halted",
        conditions: &[
            ("Running", "False", "NotRunning"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "False", "Settled"),
            ("Ready", "True", "Halted"),
        ],
        kstatus: "Current",
        argo: "Healthy",
    },
    Case {
        // No agent has it: placement tells what there is to tell.
        name: "halted-nowhere",
        phase: "Halted",
        conditions: &[
            ("Scheduled", "False", "Halted"),
            ("Reconciling", "False", "Settled"),
            ("Ready", "True", "Halted"),
        ],
        kstatus: "Current",
        argo: "Healthy",
    },
    Case {
        name: "paused",
        phase: "Paused",
        conditions: &[
            ("Reconciling", "False", "Settled"),
            ("Stalled", "False", "Settled"),
            ("Ready", "True", "Paused"),
        ],
        kstatus: "Current",
        argo: "Healthy",
    },
    Case {
        name: "succeeded",
        phase: "Succeeded",
        conditions: &[
            ("Running", "False", "NotRunning"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "False", "Settled"),
            ("Ready", "True", "Succeeded"),
        ],
        kstatus: "Current",
        argo: "Healthy",
    },
    Case {
        name: "stalled",
        phase: "Failed",
        conditions: &[
            ("ImageResolved", "False", "ImageNotFound"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "True", "ImageNotFound"),
            ("Ready", "False", "ImageNotFound"),
        ],
        kstatus: "Failed",
        argo: "Degraded",
    },
    Case {
        name: "failed-once",
        phase: "Failed",
        conditions: &[
            ("Running", "False", "NotRunning"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "True", "WorkloadFailed"),
            ("Ready", "False", "WorkloadFailed"),
        ],
        kstatus: "Failed",
        argo: "Degraded",
    },
    Case {
        // A commit changed what a running machine cannot take: nothing happens until somebody restarts it.
        name: "restart-required",
        phase: "Running",
        conditions: &[
            ("Running", "True", "Running"),
            ("RestartRequired", "True", "SpecChanged"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "True", "SpecChanged"),
            ("Ready", "False", "SpecChanged"),
        ],
        kstatus: "Failed",
        argo: "Degraded",
    },
    Case {
        // What the agent said last stands beside what placement says now.
        name: "node-lost",
        phase: "Running",
        conditions: &[
            ("Scheduled", "False", "NodeLost"),
            ("Running", "True", "Running"),
            ("Reconciling", "False", "Settled"),
            ("Stalled", "False", "Settled"),
            ("Ready", "Unknown", "NodeLost"),
        ],
        kstatus: "InProgress",
        argo: "Degraded",
    },
    Case {
        name: "blind",
        phase: "Unknown",
        conditions: &[
            ("Reconciling", "True", "Progressing"),
            ("Stalled", "False", "Settled"),
            ("Ready", "Unknown", "SupervisorFailed"),
        ],
        kstatus: "InProgress",
        argo: "Progressing",
    },
];

fn create(kubectl: &Kubectl, name: &str) {
    let spec = json!({ "image": "busybox:1.37" });
    let metadata = json!({ "name": name });
    let object =
        json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": metadata, "spec": spec });
    kubectl.apply(&object.to_string());
}

fn tell(kubectl: &Kubectl, case: &Case) {
    let condition = |(kind, status, reason): &(&str, &str, &str)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "why it is so", "observedGeneration": 1,
            "lastTransitionTime": TIME,
        })
    };
    let conditions: Vec<_> = case.conditions.iter().map(condition).collect();
    let status = json!({ "status": { "phase": case.phase, "observedGeneration": 1, "conditions": conditions } });
    let patch = ["patch", "workspace", case.name, "--subresource=status", "--type=merge", "--patch"];
    let _ = kubectl.ok(patch.iter().copied().chain([status.to_string().as_str()]));
}

fn shown(kubectl: &Kubectl, name: &str) -> Value {
    serde_json::from_str(&kubectl.ok(["get", "workspace", name, "--output=json"])).expect("JSON")
}

fn said(verdict: &Value) -> (&str, &str) {
    let text = |of: &Value| of["status"].as_str().map(str::to_owned);
    assert!(text(&verdict["kstatus"]).is_some() && text(&verdict["argo"]).is_some(), "{verdict}");
    (verdict["kstatus"]["status"].as_str().unwrap_or_default(), verdict["argo"]["status"].as_str().unwrap_or_default())
}

#[test]
fn flux_and_argo_are_told_the_truth() {
    let test = "flux_and_argo_are_told_the_truth";
    let (Some(cluster), Some(judge)) = (apart(test), judge(test)) else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let mut objects = Vec::new();
    for case in CASES {
        create(&kubectl, case.name);
        tell(&kubectl, case);
        objects.push(shown(&kubectl, case.name));
    }
    for (case, verdict) in CASES.iter().zip(verdicts(&judge, &objects)) {
        assert_eq!(said(&verdict), (case.kstatus, case.argo), "{}: {verdict}", case.name);
        assert!(verdict["argo"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{verdict}");
    }
}

#[test]
fn nothing_is_concluded_before_the_newest_spec_was_seen() {
    let test = "nothing_is_concluded_before_the_newest_spec_was_seen";
    let (Some(cluster), Some(judge)) = (apart(test), judge(test)) else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    // Good and bad alike: each is of the spec before.
    let mut stale = Vec::new();
    for case in CASES.iter().filter(|case| ["running", "failed-once"].contains(&case.name)) {
        create(&kubectl, case.name);
        tell(&kubectl, case);
        let patch = r#"{"spec":{"resources":{"cpus":2}}}"#;
        let _ = kubectl.ok(["patch", "workspace", case.name, "--type=merge", "--patch", patch]);
        stale.push(shown(&kubectl, case.name));
        assert_eq!(stale.last().map(|object| object["metadata"]["generation"].clone()), Some(json!(2)));
    }
    for verdict in verdicts(&judge, &stale) {
        assert_eq!(said(&verdict), ("InProgress", "Progressing"), "{verdict}");
    }
}

#[test]
fn a_workspace_that_nobody_has_looked_at_is_not_healthy() {
    let test = "a_workspace_that_nobody_has_looked_at_is_not_healthy";
    let (Some(cluster), Some(judge)) = (apart(test), judge(test)) else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    create(&kubectl, "new");
    let new = shown(&kubectl, "new");
    assert_eq!(new["status"], json!({ "observedGeneration": -1 }), "what the CRD says of one that nobody looked at");
    let verdict = verdicts(&judge, &[new]).remove(0);
    assert_eq!(said(&verdict), ("InProgress", "Progressing"), "{verdict}");
    // An API server with an older CRD has no status at all: why Flux is given expressions of its own.
    let mut bare = shown(&kubectl, "new");
    bare["status"] = Value::Null;
    assert_eq!(said(&verdicts(&judge, &[bare]).remove(0)), ("Current", "Progressing"));
    let flux = fs::read_to_string(format!("{ROOT}/manifests/gitops/flux/kustomization.yaml")).expect("a Kustomization");
    assert!(flux.contains("healthCheckExprs") && flux.contains("!has(status.conditions)"), "{flux}");
}

#[test]
fn people_who_wait_at_once_wait_until_somebody_has_looked() {
    let Some(cluster) = apart("people_who_wait_at_once_wait_until_somebody_has_looked") else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let running = CASES.iter().find(|case| case.name == "running").expect("a case");
    create(&kubectl, running.name);
    let object = format!("workspace/{}", running.name);
    for wanted in ["condition=Ready", "condition=Ready=False", "condition=Stalled", "jsonpath={.status.phase}=Running"]
    {
        let said = kubectl.fails(["wait", &object, &format!("--for={wanted}"), "--timeout=1s"]);
        assert!(said.contains("timed out") || said.contains("phase is not found"), "{wanted}: {said}");
    }
    thread::scope(|scope| {
        let waiting = scope.spawn(|| kubectl.ok(["wait", &object, "--for=condition=Ready", "--timeout=120s"]));
        tell(&kubectl, running);
        assert!(waiting.join().expect("a wait").contains("condition met"));
    });
    // What is told by server-side apply leaves nothing of the default behind, and takes nothing from the spec.
    assert_eq!(shown(&kubectl, running.name)["status"]["observedGeneration"], 1);
    let again = json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": running.name },
        "spec": { "image": "busybox:1.37" } });
    assert!(kubectl.run_with(["diff", "--server-side", "--filename=-"], &again.to_string()).status.success());
}

#[test]
fn what_is_being_deleted_is_not_healthy_any_more() {
    let test = "what_is_being_deleted_is_not_healthy_any_more";
    let (Some(cluster), Some(judge)) = (apart(test), judge(test)) else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let running = CASES.iter().find(|case| case.name == "running").expect("a case");
    create(&kubectl, running.name);
    tell(&kubectl, running);
    let finalizer = r#"{"metadata":{"finalizers":["microagent.dev/host-state"]}}"#;
    let _ = kubectl.ok(["patch", "workspace", running.name, "--type=merge", "--patch", finalizer]);
    let _ = kubectl.ok(["delete", "workspace", running.name, "--wait=false"]);
    let verdict = verdicts(&judge, &[shown(&kubectl, running.name)]).remove(0);
    assert_eq!(said(&verdict), ("Terminating", "Progressing"), "{verdict}");
}

#[test]
fn the_settings_of_argo_have_the_script_that_is_tested() {
    let folder = format!("{ROOT}/manifests/gitops/argocd");
    let script = fs::read_to_string(format!("{folder}/health.lua")).expect("a script");
    let settings = fs::read_to_string(format!("{folder}/argocd-cm.yaml")).expect("settings");
    let key = "  resource.customizations.health.microagent.dev_Workspace: |\n";
    let (_, inner) = settings.split_once(key).expect("the key");
    let inner: String = inner.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    assert_eq!(inner, script);
}

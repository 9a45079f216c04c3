//! What a workspace wrote becomes an image, and another workspace has it: through the built programs and real machines.

use std::fs;

use microagent_tests::host::{manifest, started};
use serde_json::{Value, json};

#[test]
fn what_a_halted_workspace_wrote_is_an_image_for_others() {
    let Some((_registry, image, host)) = started("commit") else { return };
    let work = "echo kept > /etc/kept; rm /etc/group; rm -r /var; mkdir /var; echo new > /var/new; \
                trap 'exit 0' TERM; echo done; while :; do sleep 1; done";
    let put = |policy: &str| {
        let spec = json!({
            "runPolicy": policy,
            "command": ["/bin/sh", "-c", work],
            "lifecycle": { "terminationGracePeriodSeconds": 5 },
        });
        host.drop_file("web.yaml", &manifest("web", &image, &spec));
    };
    put("Always");
    host.wait("web", "Ready");
    assert_eq!(host.first_lines("web", 1), "done\n");

    let (code, said) = host.fails(["commit", "web", "team/web:2"]);
    assert_eq!(code, 1);
    assert!(said.contains("while its machine runs") && said.contains("halt it first"), "{said}");
    let (code, said) = host.fails(["commit", "none", "team/web:2"]);
    assert!(code == 1 && said.contains("no machine and no disk"), "{said}");

    put("Halted");
    host.wait("web", "Running=False");
    host.wait("web", "Ready");
    let made: Value =
        serde_json::from_str(&host.ok(["commit", "web", "team/web:2", "-m", "with notes", "-o", "json"])).unwrap();
    assert_eq!(made["reference"], "docker.io/team/web:2");
    assert_eq!(made["layers"].as_array().unwrap().len(), 2);
    // group and the opaque var; the root, etc, kept, var and new.
    assert_eq!((&made["layer"]["whiteouts"], &made["layer"]["entries"]), (&json!(2), &json!(5)), "{made:#}");
    assert!(host.ok(["image", "list"]).contains("docker.io/team/web:2"));

    // The workspace goes on from where it was, and another one begins there.
    put("Always");
    let show = "cat /etc/kept /var/new; ls /etc; cat /etc/passwd | wc -l; echo $FROM_IMAGE";
    let spec = json!({ "runPolicy": "Once", "command": ["/bin/sh", "-c", show] });
    host.drop_file("other.yaml", &manifest("other", "team/web:2", &spec));
    host.wait("other", "Ready");
    assert_eq!(host.first_lines("other", 8), "kept\nnew\nhostname\nhosts\nkept\npasswd\n2\nyes\n");
    host.wait("web", "Ready");
    for name in ["web", "other"] {
        fs::remove_file(host.folder().join(format!("{name}.yaml"))).unwrap();
        host.wait_deleted(name);
    }
}

//! What must be so for every input.

// The lints spare only the test functions themselves; these are their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use microagent_crds::{Workspace, canonical_spec_hash, parse, validate};
use proptest::prelude::*;

/// Pieces that make up manifests, right and wrong.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        "[ \\t\\n:\\-\\[\\]{}&*!|>'\"#,?%@`]{0,8}",
        prop::sample::select(vec![
            "apiVersion: microagent.dev/v1alpha1\n",
            "kind: Workspace\n",
            "metadata:\n  name: a\n",
            "spec:\n",
            "  image: b\n",
            "  args: [",
            "&a ",
            "*a",
            "---\n",
            "...\n",
            "  env:\n  - name: A\n",
            "!!binary ",
            "<<: *a\n",
            "? ",
            "|\n",
            "1e999",
            ".nan",
            "  resources: {memory: 1Gi}\n",
            "null",
            "~",
            "\u{feff}",
            "\u{85}",
            "%YAML 1.2\n",
            "  files:\n  - path: /a\n    content: |\n      x\n",
        ])
        .prop_map(str::to_owned),
    ]
}

fn spec() -> impl Strategy<Value = Workspace> {
    let small = |what: &'static str| prop::collection::vec(what, 0..3);
    (small("[a-z ]{0,9}"), small("[a-z]{1,9}"), 1u32..=64, 64u64..4096, prop::option::of("/[a-z]{1,9}"), 0u32..3600)
        .prop_map(|(args, names, cpus, memory, dir, grace)| {
            let env: Vec<_> =
                names.iter().enumerate().map(|(n, name)| serde_json::json!({ "name": format!("{name}{n}") })).collect();
            serde_json::from_value(serde_json::json!({
                "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": "a" },
                "spec": {
                    "image": "b", "args": args, "env": env, "workingDir": dir,
                    "resources": { "cpus": cpus, "memory": format!("{memory}Mi") },
                    "lifecycle": { "terminationGracePeriodSeconds": grace },
                },
            }))
            .unwrap()
        })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(pieces in prop::collection::vec(piece(), 0..24)) {
        for error in parse(&pieces.concat(), "a").into_iter().filter_map(Result::err) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&String::from_utf8_lossy(&bytes), "a");
    }

    #[test]
    fn filling_in_defaults_twice_is_filling_them_in_once(workspace in spec()) {
        let once = workspace.defaulted();
        prop_assert_eq!(once.clone().defaulted(), once);
    }

    #[test]
    fn a_valid_workspace_is_read_back_with_the_same_hash(workspace in spec()) {
        let workspace = workspace.defaulted();
        prop_assert_eq!(validate::validate(&workspace, None), Ok(()));
        let written = microagent_crds::yaml::to_string(&workspace).unwrap();
        let read = parse(&written, "a").pop().unwrap().unwrap();
        prop_assert_eq!(canonical_spec_hash(&read.spec), canonical_spec_hash(&workspace.spec));
        prop_assert_eq!(read, workspace);
    }
}

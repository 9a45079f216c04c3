//! `microagent plan`: one golden output for each kind of change, and the exit codes of diff.

use std::{fs, io::Write, process::Stdio};

use super::*;

#[test]
fn nothing_new_is_0_and_is_shown_when_asked_for() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    host.write("folder/a.yaml", &format!("# a comment\n{}  runPolicy: Always\n", manifest("a", "")));
    let done = host.run("plan -f folder");
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "1 unchanged\n", ""));
    insta::assert_snapshot!(host.run("plan -f folder -v").out, @"
    = default/a: unchanged
    1 unchanged
    ");
}

#[test]
fn a_new_workspace_is_2() {
    let host = Host::new();
    host.write("folder/a.yaml", &manifest("a", ""));
    let done = host.run("plan -f folder");
    assert_eq!(done.code, 2);
    insta::assert_snapshot!(done.out, @"
    + default/a: create
    1 to create
    ");
}

#[test]
fn what_a_running_machine_cannot_take_is_told_field_by_field() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", "  env:\n  - {name: HOME, value: /root}\n  - {name: B, value: x}\n"));
    let new = manifest("a", "  runPolicy: Once\n  env:\n  - {name: HOME, value: /home}\n  setup:\n  - run: make\n");
    host.write("new.yaml", &new.replace("alpine:3.21", "alpine:3.22"));
    let done = host.run("plan -f new.yaml");
    assert_eq!(done.code, 2);
    insta::assert_snapshot!(done.out, @r#"
    ~ default/a: restart
        restart   spec.env[HOME].value: "/root" → "/home"
        restart   spec.env[B]: {"name":"B","value":"x"} → none
        restart   spec.image: "alpine:3.21" → "alpine:3.22"
        in-place  spec.runPolicy: "Always" → "Once"
        restart   spec.setup[0]: none → {"run":"make"}
        the machine goes on as it is, and RestartRequired says so, until `microagent restart a` starts it anew
    1 to restart
    "#);
}

#[test]
fn the_restart_annotation_restarts_by_itself() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    let annotated = "  name: a\n  annotations:\n    microagent.dev/restart: again\n";
    host.write("a.yaml", &manifest("a", "").replace("  name: a\n", annotated));
    insta::assert_snapshot!(host.run("plan -f a.yaml").out, @r#"
    ~ default/a: restart
        restart   metadata.annotations[microagent.dev/restart]: none → "again"
        its restart annotation has another text: the machine is started anew
    1 to restart
    "#);
}

#[test]
fn what_takes_effect_while_the_machine_runs_is_in_place() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    host.write("a.yaml", &manifest("a", "  lifecycle:\n    terminationGracePeriodSeconds: 5\n"));
    let done = host.run("plan -f a.yaml");
    assert_eq!(done.code, 2);
    insta::assert_snapshot!(done.out, @"
    ~ default/a: in-place
        in-place  spec.lifecycle.terminationGracePeriodSeconds: 30 → 5
    1 to change in place
    ");
}

#[test]
fn what_a_folder_declares_no_more_is_deleted_and_a_file_alone_deletes_nothing() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    host.record("b.yaml", &manifest("b", ""));
    host.write("folder/b.yaml", &manifest("b", ""));
    std::os::unix::fs::symlink(host.path("folder"), host.path("link")).unwrap();
    for folder in ["folder", "./folder/", "link"] {
        let done = host.run(&format!("plan -f {folder}"));
        assert_eq!(done.code, 2);
        assert_eq!(done.out, "- default/a: delete\n1 to delete, 1 unchanged\n", "{folder}");
    }
    assert_eq!(host.run("plan -f folder/b.yaml").code, 0);
    fs::create_dir(host.path("other")).unwrap();
    assert_eq!(host.run("plan -f other").out, "nothing is declared, and nothing would change\n");
}

#[test]
fn an_invalid_manifest_is_1_with_its_place_whatever_else_would_change() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    host.write("folder/a.yaml", &manifest("a", "  comand: [sh]\n"));
    host.write("folder/b.yaml", &manifest("b", ""));
    host.write("folder/c.yaml", "a: [");
    host.write("folder/notes.txt", "no manifest");
    let done = host.run("plan -f folder");
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.out, @r"
    ! default/a: invalid
        error[UnknownField]: unknown field `comand`
         --> folder/a.yaml:7:3 (spec.comand)
          |
        7 |   comand: [sh]
          |   ^
          = help: did you mean `command`?
    + default/b: create
    ! folder/c.yaml: invalid
        error[InvalidYaml]: did not find expected node content
         --> folder/c.yaml:2:1 (a)
    1 to create, 2 invalid
    ");
}

#[test]
fn a_name_that_stands_twice_is_invalid_also_across_what_is_named() {
    let host = Host::new();
    host.write("folder/a.yaml", &manifest("a", ""));
    host.write("a2.yaml", &manifest("a", ""));
    let done = host.run("plan -f folder -f a2.yaml");
    assert_eq!(done.code, 1);
    assert!(done.out.contains("folder/a.yaml and in a2.yaml"), "{}", done.out);
    let once = host.run("plan -f folder -f folder/a.yaml -f ./folder");
    assert_eq!((once.code, once.out.as_str()), (2, "+ default/a: create\n1 to create\n"));
}

#[test]
fn programs_get_everything_and_whole_values() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    host.record("b.yaml", &manifest("b", ""));
    let long = "x".repeat(200);
    host.write("folder/a.yaml", &manifest("a", &format!("  workingDir: /{long}\n")));
    host.write("folder/b.yaml", &manifest("b", ""));
    let done = host.run("plan -f folder -o json");
    assert_eq!(done.code, 2);
    insta::assert_snapshot!(done.out.replace(&long, "LONG"), @r#"
    {
      "workspaces": [
        {
          "namespace": "default",
          "name": "a",
          "action": "restart",
          "files": [
            "folder/a.yaml"
          ],
          "changes": [
            {
              "path": "spec.workingDir",
              "old": null,
              "new": "/LONG",
              "effect": "restart"
            }
          ],
          "then": "restartRequired"
        },
        {
          "namespace": "default",
          "name": "b",
          "action": "unchanged",
          "files": [
            "folder/b.yaml"
          ]
        }
      ],
      "files": []
    }
    "#);
    assert_eq!(host.run("plan -f folder -o name").out, "workspace/a\n");
}

#[test]
fn standard_input_is_read_like_a_file() {
    let host = Host::new();
    let mut child = host.command("plan -f -").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest("a", "").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "+ default/a: create\n1 to create\n");
}

#[test]
fn what_cannot_be_read_or_stands_in_another_namespace_is_1_and_wrong_usage_2() {
    let host = Host::new();
    host.write("a.yaml", &manifest("a", ""));
    for (line, code, part) in [
        ("plan -f no.yaml", 1, "check the path"),
        ("plan -n team -f a.yaml", 1, "not in namespace team"),
        ("plan", 2, "-f <FILE>"),
    ] {
        let done = host.run(line);
        assert_eq!(done.code, code, "{line}");
        assert!(done.err.contains(part), "{line}: {}", done.err);
    }
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_what_was_only_declared_is_compared_too() {
    let host = Host::new();
    host.write("a.yaml", &manifest("a", ""));
    assert_eq!(host.run("apply -f a.yaml").code, 0);
    assert_eq!(host.run("plan -f a.yaml").code, 0);
    host.record("a.yaml", &manifest("a", ""));
    fs::write(host.paths.record(&Key::new("default", "a")), "torn").unwrap();
    let done = host.run("plan -f a.yaml");
    assert_eq!(done.code, 1);
    assert!(done.out.contains("the record of workspace default/a cannot be read"), "{}", done.out);
}

#[test]
fn nothing_is_written() {
    let host = Host::new();
    host.record("a.yaml", &manifest("a", ""));
    host.write("folder/b.yaml", &manifest("b", ""));
    let all = || {
        let mut found = Vec::new();
        let mut dirs = vec![host.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let metadata = entry.metadata().unwrap();
                found.push((entry.path(), metadata.len(), metadata.modified().unwrap()));
                dirs.extend(metadata.is_dir().then(|| entry.path()));
            }
        }
        found.sort();
        found
    };
    let before = all();
    assert_eq!(host.run("plan -f folder").code, 2);
    assert_eq!(all(), before);
}

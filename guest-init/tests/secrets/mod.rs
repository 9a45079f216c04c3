//! Secrets in a real machine: who has them, and that no disk does.

use std::fs;

use microagent_guest_protocol::{CopyReply, Event, Exit, Mount, Output, Secret, SecretPlace};

use super::{
    Disks,
    harness::{
        self,
        client::{ExecSession, Session, config, copy_out, exec, sh, shut_down, steps},
        image,
        vm::Vm,
    },
    outputs,
};

const IN_ENV: &str = "correct-horse-battery-staple";
const IN_FILE: &str = "tr0ub4dor-and-three";

fn env(variable: &str) -> Secret {
    secret("token", SecretPlace::Env(variable.into()), IN_ENV)
}

fn file(name: &str, path: &str) -> Secret {
    secret(name, SecretPlace::Path(path.into()), IN_FILE)
}

fn secret(name: &str, place: SecretPlace, value: &str) -> Secret {
    Secret { name: name.into(), place, value: value.as_bytes().to_vec().into() }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn secrets_are_in_the_environment_and_in_memory_and_on_no_disk() {
    const TEST: &str = "secrets_are_in_the_environment_and_in_memory_and_on_no_disk";
    let Some(tools) = harness::tools(TEST) else { return };
    let disks = Disks::new(tools);
    let further = disks.baseline.with_file_name("further");
    image::empty(&further, "64M");
    // A variable of the workload's is replaced; a link of the image's leads to where the file is.
    let mut config =
        config(sh("echo $GREETING; cat /etc/app/key /etc/passwd.d /data/key; stat -c '%u:%g %a' /etc/app/key; \
         cat /etc/setup; grep -c overlay /proc/mounts; \
         echo x > /etc/app/key || echo read-only; ls /run/microagent/secrets || echo hidden; \
         trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done"));
    config.workload.user = Some("late".into());
    config.mounts = vec![Mount { disk: 2, path: "/data".into(), read_only: false }];
    config.secrets =
        vec![env("GREETING"), file("key", "/etc/app/key"), file("over", "/etc/passwd.d"), file("further", "/data/key")];
    config.setup = steps(&[
        "echo late:x:1234:1001::/: >> /etc/passwd; mkdir -p /keep; [ \"$(cat /etc/app/key)\" = \"$(cat /data/key)\" ]; \
         echo ${#GREETING} $(stat -c %u /etc/app/key) > /etc/setup",
    ]);
    config.outputs = vec![
        Output { name: "etc".into(), path: "/etc".into() },
        Output { name: "key".into(), path: "/etc/app/key".into() },
        Output { name: "run".into(), path: "/run/microagent".into() },
    ];
    let mut vm = Vm::boot(tools, &[(&disks.baseline, true), (&disks.writable, false), (&further, false)]);
    let mut session = Session::configure(&vm, &config);
    let told = session.until(&vm, |told| told.text().ends_with("ready\n"));
    let expected = format!(
        "{IN_ENV}\n{IN_FILE}{IN_FILE}{IN_FILE}1234:1001 400\n{} 0\n1\nread-only\nhidden\nready\n",
        IN_ENV.len()
    );
    assert_eq!(told.text(), expected, "{told:?}");

    let (out, _, _) = ExecSession::start(&vm, exec("echo $GREETING; cat /etc/app/key")).finish();
    assert_eq!(out, format!("{IN_ENV}\n{IN_FILE}"));
    let mut other = exec("cat /etc/app/key");
    other.process.user = Some("agent".into());
    assert_eq!(ExecSession::start(&vm, other).finish().0, "", "another user cannot read it");

    let (archive, reply) = copy_out(&vm, "/etc", false);
    assert_eq!(reply, CopyReply::Copied { left_out: None });
    assert!(holds(&archive, "etc/passwd") && !holds(&archive, IN_FILE) && !holds(&archive, "etc/app/key"));
    let (archive, reply) = copy_out(&vm, "/etc/app/key", false);
    assert!(matches!(&reply, CopyReply::Failed { message, .. } if message.contains("is a secret")), "{reply:?}");
    assert!(archive.is_empty());

    shut_down(&vm, 30);
    let told = session.until_the_end(&vm);
    assert_eq!(told.workload_exit(), Some(Exit::code(4)));
    let ended = outputs(&told);
    assert_eq!((ended[0], ended[1].0, ended[2]), (("etc", None), "key", ("run", None)));
    assert!(ended[1].1.is_some_and(|error| error.contains("is a secret")), "{ended:?}");
    vm.wait_until_off();
    assert!(image::is_clean(&disks.writable) && image::is_clean(&further));
    let console = vm.console();
    for value in [IN_ENV, IN_FILE] {
        assert!(!holds(&told.archive, value), "outputs");
        assert!(!holds(console.as_bytes(), value), "the console");
        for disk in [&disks.writable, &further, &disks.baseline] {
            assert!(!holds(&fs::read(disk).unwrap(), value), "{}", disk.display());
        }
    }
}

#[test]
fn a_secret_that_cannot_be_placed_is_told_by_its_name_alone() {
    let Some(tools) = harness::tools("a_secret_that_cannot_be_placed_is_told_by_its_name_alone") else { return };
    let disks = Disks::new(tools);
    let mut config = config(sh("true"));
    config.secrets = vec![file("key", "/etc")];
    let told = disks.run(tools, &config);
    assert_eq!(told.failures(), ["SecretFailed"]);
    let said = told.events.iter().find_map(|event| match event {
        Event::Failed { message, .. } => Some(message.clone()),
        _ => None,
    });
    let said = said.unwrap();
    assert!(said.contains("key") && said.contains("/etc") && !said.contains(IN_FILE), "{said}");
    // Once with it and once without: nothing of it is left.
    config.secrets = vec![file("key", "/opt/key")];
    config.workload = sh("cat /opt/key");
    assert_eq!(disks.run(tools, &config).text(), IN_FILE);
    config.secrets = Vec::new();
    config.workload = sh("wc -c < /opt/key");
    assert_eq!(disks.run(tools, &config).text().trim(), "0");
    assert!(!holds(&fs::read(&disks.writable).unwrap(), IN_FILE));
}

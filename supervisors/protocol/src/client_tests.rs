use super::*;
use std::{fs, os::unix::fs::PermissionsExt};

use microagent_base::process::ProcessId;

const GENEROUS: Duration = Duration::from_secs(60);

/// A supervisor that is this shell script.
fn script(dir: &Path, text: &str) -> Supervisor {
    let path = dir.join("supervisor");
    // Written by another process: a descriptor for writing that a test beside this one inherits makes the file busy.
    let made = Command::new("sh")
        .args(["-c", "cat > \"$1\"; chmod 755 \"$1\"", "sh"])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .and_then(|mut sh| {
            sh.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes())?;
            sh.wait()
        });
    assert!(made.unwrap().success());
    Supervisor::new(path)
}

fn capabilities(dir: &Path, text: &str, deadline: Duration) -> Result<Capabilities, CallError> {
    script(dir, text).capabilities(deadline)
}

#[test]
fn an_answer_comes_back_typed() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"cat >/dev/null; echo '{"protocol":"supervisor.microagent.dev/v1","ok":true,"capabilities":{"backend":"X","version":"1","verbs":["check"],"accelerators":[],"maxVcpus":1}}'"#;
    assert_eq!(capabilities(dir.path(), text, GENEROUS).unwrap().backend, "X");
}

#[test]
fn a_refusal_carries_the_code_of_the_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"echo '{"protocol":"supervisor.microagent.dev/v1","ok":false,"error":{"code":"VmmNotFound","message":"m","retryable":false,"remediation":"r"}}'; exit 1"#;
    let error = capabilities(dir.path(), text, GENEROUS).unwrap_err();
    assert_eq!((error.category(), error.retryable()), ("VmmNotFound", false));
}

#[test]
fn an_answer_that_breaks_the_protocol_is_named_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    for (text, category) in [
        (r#"printf '{"protocol":"supervisor.microagent.dev/v1","ok":tr'"#, "SupervisorAnswer"),
        (r#"echo '{"protocol":"supervisor.microagent.dev/v1","ok":true}'; exit 1"#, "SupervisorAnswer"),
        (r#"echo '{"protocol":"supervisor.microagent.dev/v1","ok":false}'; exit 1"#, "SupervisorAnswer"),
        (r#"echo '{"protocol":"supervisor.microagent.dev/v1","ok":true}'"#, "SupervisorAnswer"),
        (r#"echo '{"protocol":"supervisor.microagent.dev/v9","ok":true}'"#, "SupervisorProtocol"),
        ("exit 0", "SupervisorEnded"),
        ("kill -9 $$", "SupervisorEnded"),
        ("exec yes 0123456789012345678901234567890123456789012345678901234567890123456789", "SupervisorAnswer"),
    ] {
        assert_eq!(capabilities(dir.path(), text, GENEROUS).unwrap_err().category(), category, "{text}");
    }
}

#[test]
fn what_it_said_last_is_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = capabilities(dir.path(), "echo lost the plot >&2; exit 3", GENEROUS).unwrap_err();
    assert!(error.to_string().contains("lost the plot"), "{error}");
}

#[test]
fn a_hung_supervisor_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // The deadline must not pass before the pid is written, so the script is released by the fifo's reader.
    let supervisor = script(
        dir.path(),
        &format!("sleep 600 & echo $! > {pid}; echo > {fifo}; wait", pid = pid.display(), fifo = fifo.display()),
    );
    let call = std::thread::spawn(move || supervisor.capabilities(Duration::from_secs(5)));
    fs::read(&fifo).unwrap();
    let child = ProcessId::of(fs::read_to_string(&pid).unwrap().trim().parse().unwrap()).unwrap();
    assert!(child.is_alive());
    assert_eq!(call.join().unwrap().unwrap_err().category(), "SupervisorTimeout");
    assert!(child.wait_gone(GENEROUS).unwrap());
}

#[test]
fn a_child_that_keeps_the_pipes_open_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"sleep 30 & echo '{"protocol":"supervisor.microagent.dev/v1","ok":true,"capabilities":{"backend":"X","version":"1","verbs":[],"accelerators":[],"maxVcpus":1}}'"#;
    assert!(capabilities(dir.path(), text, Duration::from_secs(25)).is_ok());
}

#[test]
fn a_missing_or_plain_file_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for path in [path, dir.path().join("none")] {
        assert_eq!(Supervisor::new(path).capabilities(GENEROUS).unwrap_err().category(), "SupervisorNotExecutable");
    }
}

#[test]
fn a_supervisor_is_found_by_variable_then_beside_then_in_libexec_then_in_path() {
    let dir = tempfile::tempdir().unwrap();
    let [bin, libexec, path] = ["bin", "libexec/microagent", "path"].map(|d| dir.path().join(d));
    for folder in [&bin, &libexec, &path] {
        fs::create_dir_all(folder).unwrap();
    }
    let name = "microagent-supervisor-apple-vf";
    let look = |variable: Option<&str>| {
        let variable = variable.map(PathBuf::from);
        find_in(
            "AppleVf",
            |asked| variable.clone().filter(|_| asked == "MICROAGENT_SUPERVISOR_APPLE_VF"),
            Some(&bin),
            Some(path.as_os_str()),
        )
        .map(|s| s.path)
    };
    assert_eq!(look(None).unwrap_err().category(), "SupervisorNotFound");
    for folder in [&path, &libexec, &bin] {
        fs::write(folder.join(name), "").unwrap();
        assert_eq!(look(None).unwrap().canonicalize().unwrap(), folder.join(name).canonicalize().unwrap());
    }
    assert_eq!(look(Some("/x")).unwrap(), Path::new("/x"));
}

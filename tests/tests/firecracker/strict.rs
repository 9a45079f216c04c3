//! What Firecracker refuses the stand-in refuses: the same requests to both, where there is a real one.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use microagent_tests::firecracker::{MachineHost, real_firecracker, real_kernel};
use serde_json::{Value, json};

/// A VMM with its API, ended with this.
struct Vmm {
    child: Child,
    socket: std::path::PathBuf,
}

impl Vmm {
    fn start(program: &Path, dir: &Path) -> Self {
        let socket = dir.join("strict.sock");
        let child = Command::new(program)
            .args(["--id", "strict", "--level", "Off", "--api-sock"])
            .arg(&socket)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// Status and body of the answer to these bytes.
    fn say(&self, bytes: &[u8]) -> (u16, String) {
        let begun = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(e) => assert!(begun.elapsed() < Duration::from_secs(60), "{e}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // One that is too long is refused before it is read.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let n = stream.read(&mut chunk).unwrap();
            answer.extend_from_slice(&chunk[..n]);
            let text = String::from_utf8_lossy(&answer).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
            if n == 0 || body.len() >= length {
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned());
            }
        }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        if !body.is_empty() {
            text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        self.say(format!("{text}\r\n{body}").as_bytes())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Holds a VMM against what Firecracker's documentation promises, from its first request to a paused machine. Without a kernel that boots,
/// the machine is not started.
fn is_strict(program: &Path, host: &MachineHost, kernel: Option<&Path>) {
    let vmm = Vmm::start(program, host.root());
    let expect = |method: &str, path: &str, body: Value, status: u16, word: &str| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (found, answer) = vmm.ask(method, path, &text);
        assert_eq!(found, status, "{method} {path} {text}: {answer}");
        assert!(answer.contains(word), "{method} {path} {text}: {answer}");
        if status >= 400 {
            assert!(answer.contains("fault_message"), "{answer}");
        }
    };
    let none = Value::Null;
    let (before, after) = ("not supported before starting", "not supported after starting");
    let file = |name: &str| host.root().join(name);
    let drive = |id: &str, name: &str| json!({ "drive_id": id, "path_on_host": file(name), "is_root_device": false, "is_read_only": true });
    // What is no request of the API.
    expect("GET", "/nowhere", none.clone(), 400, "Invalid request method and/or path");
    expect("PUT", "/nowhere", json!({}), 400, "Invalid request method and/or path");
    expect("PUT", "/actions", none.clone(), 400, "Empty PUT request");
    expect("GET", "/version", json!({}), 400, "cannot have a body");
    assert_eq!(vmm.ask("PUT", "/actions", "{").0, 400);
    let (status, answer) = vmm.ask("PUT", "/actions", &"x".repeat(60_000));
    assert!(status >= 400, "{status} {answer}");
    // What is not of the shape.
    expect("PUT", "/actions", json!({ "action_type": "Dance" }), 400, "Dance");
    expect("PUT", "/machine-config", json!({ "vcpu_count": 1 }), 400, "mem_size_mib");
    expect("PUT", "/machine-config", json!({ "vcpu_count": "1", "mem_size_mib": 128 }), 400, "deserializing");
    expect("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 128, "x": 1 }), 400, "unknown field `x`");
    expect("PUT", "/entropy", json!({ "x": 1 }), 400, "unknown field `x`");
    expect("PUT", "/balloon", json!({ "amount_mib": 10 }), 400, "deflate_on_oom");
    expect("PUT", "/logger", json!({ "level": "Loud" }), 400, "deserializing");
    expect("PATCH", "/vm", json!({ "state": "Asleep" }), 400, "Asleep");
    // What is out of range, or not there.
    for (vcpus, memory) in [(0, 128), (33, 128), (1, 0)] {
        expect("PUT", "/machine-config", json!({ "vcpu_count": vcpus, "mem_size_mib": memory }), 400, "");
    }
    expect("PUT", "/machine-config", json!({ "vcpu_count": 3, "mem_size_mib": 128, "smt": true }), 400, "even number");
    expect("PUT", "/boot-source", json!({ "kernel_image_path": "/nowhere" }), 400, "kernel file cannot be opened");
    expect(
        "PUT",
        "/boot-source",
        json!({ "kernel_image_path": file("vmlinux"), "initrd_path": "/nowhere" }),
        400,
        "initrd file cannot be opened",
    );
    expect(
        "PUT",
        "/boot-source",
        json!({ "kernel_image_path": file("vmlinux"), "boot_args": "x".repeat(3000) }),
        400,
        "command line is invalid",
    );
    expect("PUT", "/drives/disk-0", drive("disk-0", "base.ext4"), 400, "alphanumeric characters and underscores");
    expect("PUT", "/drives/disk0", drive("disk1", "base.ext4"), 400, "does not match");
    expect("PUT", "/drives/disk0", drive("disk0", "nowhere"), 400, "No such file");
    expect(
        "PUT",
        "/drives/disk0",
        json!({ "drive_id": "disk0", "is_root_device": false }),
        400,
        "Invalid block config",
    );
    expect("PUT", "/balloon", json!({ "amount_mib": 4000, "deflate_on_oom": true }), 400, "too large");
    let long = format!("/{}", "x".repeat(120));
    expect("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": long }), 400, "SUN_LEN");
    // What comes before its time.
    expect("PUT", "/actions", json!({ "action_type": "InstanceStart" }), 400, "without kernel configuration");
    for action in ["FlushMetrics", "SendCtrlAltDel"] {
        expect("PUT", "/actions", json!({ "action_type": action }), 400, before);
    }
    expect("PATCH", "/vm", json!({ "state": "Paused" }), 400, before);
    let create = json!({ "snapshot_path": file("state"), "mem_file_path": file("mem") });
    expect("PUT", "/snapshot/create", create.clone(), 400, before);
    // What is right.
    expect("GET", "/", none.clone(), 200, "Not started");
    expect("GET", "/version", none.clone(), 200, "firecracker_version");
    expect("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 128 }), 204, "");
    expect("PUT", "/drives/disk0", drive("disk0", "base.ext4"), 204, "");
    expect("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "strict-guest.sock" }), 204, "");
    expect("PUT", "/entropy", json!({}), 204, "");
    expect("PUT", "/metrics", json!({ "metrics_path": file("metrics") }), 204, "");
    expect("PUT", "/metrics", json!({ "metrics_path": file("metrics") }), 400, "Reinitialization");
    let load = json!({ "snapshot_path": file("state"), "mem_backend": { "backend_type": "File", "backend_path": file("mem") } });
    expect("PUT", "/snapshot/load", load.clone(), 400, "not allowed after configuring");
    // The kernel is looked at by the start.
    expect("PUT", "/boot-source", json!({ "kernel_image_path": file("initrd") }), 204, "");
    expect("PUT", "/actions", json!({ "action_type": "InstanceStart" }), 400, "Cannot load kernel");
    let Some(kernel) = kernel else { return };
    expect("PUT", "/boot-source", json!({ "kernel_image_path": kernel, "boot_args": "console=ttyS0" }), 204, "");
    expect("PUT", "/actions", json!({ "action_type": "InstanceStart" }), 204, "");
    // What comes after its time.
    for (path, body) in [
        ("/actions", json!({ "action_type": "InstanceStart" })),
        ("/entropy", json!({})),
        ("/boot-source", json!({ "kernel_image_path": file("vmlinux") })),
        ("/logger", json!({ "level": "Warning" })),
        ("/snapshot/load", load),
    ] {
        expect("PUT", path, body, 400, after);
    }
    // A disk could be plugged in, where there is PCI.
    expect("PUT", "/drives/disk0", drive("disk0", "base.ext4"), 400, "PCI is not enabled");
    // Only a machine that stands still is written down.
    expect("PUT", "/snapshot/create", create.clone(), 400, "save/restore unavailable while running");
    for _ in 0..2 {
        expect("PATCH", "/vm", json!({ "state": "Paused" }), 204, "");
    }
    expect("GET", "/", none, 200, "Paused");
    expect("PUT", "/snapshot/create", create, 204, "");
    expect("PATCH", "/vm", json!({ "state": "Resumed" }), 204, "");
    expect("PUT", "/actions", json!({ "action_type": "FlushMetrics" }), 204, "");
}

#[test]
fn the_stand_in_is_as_strict_as_firecracker() {
    let mut host = MachineHost::new("silent");
    // The description is stricter still, in other words.
    host.script.api = None;
    host.write_script();
    is_strict(&host.root().join("firecracker"), &host, Some(&host.root().join("vmlinux")));
}

#[test]
fn firecracker_is_as_strict_as_the_stand_in() {
    let skipped = |why: &str| eprintln!("skipped: firecracker_is_as_strict_as_the_stand_in: {why}");
    let Some(firecracker) = real_firecracker() else {
        return skipped("there is no firecracker in PATH, nor is one named by MICROAGENT_FIRECRACKER");
    };
    let host = MachineHost::real(&firecracker);
    let checks = host.supervisor().check(None, Duration::from_secs(60)).unwrap();
    match checks.iter().find(|check| check.status == microagent_supervisor_protocol::CheckStatus::Failed) {
        Some(check) => skipped(&check.message),
        None => is_strict(&firecracker, &host, real_kernel().as_deref()),
    }
}

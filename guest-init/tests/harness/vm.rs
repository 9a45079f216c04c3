//! One machine: QEMU, and the program that carries its vsock.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use microagent_guest_protocol::{CONTROL_PORT, LISTENING_LINE};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};

use super::Tools;

/// How long anything of a machine may take before a test gives up: emulation on a busy host is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Vm {
    qemu: Child,
    vsock: Child,
    directory: tempfile::TempDir,
    console: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Vm {
    /// Starts a machine, and returns when guest-init listens.
    pub(crate) fn boot(tools: &Tools, disks: &[(&Path, bool)]) -> Self {
        let (mut vm, lines) = Self::start(tools, &tools.initramfs, disks);
        loop {
            match lines.recv_timeout(LIMIT) {
                Ok(line) if line == LISTENING_LINE => return vm,
                Ok(_) => {}
                Err(_) => {
                    let _ = vm.qemu.kill();
                    panic!("guest-init does not listen; the console: {}", vm.console());
                }
            }
        }
    }

    /// Starts a machine; its console's lines come through the channel until it ends.
    pub(crate) fn start(tools: &Tools, initramfs: &Path, disks: &[(&Path, bool)]) -> (Self, mpsc::Receiver<String>) {
        let directory = tempfile::tempdir().unwrap();
        let vhost = directory.path().join("vhost");
        let vsock = Command::new(&tools.vsock)
            .args(["--guest-cid", "3", "--socket"])
            .arg(&vhost)
            .arg("--uds-path")
            .arg(directory.path().join("vsock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_file(&vhost);
        let mut qemu = Command::new(&tools.qemu);
        qemu.args(["-M", "microvm,acpi=on,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-m", "256"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.args(["-object", "memory-backend-memfd,id=mem,size=256M,share=on"]);
        qemu.arg("-kernel").arg(&tools.kernel).arg("-initrd").arg(initramfs);
        let khz = tsc_khz().map(|khz| format!(" tsc_early_khz={khz} no_timer_check")).unwrap_or_default();
        qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1{khz}")]);
        qemu.args(["-chardev", &format!("socket,id=vsock,path={}", vhost.display())]);
        qemu.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
        for (number, (disk, read_only)) in disks.iter().enumerate() {
            let read_only = if *read_only { "on" } else { "off" };
            let file = disk.display();
            qemu.args(["-drive", &format!("if=none,id=d{number},format=raw,readonly={read_only},file={file}")]);
            qemu.args(["-device", &format!("virtio-blk-device,drive=d{number}")]);
        }
        let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let console = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::channel();
        let mut output = BufReader::new(qemu.stdout.take().unwrap());
        let mut errors = qemu.stderr.take().unwrap();
        let log = Arc::clone(&console);
        let reader = std::thread::spawn(move || {
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                *log.lock().unwrap() += &format!("{text}\n");
                let _ = sender.send(text);
                line.clear();
            }
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            *log.lock().unwrap() += &text;
        });
        (Self { qemu, vsock, directory, console, reader: Some(reader) }, lines)
    }

    /// A new connection to guest-init's control port.
    pub(crate) fn connect(&self) -> UnixStream {
        let mut socket = UnixStream::connect(self.socket()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.write_all(format!("CONNECT {CONTROL_PORT}\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while answer.last() != Some(&b'\n') {
            socket.read_exact(&mut byte).unwrap_or_else(|e| panic!("no connection: {e}\n{}", self.console()));
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"OK "), "{}", String::from_utf8_lossy(&answer));
        socket
    }

    /// Waits for the power-off; the machine must have ended of itself and without an error.
    pub(crate) fn wait_until_off(&mut self) {
        // The console ends with QEMU.
        self.reader.take().unwrap().join().unwrap();
        let status = self.qemu.wait().unwrap();
        assert!(status.success(), "QEMU ended with {status}: {}", self.console());
        assert!(!self.console().contains("Kernel panic"), "{}", self.console());
    }

    pub(crate) fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        for child in [&mut self.qemu, &mut self.vsock] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Emulation shows the guest the host's counter: told its rate, the kernel need not measure it, which fails on a busy host.
fn tsc_khz() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mhz = info.lines().find(|l| l.starts_with("cpu MHz"))?.split(':').nth(1)?.trim().parse::<f64>().ok()?;
    Some((mhz * 1000.0) as u64)
}

fn wait_for_file(path: &Path) {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, path.parent().unwrap(), inotify::WatchFlags::CREATE).unwrap();
    while !path.exists() {
        let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
        assert!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)).unwrap() > 0, "{path:?} does not appear");
        rustix::io::read(&watch, &mut [0u8; 4096]).unwrap();
    }
}

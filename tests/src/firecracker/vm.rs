//! The machine behind the API: what was set, and what is allowed now.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::{
        fs::{FileExt, OpenOptionsExt},
        net::UnixStream,
    },
    process,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::Duration,
};

use rustix::fs::OFlags;
use serde_json::{Map, Value, json};

use super::{
    Fault, Script,
    http::Answer,
    inside,
    shapes::{self, When},
    vsock::{self, Device},
};

/// The longest command line, in bytes: the kernel's own bound on x86.
const MAX_COMMAND_LINE: usize = 2048;

/// The longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// How much memory a machine has that was not told otherwise, in MiB.
const DEFAULT_MEMORY: u64 = 128;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NotStarted,
    Running,
    Paused,
}

/// The machine.
pub(super) struct Vm {
    id: String,
    script: Script,
    state: State,
    /// The bodies of what was set, by path.
    set: BTreeMap<String, Map<String, Value>>,
    device: Arc<Device>,
    connections: Option<Receiver<UnixStream>>,
    logger: Option<File>,
    metrics: Option<File>,
    snapshots: u32,
    /// A snapshot told the guest that its connections are gone.
    reset: bool,
}

type Body = Map<String, Value>;

impl Vm {
    pub(super) fn new(id: &str, script: Script) -> Self {
        Self {
            id: id.to_owned(),
            script,
            state: State::NotStarted,
            set: BTreeMap::new(),
            device: Arc::default(),
            connections: None,
            logger: None,
            metrics: None,
            snapshots: 0,
            reset: false,
        }
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.script.fault
    }

    pub(super) fn carry_out(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        if method == "GET" {
            return if body.is_empty() { self.get(path) } else { Answer::fault("GET request cannot have a body.") };
        }
        let Some((resource, name)) = shapes::find(method, path) else {
            return Answer::fault(format!(
                "Invalid request method and/or path: {method} {}.",
                path.trim_start_matches('/')
            ));
        };
        if body.is_empty() {
            return Answer::fault(format!("Empty {method} request."));
        }
        if let Some(Err(why)) = name.map(shapes::check_name) {
            return Answer::fault(why);
        }
        let body = match resource.read(body) {
            Ok(body) => body,
            Err(why) => return Answer::fault(why),
        };
        if name.is_some_and(|name| !["drive_id", "iface_id"].iter().any(|id| body.get(*id) == Some(&json!(name)))) {
            return Answer::fault("The id from the path does not match the id from the body!");
        }
        let when = match text(&body, "action_type") {
            "InstanceStart" => When::Before,
            "" => resource.when,
            _ => When::After,
        };
        match (when, self.state) {
            // Devices could be plugged in, where there is PCI.
            (When::Before, State::Running | State::Paused) if name.is_some() => {
                return Answer::fault("PCI is not enabled");
            }
            (When::Before, State::Running | State::Paused) => {
                return Answer::fault("The requested operation is not supported after starting the microVM.");
            }
            (When::After, State::NotStarted) => {
                return Answer::fault("The requested operation is not supported before starting the microVM.");
            }
            _ => {}
        }
        match self.take(resource.path, path, body) {
            Ok(()) => Answer::done(),
            Err(why) => Answer::fault(why),
        }
    }

    fn get(&self, path: &str) -> Answer {
        match path {
            "/" => Answer::with(json!({
                "id": self.id,
                "state": match self.state {
                    State::NotStarted => "Not started",
                    State::Running => "Running",
                    State::Paused => "Paused",
                },
                "vmm_version": self.script.version,
                "app_name": "Firecracker",
            })),
            "/version" => Answer::with(json!({ "firecracker_version": self.script.version })),
            _ => Answer::fault(format!("Invalid request method and/or path: GET {}.", path.trim_start_matches('/'))),
        }
    }

    fn take(&mut self, resource: &str, path: &str, body: Body) -> Result<(), String> {
        match resource {
            "/logger" => {
                if body.contains_key("log_path") {
                    self.logger = Some(
                        open(text(&body, "log_path"))
                            .map_err(|e| format!("Logger error: Failed to open target file: {e}"))?,
                    );
                }
                return Ok(());
            }
            "/metrics" => {
                if self.metrics.is_some() {
                    return Err("Metrics error: Cannot initialize the metrics system due to bad user input: \
                                Reinitialization of metrics not allowed."
                        .to_owned());
                }
                self.metrics = Some(open(text(&body, "metrics_path")).map_err(|e| format!("Metrics error: {e}"))?);
                return Ok(());
            }
            "/actions" => return self.act(text(&body, "action_type")),
            "/vm" => {
                self.pause(text(&body, "state") == "Paused");
                return Ok(());
            }
            "/snapshot/create" => return self.save(&body),
            "/snapshot/load" => return self.restore(&body),
            "/machine-config" => {
                let odd = whole(&body, "vcpu_count") > 1 && whole(&body, "vcpu_count") % 2 == 1;
                if odd && body.get("smt") == Some(&json!(true)) {
                    return Err(
                        "Machine config error: The number of vCPUs must be 1 or an even number if SMT is enabled."
                            .to_owned(),
                    );
                }
            }
            "/boot-source" => check_boot_source(&body)?,
            "/drives/{drive_id}" => self.check_drive(path, &body)?,
            "/balloon" if whole(&body, "amount_mib") > self.memory() => {
                return Err("Balloon config error: Amount of pages requested is too large.".to_owned());
            }
            "/vsock" => self.bind(text(&body, "uds_path"))?,
            _ => {}
        }
        self.set.insert(path.to_owned(), body);
        Ok(())
    }

    fn memory(&self) -> u64 {
        self.set.get("/machine-config").map_or(DEFAULT_MEMORY, |body| whole(body, "mem_size_mib"))
    }

    fn check_drive(&self, path: &str, body: &Body) -> Result<(), String> {
        if self.script.fault == Some(Fault::DiesConfigured) {
            eprintln!("killed by a bad drive");
            process::exit(148);
        }
        let (Some(Value::String(file)), Some(Value::Bool(read_only)), false) =
            (body.get("path_on_host"), body.get("is_read_only"), body.contains_key("socket"))
        else {
            return Err(
                "Drive config error: Unable to create the virtio block device: Invalid block config.".to_owned()
            );
        };
        if body.get("is_root_device") == Some(&json!(true))
            && self.set.iter().any(|(other, body)| other != path && body.get("is_root_device") == Some(&json!(true)))
        {
            return Err("Drive config error: A root block device already exists!".to_owned());
        }
        OpenOptions::new().read(true).write(!read_only).open(inside(file)).map(drop).map_err(|e| {
            format!(
                "Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing \
                 file: {e} {file}"
            )
        })
    }

    fn bind(&mut self, path: &str) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| {
            format!(
                "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: {e}"
            )
        };
        if path.len() > MAX_SOCKET_PATH {
            return Err(failed(&"path must be shorter than SUN_LEN"));
        }
        self.connections = Some(self.device.bind(&inside(path)).map_err(|e| failed(&e))?);
        Ok(())
    }

    fn act(&mut self, action: &str) -> Result<(), String> {
        match action {
            "InstanceStart" => self.start(),
            "FlushMetrics" => {
                let Some(metrics) = &mut self.metrics else { return Err("Metrics error: not configured".to_owned()) };
                metrics.write_all(b"{\"utc_timestamp_ms\":1,\"vmm\":{\"panic_count\":0}}\n").map_err(|e| e.to_string())
            }
            _ => {
                // A guest whose guest-init still minds its signals.
                if self.script.guest == "deaf" {
                    thread::spawn(|| {
                        // A guest takes its time to shut down; the answer goes first.
                        thread::sleep(Duration::from_millis(50));
                        println!("[    9.999999] reboot: Restarting system\r");
                        process::exit(0);
                    });
                }
                Ok(())
            }
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let source = self
            .set
            .get("/boot-source")
            .ok_or("Start microvm error: Cannot start microvm without kernel configuration.")?;
        let mut magic = [0; 4];
        let kernel = File::open(inside(text(source, "kernel_image_path")))
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut magic));
        if kernel.is_err() || magic != *b"\x7fELF" || self.script.fault == Some(Fault::RefusesKernel) {
            return Err("Start microvm error: System configuration error: Cannot load kernel due to invalid memory configuration or \
                        invalid kernel image: Kernel Loader: failed to load ELF kernel image: Invalid ELF magic number"
                .to_owned());
        }
        self.log("the stand-in starts a guest that is a thread");
        self.state = State::Running;
        let connections =
            self.connections.take().ok_or("Start microvm error: the stand-in's guests need a vsock device.")?;
        vsock::boot(self.script.guest.clone(), &self.device, connections);
        Ok(())
    }

    fn pause(&mut self, paused: bool) {
        let was = std::mem::replace(&mut self.state, if paused { State::Paused } else { State::Running });
        self.device.pause(paused);
        // Before 1.17 a guest that ran on was never sent anything again.
        let old = ["1.15.", "1.16."].iter().any(|old| self.script.version.starts_with(old));
        if old && was == State::Paused && !paused && !std::mem::take(&mut self.reset) {
            self.device.fall_deaf();
        }
    }

    fn save(&mut self, body: &Body) -> Result<(), String> {
        if self.state != State::Paused {
            return Err("Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while \
                        running"
                .to_owned());
        }
        let failed = |e: &dyn std::fmt::Display| format!("Create snapshot error: Cannot write the memory file: {e}");
        let (state, memory) = (inside(text(body, "snapshot_path")), inside(text(body, "mem_file_path")));
        let file = File::create(&memory).map_err(|e| failed(&e))?;
        // The guest is told that its connections are gone before anything is written.
        self.reset = true;
        if self.script.fault == Some(Fault::FullDisk) {
            return Err(failed(&"No space left on device (os error 28)"));
        }
        file.set_len(self.memory() << 20).map_err(|e| failed(&e))?;
        // All of the memory, or the page that this snapshot alone wrote.
        let full = text(body, "snapshot_type") != "Diff";
        let page = self.snapshots % 32;
        self.snapshots += 1;
        let pages = if full { 0..32 } else { page..page + 1 };
        for page in pages {
            let byte = if full { 1 } else { u8::try_from(page + 1).unwrap_or(0) };
            file.write_all_at(&[byte; 4096], u64::from(page) * (1 << 20)).map_err(|e| failed(&e))?;
        }
        let saved = json!({ "version": self.script.version, "guest": self.script.guest, "set": self.set });
        std::fs::write(state, saved.to_string()).map_err(|e| failed(&e))
    }

    fn restore(&mut self, body: &Body) -> Result<(), String> {
        if !self.set.is_empty() {
            return Err("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.".to_owned());
        }
        if let Err(why) = self.load(body) {
            // What failed half-way is of no further use; the answer goes first.
            eprintln!("Failed to load the snapshot: {why}");
            thread::spawn(|| {
                thread::sleep(Duration::from_millis(50));
                process::exit(1);
            });
            return Err(format!("Load snapshot error: Failed to restore from snapshot: {why}"));
        }
        self.state = State::Paused;
        self.reset = true;
        self.device.pause(true);
        if body.get("resume_vm") == Some(&json!(true)) {
            self.state = State::Running;
            self.device.pause(false);
        }
        Ok(())
    }

    fn load(&mut self, body: &Body) -> Result<(), String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let bytes = std::fs::read(inside(text(body, "snapshot_path"))).map_err(|e| told(&e))?;
        let saved: Value = serde_json::from_slice(&bytes).map_err(|e| told(&e))?;
        let set: BTreeMap<String, Body> = serde_json::from_value(saved["set"].clone()).map_err(|e| told(&e))?;
        self.set = set;
        let backend = body.get("mem_backend").and_then(Value::as_object).cloned().unwrap_or_default();
        let length = std::fs::metadata(inside(text(&backend, "backend_path"))).map_err(|e| told(&e))?.len();
        if length != self.memory() << 20 {
            return Err("the memory file is not of the machine's size".to_owned());
        }
        let set = self.set.clone();
        for (path, body) in set.iter().filter(|(path, _)| path.starts_with("/drives/")) {
            self.check_drive(path, body)?;
        }
        let socket = set.get("/vsock").map(|body| text(body, "uds_path").to_owned()).unwrap_or_default();
        self.bind(&socket)?;
        let connections = self.connections.take().ok_or("there is no vsock device")?;
        vsock::go_on(saved["guest"].as_str().unwrap_or_default().to_owned(), &self.device, connections);
        Ok(())
    }

    fn log(&mut self, line: &str) {
        if let Some(logger) = &mut self.logger {
            let _ = logger.write_all(format!("[{}:main:WARN] {line}\n", self.id).as_bytes());
        }
    }
}

fn check_boot_source(body: &Body) -> Result<(), String> {
    let open = |path: &str| File::open(inside(path)).map(drop);
    open(text(body, "kernel_image_path"))
        .map_err(|e| format!("Boot source error: The kernel file cannot be opened: {e}"))?;
    if body.contains_key("initrd_path") {
        open(text(body, "initrd_path")).map_err(|e| {
            format!(
                "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. {e}"
            )
        })?;
    }
    let line = text(body, "boot_args");
    if line.len() >= MAX_COMMAND_LINE || !line.is_ascii() {
        return Err(
            "Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.".to_owned()
        );
    }
    Ok(())
}

/// A file or a named pipe, opened as Firecracker opens it.
fn open(path: &str) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().custom_flags(flags).create(true).read(true).append(true).open(inside(path))
}

fn text<'a>(body: &'a Body, name: &str) -> &'a str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn whole(body: &Body, name: &str) -> u64 {
    body.get(name).and_then(Value::as_u64).unwrap_or_default()
}

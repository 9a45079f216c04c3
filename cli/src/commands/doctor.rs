//! `microagent doctor`

use std::{
    env,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use microagent_kernel::KernelStore;
use microagent_rootfs::EmptyOptions;
use microagent_supervisor_protocol::{Capabilities, Check, CheckStatus, Features, Supervisor, Verb};
use rustix::fs::{Access, access, statvfs};
use serde_json::json;

use crate::{
    context::Context,
    failure::{FAILED, Result},
    output::{self, Format, OutputArgs, human, table::Table},
};

/// The check of the controller.
const CONTROLLER: &str = "Controller";
/// How long a supervisor may look at the host: it may create a virtual machine to see whether that works.
const DEADLINE: Duration = Duration::from_secs(30);
/// With less free space a first image, its root disk and a kernel do not fit.
const SCARCE: u64 = 2 << 30;
/// The size of the disk that is made for a trial, in bytes.
const TRIAL_DISK: u64 = 64 << 20;
/// With less free space nothing can be written with confidence.
const NONE_LEFT: u64 = 64 << 20;
/// Longer messages are cut in the table: with the columns before it, this still fits in two lines of most terminals.
const LONG: usize = 120;

/// Check what this host has for running workspaces
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 1 when no machine can be started.")]
pub(crate) struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let (context, verbose) = (context.clone(), context.verbose > 0);
    let report = tokio::task::spawn_blocking(move || examine(&context)).await?;
    let text = match output::structured(args.output.output, &json!({ "ok": report.able(), "checks": report.checks }))? {
        Some(text) => text,
        None if args.output.output == Format::Name => report.checks.iter().map(|c| format!("{}\n", c.name)).collect(),
        None => report.text(verbose),
    };
    output::print(&text)?;
    Ok(if report.able() { 0 } else { FAILED })
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    checks: Vec<Check>,
    backends: Vec<String>,
    /// Whether a controller is up. That none is, is neither good nor bad.
    controller: bool,
}

impl Report {
    /// Whether a machine can be started.
    fn able(&self) -> bool {
        !self.backends.is_empty() && self.checks.iter().all(|c| c.status != CheckStatus::Failed)
    }

    fn text(&self, verbose: bool) -> String {
        let mut table = Table::new(&["CHECK", "STATUS", "FOUND"]);
        let mut is_cut = false;
        for check in &self.checks {
            let status = if check.name == CONTROLLER && !self.controller { "none" } else { word(check.status) };
            let whole = human::one_line(&check.message);
            let found = if verbose { whole.clone() } else { first_clause(&whole) };
            is_cut |= found != whole;
            table.row([check.name.clone(), status.to_owned(), found]);
        }
        let mut text = table.render("");
        if is_cut {
            text.push_str("\n`microagent doctor -v` tells in full what ends with … here.\n");
        }
        let helps: Vec<_> = self
            .checks
            .iter()
            .filter(|c| c.status != CheckStatus::Ok)
            .filter_map(|c| Some(format!("  {}: {}\n", c.name, human::lines(c.remediation.as_deref()?))))
            .collect();
        if !helps.is_empty() {
            text.push_str(&format!("\nWhat to do:\n{}", helps.concat()));
        }
        text.push_str(&match (self.able(), self.backends.join(", ")) {
            (true, backends) => format!("\nMachines can be started here, with {backends}.\n"),
            (false, _) => "\nNo machine can be started here.\n".to_owned(),
        });
        text
    }
}

/// A long message up to its first colon or semicolon that ends a clause; a short one as it is.
fn first_clause(message: &str) -> String {
    if message.chars().count() <= LONG {
        return message.to_owned();
    }
    let end = message.find("; ").into_iter().chain(message.find(": ")).min();
    let clause = end.map_or(message, |end| &message[..end]);
    format!("{} …", clause.chars().take(LONG).collect::<String>())
}

fn word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok",
        CheckStatus::Warning => "warning",
        CheckStatus::Failed => "failed",
    }
}

fn check(name: &str, status: CheckStatus, message: impl Into<String>, remediation: Option<&str>) -> Check {
    Check { name: name.to_owned(), status, message: message.into(), remediation: remediation.map(str::to_owned) }
}

fn examine(context: &Context) -> Report {
    let mut report = Report::default();
    let paths = &context.paths;
    report.checks.push(directory("StateDirectory", &paths.state));
    report.checks.push(directory("CacheDirectory", &paths.cache));
    report.checks.push(disk(&paths.state));
    let controller = context.controller();
    report.controller = controller.is_some();
    report.checks.push(match controller {
        Some(0) => check(CONTROLLER, CheckStatus::Ok, "one is up", None),
        Some(pid) => check(CONTROLLER, CheckStatus::Ok, format!("one is up (process {pid})"), None),
        None => check(CONTROLLER, CheckStatus::Ok, "none is up; `microagent up` starts one", None),
    });
    report.checks.push(guest_init());
    report.checks.push(kernel(&paths.kernels(), tool("apt-get")));
    let backends: &[&str] = if cfg!(target_os = "macos") { &["AppleVf", "Qemu"] } else { &["Firecracker", "Qemu"] };
    let looked: Vec<_> = backends.iter().map(|name| backend(name)).collect();
    report.backends =
        looked.iter().zip(backends).filter(|((_, able), _)| *able).map(|(_, name)| (*name).to_owned()).collect();
    for (mut checks, able) in looked {
        // Where another backend works, what this one lacks keeps no machine from starting.
        if !able && !report.backends.is_empty() {
            for check in checks.iter_mut().filter(|c| c.status == CheckStatus::Failed) {
                check.status = CheckStatus::Warning;
            }
        }
        report.checks.extend(checks);
    }
    report
}

/// Whether a directory, or what it will be made in, can be written to and has room.
fn directory(name: &str, dir: &Path) -> Check {
    let there = dir.ancestors().find(|d| d.is_dir()).unwrap_or(Path::new("/"));
    if let Err(e) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        let message = format!("{} cannot be written to: {e}", there.display());
        return check(
            name,
            CheckStatus::Failed,
            message,
            Some("make it writable for this user, or name another directory"),
        );
    }
    let free = match statvfs(there) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(e) => return check(name, CheckStatus::Warning, format!("{}: {e}", there.display()), None),
    };
    let message = format!("{}, {} free", dir.display(), human::bytes(free));
    match free {
        0..NONE_LEFT => check(name, CheckStatus::Failed, message, Some("free space on its file system")),
        NONE_LEFT..SCARCE => {
            check(name, CheckStatus::Warning, message, Some("free space on its file system; images are large"))
        }
        _ => check(name, CheckStatus::Ok, message, None),
    }
}

/// Makes a disk where those of workspaces will be, and takes it away again.
fn disk(dir: &Path) -> Check {
    let there = dir.ancestors().find(|d| d.is_dir()).unwrap_or(Path::new("/"));
    let made = tempfile::tempfile_in(there).map_err(|e| e.to_string()).and_then(|file| {
        let formatted = microagent_rootfs::format(&file, TRIAL_DISK, &EmptyOptions::default());
        formatted.map_err(|e| e.to_string()).and_then(|()| file.metadata().map_err(|e| e.to_string()))
    });
    match made {
        Ok(meta) if meta.blocks() * 512 < TRIAL_DISK / 2 => {
            let (size, used) = (human::bytes(TRIAL_DISK), human::bytes(meta.blocks() * 512));
            check("Disk", CheckStatus::Ok, format!("a disk of {size} takes {used} in {}", there.display()), None)
        }
        Ok(_) => check(
            "Disk",
            CheckStatus::Warning,
            format!("files in {} have no holes: each disk takes its whole size", there.display()),
            Some("keep the state directory on a file system with sparse files, such as ext4, XFS or Btrfs"),
        ),
        Err(why) => check(
            "Disk",
            CheckStatus::Failed,
            format!("no disk can be made in {}: {why}", there.display()),
            Some("make the directory writable for this user, or name another state directory"),
        ),
    }
}

/// Looks where the controller looks.
fn guest_init() -> Check {
    match microagent_controller::find_guest_init() {
        Ok(path) => check("GuestInit", CheckStatus::Ok, path.display().to_string(), None),
        Err(fault) => check("GuestInit", CheckStatus::Failed, fault.message, None),
    }
}

/// A kernel is installed, or can be.
fn kernel(dir: &Path, packages: Option<PathBuf>) -> Check {
    // A look must not make the store.
    let installed = if dir.is_dir() { KernelStore::open(dir).and_then(|store| store.list()) } else { Ok(Vec::new()) };
    match (installed, packages) {
        (Ok(kernels), _) if !kernels.is_empty() => {
            let versions: Vec<_> = kernels.iter().map(|k| k.version.as_str()).collect();
            check("Kernel", CheckStatus::Ok, versions.join(", "), None)
        }
        (Ok(_), Some(tool)) => check(
            "Kernel",
            CheckStatus::Ok,
            format!("none installed yet; {} gets one when needed", tool.display()),
            None,
        ),
        (Ok(_), None) => check(
            "Kernel",
            CheckStatus::Failed,
            "none is installed, and there is no package manager that is known",
            Some("install one with `microagent kernel install /path/of/vmlinuz --modules /lib/modules/VERSION`"),
        ),
        (Err(e), _) => check("Kernel", CheckStatus::Failed, e.to_string(), None),
    }
}

/// What a backend's supervisor says, and whether machines can be started with it.
fn backend(name: &str) -> (Vec<Check>, bool) {
    let supervisor = match Supervisor::find(name) {
        Ok(supervisor) => supervisor,
        Err(e) => return (vec![check(name, CheckStatus::Failed, e.to_string(), None)], false),
    };
    let capabilities = match supervisor.capabilities(DEADLINE) {
        Ok(capabilities) => capabilities,
        Err(e) => return (vec![check(name, CheckStatus::Failed, e.to_string(), None)], false),
    };
    let (mut checks, starts) = (vec![summary(name, &capabilities)], can_start(&capabilities));
    if starts {
        checks.push(check(&format!("{name}/Features"), CheckStatus::Ok, features(&capabilities), None));
    }
    match supervisor.check(None, DEADLINE) {
        Ok(found) => {
            for found in found {
                // A backend that is not built yet says about itself what the summary says.
                match checks.first_mut().filter(|_| found.name == name) {
                    Some(summary) => *summary = found,
                    None => checks.push(Check { name: format!("{name}/{}", found.name), ..found }),
                }
            }
        }
        Err(e) => checks.push(check(&format!("{name}/Check"), CheckStatus::Failed, e.to_string(), None)),
    }
    let able = starts && checks.iter().all(|c| c.status != CheckStatus::Failed);
    (checks, able)
}

fn can_start(capabilities: &Capabilities) -> bool {
    capabilities.verbs.contains(&Verb::Start) && !capabilities.accelerators.is_empty()
}

fn summary(name: &str, capabilities: &Capabilities) -> Check {
    let vmm = capabilities.vmm.as_deref().unwrap_or("no VMM found");
    let accelerators: Vec<_> = capabilities.accelerators.iter().map(|a| format!("{a:?}").to_lowercase()).collect();
    let with = if accelerators.is_empty() { String::new() } else { format!(", {}", accelerators.join(", ")) };
    let why = capabilities.accelerator_reason.as_ref().map(|r| format!("; {r}")).unwrap_or_default();
    let status = if can_start(capabilities) { CheckStatus::Ok } else { CheckStatus::Failed };
    check(name, status, format!("{vmm}{with}{why}"), None)
}

/// What machines of a backend can do beyond the least.
fn features(capabilities: &Capabilities) -> String {
    let Features { kernel_formats: _, vsock, snapshots, memory_hotplug, network_modes } = &capabilities.features;
    let more = Verb::ALL.iter().filter(|verb| !Verb::REQUIRED.contains(verb) && capabilities.verbs.contains(verb));
    let mut parts: Vec<String> = more.map(|verb| verb.as_str().to_owned()).collect();
    parts.extend(snapshots.iter().map(|kind| format!("{kind:?} snapshots").to_lowercase()));
    parts.extend(vsock.map(|by| format!("vsock by {by:?}").to_lowercase()));
    parts.extend(network_modes.iter().map(|mode| format!("{mode:?} network").to_lowercase()));
    parts.extend(memory_hotplug.then(|| "memory hot-plug".to_owned()));
    parts.push(format!("up to {} CPUs", capabilities.max_vcpus));
    parts.join(", ")
}

/// A program of `PATH`.
fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use microagent_supervisor_protocol::Accelerator;

    use super::*;

    fn report(status: CheckStatus, backends: &[&str]) -> Report {
        Report {
            checks: vec![
                check("StateDirectory", CheckStatus::Ok, "/s, 10.0 GiB free", None),
                check(CONTROLLER, CheckStatus::Ok, "none is up", None),
                check("Qemu/Kvm", status, "no /dev/kvm", Some("load the module kvm_intel or kvm_amd")),
            ],
            backends: backends.iter().map(|&b| b.to_owned()).collect(),
            controller: false,
        }
    }

    #[test]
    fn the_table_tells_what_to_do() {
        insta::assert_snapshot!(report(CheckStatus::Warning, &["Qemu"]).text(false), @r"
        CHECK            STATUS    FOUND
        StateDirectory   ok        /s, 10.0 GiB free
        Controller       none      none is up
        Qemu/Kvm         warning   no /dev/kvm

        What to do:
          Qemu/Kvm: load the module kvm_intel or kvm_amd

        Machines can be started here, with Qemu.
        ");
    }

    #[test]
    fn a_long_message_is_cut_after_its_first_clause_unless_all_is_asked_for() {
        let long = format!("KVM does not run guests: {}", "the VMM ended\n".repeat(20));
        let report = Report { checks: vec![check("Qemu/Kvm", CheckStatus::Ok, long, None)], ..Report::default() };
        assert!(report.text(false).contains("KVM does not run guests …\n"), "{}", report.text(false));
        assert!(report.text(false).contains("doctor -v"));
        let whole = report.text(true);
        assert!(whole.matches("the VMM ended").count() == 20 && !whole.contains('…'), "{whole}");
        assert_eq!(first_clause("/usr/bin/qemu: 7.2; fine"), "/usr/bin/qemu: 7.2; fine");
    }

    #[test]
    fn no_machine_starts_without_a_backend_or_with_a_failed_check() {
        assert!(report(CheckStatus::Warning, &["Qemu"]).able());
        assert!(!report(CheckStatus::Failed, &["Qemu"]).able());
        assert!(!report(CheckStatus::Ok, &[]).able());
    }

    #[test]
    fn a_supervisor_that_cannot_start_is_no_backend() {
        let capabilities = |verbs: &[Verb], accelerators: &[Accelerator]| Capabilities {
            backend: "Qemu".to_owned(),
            version: "1".to_owned(),
            vmm: Some("QEMU 7.2".to_owned()),
            verbs: verbs.to_vec(),
            accelerators: accelerators.to_vec(),
            accelerator_reason: None,
            kernel_format: None,
            max_vcpus: 1,
            features: Features::default(),
        };
        assert!(can_start(&capabilities(&[Verb::Start], &[Accelerator::Tcg])));
        assert!(!can_start(&capabilities(&[Verb::Start], &[])));
        assert!(!can_start(&capabilities(&[Verb::Check], &[Accelerator::Tcg])));
        assert_eq!(summary("Qemu", &capabilities(&[Verb::Start], &[Accelerator::Tcg])).message, "QEMU 7.2, tcg");
        let able = capabilities(&[Verb::Start, Verb::Pause, Verb::Gc], &[Accelerator::Tcg]);
        assert_eq!(features(&able), "pause, gc, up to 1 CPUs");
    }

    #[test]
    fn a_kernel_is_there_or_can_be_had() {
        let nowhere = Path::new("/nonexistent/kernels");
        assert_eq!(kernel(nowhere, Some("/usr/bin/apt-get".into())).status, CheckStatus::Ok);
        assert_eq!(kernel(nowhere, None).status, CheckStatus::Failed);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_counts_as_what_it_will_be_in() {
        let dir = tempfile::tempdir().unwrap();
        let found = directory("StateDirectory", &dir.path().join("a/b"));
        assert_ne!(found.status, CheckStatus::Failed, "{found:?}");
    }

    #[test]
    fn a_disk_is_made_for_a_trial_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = disk(&dir.path().join("not/yet"));
        assert_eq!(found.status, CheckStatus::Ok, "{found:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(disk(Path::new("/proc")).status, CheckStatus::Failed);
    }
}

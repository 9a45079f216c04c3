//! What the guest is told: the spec and the image's own configuration joined as in a Pod. Pure.

use microagent_crds::{EnvVar, HealthSpec, WorkspaceSpec};
use microagent_guest_protocol as guest;
use microagent_images::ImageConfig;

use crate::{Record, memory::Fault};

/// Disk 0 is the baseline, disk 1 the overlay, the workspace's own follow in the order of the spec.
const BASELINE: u32 = 0;
const OVERLAY: u32 = 1;
const FIRST_OWN: u32 = 2;

/// The configuration of one boot, with the values of the spec's secrets. The shim puts the time in when it sends it.
pub(super) fn config(
    record: &Record,
    image: &ImageConfig,
    boot_id: &str,
    secrets: Vec<guest::Secret>,
) -> Result<guest::Config, Fault> {
    let spec = &record.workspace.spec;
    Ok(guest::Config {
        version: guest::VERSION,
        boot_id: boot_id.to_owned(),
        hostname: record.key.name.clone(),
        realtime_ns: 0,
        root: guest::Root { baseline: BASELINE, overlay: Some(OVERLAY) },
        mounts: (FIRST_OWN..)
            .zip(&spec.disks)
            .map(|(disk, own)| guest::Mount { disk, path: own.mount_path.clone(), read_only: own.read_only })
            .collect(),
        files: spec
            .files
            .iter()
            .map(|file| guest::File {
                path: file.path.clone(),
                content: file.content.clone().unwrap_or_default().into_bytes(),
                mode: file.mode_bits(),
                owner: Some(file.owner.clone()),
            })
            .collect(),
        secrets,
        setup: spec.setup.iter().map(|step| guest::SetupStep { run: step.run.clone() }).collect(),
        workload: process(spec, image)?,
        grace_seconds: spec.lifecycle.termination_grace_period_seconds,
        health: spec.health.as_ref().and_then(health),
        outputs: spec
            .outputs
            .iter()
            .map(|output| guest::Output { name: output.name.clone(), path: output.path.clone() })
            .collect(),
    })
}

/// The probe of the spec; none where it has none of the three kinds, which the manifest's rules refuse.
fn health(spec: &HealthSpec) -> Option<guest::Health> {
    let probe = match spec {
        HealthSpec { exec: Some(exec), .. } => guest::Probe::Exec { command: exec.command.clone() },
        HealthSpec { http_get: Some(get), .. } => guest::Probe::HttpGet {
            host: get.host.clone(),
            port: get.port,
            path: get.path.clone(),
            headers: get.http_headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
        },
        HealthSpec { tcp_socket: Some(socket), .. } => {
            guest::Probe::TcpSocket { host: socket.host.clone(), port: socket.port }
        }
        _ => return None,
    };
    Some(guest::Health {
        probe,
        initial_delay_seconds: spec.initial_delay_seconds,
        period_seconds: spec.period_seconds,
        timeout_seconds: spec.timeout_seconds,
        success_threshold: spec.success_threshold,
        failure_threshold: spec.failure_threshold,
    })
}

/// `command` replaces the image's Entrypoint and, with it, its Cmd; `args` replaces Cmd alone.
fn process(spec: &WorkspaceSpec, image: &ImageConfig) -> Result<guest::Process, Fault> {
    let argv: Vec<String> = match (spec.command.is_empty(), spec.args.is_empty()) {
        (false, _) => spec.command.iter().chain(&spec.args).cloned().collect(),
        (true, false) => image.entrypoint.iter().chain(&spec.args).cloned().collect(),
        (true, true) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if argv.is_empty() {
        return Err(Fault {
            code: "WorkloadNotFound".to_owned(),
            message: format!(
                "neither spec.command nor spec.args is set, and the image {} has no Entrypoint and no Cmd: nothing says what to \
                 run; set spec.command",
                spec.image
            ),
            retryable: false,
        });
    }
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(guest::Process {
        argv,
        env: environment(&image.env, &spec.env),
        working_dir: spec.working_dir.clone().or_else(|| given(&image.working_dir)),
        user: spec.user.clone().or_else(|| given(&image.user)),
    })
}

/// The image's variables, each replaced by the spec's of the same name; then the spec's others.
fn environment(image: &[String], spec: &[EnvVar]) -> Vec<guest::EnvVar> {
    let own = |name: &str| spec.iter().any(|variable| variable.name == name);
    image
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| !name.is_empty() && !own(name))
        .map(|(name, value)| guest::EnvVar { name: name.to_owned(), value: value.to_owned() })
        .chain(spec.iter().map(|v| guest::EnvVar { name: v.name.clone(), value: v.value.clone() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["default".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "A=image".to_owned()],
            user: "app".to_owned(),
            ..ImageConfig::default()
        }
    }

    fn argv(command: &[&str], args: &[&str]) -> Vec<String> {
        let mut spec = WorkspaceSpec::new("image");
        spec.command = command.iter().map(ToString::to_string).collect();
        spec.args = args.iter().map(ToString::to_string).collect();
        process(&spec, &image()).unwrap().argv
    }

    #[test]
    fn command_and_args_override_entrypoint_and_cmd_as_in_a_pod() {
        assert_eq!(argv(&[], &[]), ["/entry", "default"]);
        assert_eq!(argv(&[], &["a"]), ["/entry", "a"]);
        assert_eq!(argv(&["/c"], &[]), ["/c"]);
        assert_eq!(argv(&["/c"], &["a"]), ["/c", "a"]);
    }

    #[test]
    fn the_specs_variables_replace_the_images_and_its_user_holds_where_the_spec_names_none() {
        let mut spec = WorkspaceSpec::new("image");
        spec.env = vec![EnvVar { name: "A".to_owned(), value: "spec".to_owned() }];
        let process = process(&spec, &image()).unwrap();
        let env: Vec<_> = process.env.iter().map(|v| format!("{}={}", v.name, v.value)).collect();
        assert_eq!(env, ["PATH=/bin", "A=spec"]);
        assert_eq!(process.user.as_deref(), Some("app"));
    }

    #[test]
    fn a_probe_reaches_the_guest_with_all_its_numbers() {
        for (given, expected) in [
            (r#"{"exec": {"command": ["a", "b"]}}"#, guest::Probe::Exec { command: vec!["a".into(), "b".into()] }),
            (
                r#"{"httpGet": {"port": 80, "path": "/x", "httpHeaders": [{"name": "A", "value": "b"}]}}"#,
                guest::Probe::HttpGet {
                    host: None,
                    port: 80,
                    path: "/x".into(),
                    headers: vec![("A".into(), "b".into())],
                },
            ),
            (
                r#"{"tcpSocket": {"port": 1, "host": "::1"}}"#,
                guest::Probe::TcpSocket { host: Some("::1".into()), port: 1 },
            ),
        ] {
            let mut spec: HealthSpec = serde_json::from_str(given).unwrap();
            spec.initial_delay_seconds = 2;
            spec.failure_threshold = 5;
            let told = health(&spec).unwrap();
            assert_eq!(told.probe, expected);
            let numbers = (told.initial_delay_seconds, told.period_seconds, told.timeout_seconds);
            assert_eq!((numbers, told.success_threshold, told.failure_threshold), ((2, 10, 1), 1, 5));
        }
    }

    #[test]
    fn an_image_with_nothing_to_run_is_a_fault_that_says_what_to_set() {
        let fault = process(&WorkspaceSpec::new("image"), &ImageConfig::default()).unwrap_err();
        assert_eq!(fault.code, "WorkloadNotFound");
        assert!(fault.message.contains("spec.command"));
    }
}

//! From the options of `run` to the workspace that they declare.

use std::path::{Path, PathBuf};

use microagent_controller::Key;
use microagent_crds::Workspace;
use serde_json::{Value, json};

use super::Args;
use crate::{
    commands::exec::environment,
    failure::{Failure, Result},
};

/// The workspace that the command line declares, checked as a manifest is.
pub(super) fn workspace(key: &Key, args: &Args) -> Result<Workspace> {
    let manifest = manifest(key, args)?;
    let parsed = microagent_crds::parse(&manifest.to_string(), "the command line");
    match parsed.into_iter().next() {
        Some(Ok(workspace)) => Ok(workspace),
        Some(Err(e)) => {
            let failure = Failure::usage(format!("{}: {}", e.path, e.message));
            Err(match e.hint {
                Some(hint) => failure.help(hint),
                None => failure,
            })
        }
        None => Err(Failure::usage("the command line declares no workspace")),
    }
}

fn manifest(key: &Key, args: &Args) -> Result<Value> {
    let mut spec = json!({ "image": absolute_image(&args.image)?, "runPolicy": "Once" });
    let mut set = |field: &str, value: Value| spec[field] = value;
    if !args.command.is_empty() {
        set("args", json!(args.command));
    }
    if let Some(program) = &args.entrypoint {
        set("command", json!([program]));
    }
    let env = environment(&args.env);
    if !env.is_empty() {
        set("env", serde_json::to_value(env)?);
    }
    if !args.setup.is_empty() {
        set("setup", args.setup.iter().map(|run| json!({ "run": run })).collect());
    }
    if let Some(pull) = args.pull {
        set("imagePullPolicy", json!(pull.policy()));
    }
    for (field, value) in [("workingDir", &args.workdir), ("user", &args.user)] {
        if let Some(value) = value {
            set(field, json!(value));
        }
    }
    if let Some(kernel) = &args.kernel {
        set(
            "kernel",
            match kernel.as_str() {
                "default" | "package" => json!({ "source": kernel }),
                path => json!({ "source": "path", "path": absolute(Path::new(path))? }),
            },
        );
    }
    let mut resources = json!({});
    for (field, value) in [("cpus", &args.cpus), ("memory", &args.memory), ("disk", &args.disk)] {
        if let Some(value) = value {
            resources[field] = json!(value);
        }
    }
    set("resources", resources);
    Ok(json!({
        "apiVersion": "microagent.dev/v1alpha1",
        "kind": "Workspace",
        "metadata": { "name": key.name, "namespace": key.namespace },
        "spec": spec,
    }))
}

/// A path on the command line is below our working directory; the controller has another.
fn absolute_image(image: &str) -> Result<String> {
    match image.split_once(':') {
        Some((transport @ ("oci-layout" | "oci-archive" | "docker-archive"), path)) => {
            Ok(format!("{transport}:{}", absolute(Path::new(path))?.display()))
        }
        _ => Ok(image.to_owned()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use microagent_crds::RunPolicy;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &[&str]) -> Args {
        let line = ["microagent", "run"].iter().chain(line);
        match Cli::parse_from(line).command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn key() -> Key {
        Key::new("default", "run-a")
    }

    #[test]
    fn every_option_becomes_a_field() {
        let args = args(&[
            "--cpus",
            "2",
            "--memory",
            "1Gi",
            "--disk",
            "4Gi",
            "-e",
            "A=b",
            "-w",
            "/src",
            "-u",
            "1000:1000",
            "--setup",
            "echo hi",
            "--kernel",
            "package",
            "--pull",
            "never",
            "--entrypoint",
            "/bin/sh",
            "alpine:3.22",
            "--",
            "-c",
            "exit 7",
        ]);
        let spec = serde_json::to_value(workspace(&key(), &args).unwrap().spec).unwrap();
        assert_eq!(spec["command"], json!(["/bin/sh"]));
        assert_eq!(spec["args"], json!(["-c", "exit 7"]));
        assert_eq!(spec["env"], json!([{"name": "A", "value": "b"}]));
        assert_eq!(spec["setup"], json!([{"run": "echo hi"}]));
        assert_eq!(spec["workingDir"], "/src");
        assert_eq!(spec["user"], "1000:1000");
        assert_eq!(spec["kernel"]["source"], "package");
        assert_eq!(spec["imagePullPolicy"], "Never");
        assert_eq!(spec["resources"]["memory"], "1Gi");
        assert_eq!(spec["runPolicy"], "Once");
    }

    #[test]
    fn an_image_by_itself_runs_as_it_says() {
        let workspace = workspace(&key(), &args(&["alpine"])).unwrap();
        assert_eq!(workspace.spec.run_policy, RunPolicy::Once);
        assert!(workspace.spec.args.is_empty() && workspace.spec.command.is_empty());
    }

    #[test]
    fn paths_are_made_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute_image("oci-layout:img:v1").unwrap(), format!("oci-layout:{}/img:v1", here.display()));
        assert_eq!(absolute_image("localhost:5000/a").unwrap(), "localhost:5000/a");
    }

    #[test]
    fn a_wrong_option_is_wrong_usage_and_names_the_field() {
        let failure = workspace(&key(), &args(&["--memory", "lots", "alpine"])).unwrap_err();
        assert!(failure.to_string().contains("memory"), "{failure}");
        assert_eq!(failure.report(), crate::failure::USAGE);
    }
}

//! A strict stand-in for Firecracker, for hosts that have none, or no KVM that runs guests.
//!
//! It takes Firecracker's arguments, serves its API on a Unix socket, and refuses what Firecracker refuses: other fields than those of
//! the documentation, values out of range, what comes before or after its time, requests that are too large. Its guest is a thread
//! that speaks guest-init's protocol ([`crate::guest`]) through a vsock socket with Firecracker's handshake. Called as `jailer` it takes
//! the jailer's arguments, changes to the jail's directory and user, and becomes the VMM.
//!
//! The shapes are written from Firecracker's documentation. Where its own API description is at hand (see [`API_VARIABLE`]) every
//! request is held against that as well.
//!
//! Beside the executable stands `script.json`, a [`Script`]: how it behaves. It writes each request that it was asked to
//! `requests.jsonl`, there or in its jail.

mod args;
mod host;
mod http;
mod jailer;
mod openapi;
mod server;
mod shapes;
mod vm;
mod vsock;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use host::{JAIL_FILES, MachineHost, SECRET, real_firecracker, real_kernel};
pub use openapi::Description;
pub use shapes::RESOURCES;

/// Names the file with Firecracker's API description. Without it `../shared/firecracker/openapi.yaml`, seen from the workspace's
/// directory, is taken where it is there.
pub const API_VARIABLE: &str = "MICROAGENT_FIRECRACKER_API";

/// Names the directory that a jailed stand-in sees as its root. The stand-in is no static program, and stays outside.
const ROOT_VARIABLE: &str = "MICROAGENT_FAKE_ROOT";
/// The script, for a stand-in that may no longer read the file.
const SCRIPT_VARIABLE: &str = "MICROAGENT_FAKE_SCRIPT";

/// The name of the file with what was asked.
pub const REQUESTS: &str = "requests.jsonl";

/// How the stand-in behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Script {
    /// What becomes of the guest: see [`crate::guest`]; `dead-kernel` prints a few lines and a panic, `silent` nothing.
    pub guest: String,
    /// The version that it says.
    pub version: String,
    /// The version that the jailer says.
    pub jailer_version: String,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Firecracker's API description, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<PathBuf>,
}

/// What can be wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It ends before its socket is there.
    Dies,
    /// Its socket never is.
    NoSocket,
    /// It ends when it is told of the first drive.
    DiesConfigured,
    /// It cannot load the kernel.
    RefusesKernel,
    /// It takes its time for each answer.
    Slow,
    /// It answers nothing.
    Mute,
    /// It says half of an answer and hangs up.
    HalfAnAnswer,
    /// It answers with what is no HTTP.
    Babbles,
    /// Its disk is full when a snapshot is made.
    FullDisk,
}

/// One request that was asked, as `requests.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// `PUT`, `PATCH` or `GET`.
    pub method: String,
    /// Such as `/boot-source`.
    pub path: String,
    /// The body; `null` without one.
    pub body: Value,
    /// The status of the answer.
    pub status: u16,
    /// The fault of the answer, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The stand-in, or the jailer.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = env::args();
    let name = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let run = || -> io::Result<ExitCode> {
        let script = script()?;
        if Path::new(&name).file_name().is_some_and(|name| name == "jailer") {
            jailer::main(&args, &script)
        } else {
            server::main(&args, script)
        }
    };
    run().unwrap_or_else(|e| {
        eprintln!("{e}");
        ExitCode::FAILURE
    })
}

fn script() -> io::Result<Script> {
    if let Some(text) = env::var_os(SCRIPT_VARIABLE) {
        return Ok(serde_json::from_str(&text.to_string_lossy())?);
    }
    Ok(serde_json::from_slice(&fs::read(env::current_exe()?.with_file_name("script.json"))?)?)
}

/// A path as the stand-in's file system has it.
fn inside(path: &str) -> PathBuf {
    match env::var_os(ROOT_VARIABLE) {
        // The directory is the working one: the jail's user could not get there by its whole path.
        Some(_) if path.starts_with('/') => Path::new(".").join(path.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
}

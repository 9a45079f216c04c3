//! What passes between `start` and the shim that it leaves behind.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
};

use microagent_guest_protocol::Config as GuestConfig;
use microagent_supervisor_protocol::{Identity, MachineConfig, Response, Restore};
use serde::{Deserialize, Serialize};

use crate::backend::Launch;

/// What `start` hands to the shim, through a pipe: it may hold secrets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) machine_dir: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) config: MachineConfig,
    pub(crate) guest: Box<GuestConfig>,
    pub(crate) launches: Vec<Launch>,
    #[serde(default)]
    pub(crate) restore: Option<Restore>,
}

/// The pipe to `start`: told once, and closed then, as `start` waits for its end.
pub(crate) struct Ready(Option<io::Stdout>);

impl Ready {
    pub(crate) fn new() -> Self {
        Self(Some(io::stdout()))
    }

    pub(crate) fn tell(&mut self, response: &Response) {
        let Some(mut stdout) = self.0.take() else { return };
        let _ = serde_json::to_writer(&mut stdout, response).map_err(io::Error::from).and_then(|()| stdout.flush());
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
        }
    }
}

//! Where the fake supervisor keeps what must not be in a machine's directory: what it was asked, and how it is to lie.
//!
//! ```text
//! calls.log      one line an event: `call VERB UID NS`, `boot UID BOOT PID NS`, `hang PID START`
//! script.json    the lies of now
//! names/UID      the name of the workspace, for requests that do not say it
//! secrets/UID    the digests of the secrets of the last start
//! ```

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use microagent_base::{durable, process::ProcessId};
use microagent_supervisor_protocol::Verb;

use super::{DIR_VARIABLE, Lie, Lies};

/// The directory, for the supervisor and for the test.
#[derive(Clone, Debug)]
pub struct FakeDir(PathBuf);

/// One machine that was really started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Of the workspace.
    pub uid: String,
    /// Of the start.
    pub boot_id: String,
    /// The process that is the machine.
    pub pid: u32,
    /// When, in nanoseconds since 1970.
    pub at_ns: u128,
}

impl FakeDir {
    /// Makes the directory.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(path.join("names"))?;
        Ok(Self(path.to_owned()))
    }

    /// The directory that the environment names.
    pub(super) fn from_env() -> Option<Self> {
        env::var_os(DIR_VARIABLE).map(|path| Self(PathBuf::from(path)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// From now on the supervisor lies so. Calls that are under way still lie as before.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn lie_so(&self, lies: &Lies) -> Result<(), durable::DurableError> {
        let path = self.0.join("script.json");
        durable::replace(&path, &durable::encode(&path, lies)?)
    }

    /// Every machine that was started, in order.
    #[must_use]
    pub fn boots(&self) -> Vec<Boot> {
        let boot = |fields: &[&str]| match fields {
            ["boot", uid, boot_id, pid, at] => Some(Boot {
                uid: (*uid).to_owned(),
                boot_id: (*boot_id).to_owned(),
                pid: pid.parse().ok()?,
                at_ns: at.parse().ok()?,
            }),
            _ => None,
        };
        self.events().filter_map(|line| boot(&line.split(' ').collect::<Vec<_>>())).collect()
    }

    /// When a verb was called for a UID, in nanoseconds since 1970.
    #[must_use]
    pub fn calls(&self, verb: Verb, uid: &str) -> Vec<u128> {
        let prefix = format!("call {} {uid} ", verb.as_str());
        self.events().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok()).collect()
    }

    /// The processes that were told to hang.
    #[must_use]
    pub fn hanging(&self) -> Vec<ProcessId> {
        let hang = |fields: &[&str]| match fields {
            ["hang", pid, start] => {
                Some(ProcessId { pid: pid.parse().ok()?, start_time: start.parse().ok()?, boot: None })
            }
            _ => None,
        };
        self.events().filter_map(|line| hang(&line.split(' ').collect::<Vec<_>>())).collect()
    }

    /// Whole lines only: the last may be on its way.
    fn events(&self) -> impl Iterator<Item = String> {
        let text = fs::read_to_string(self.0.join("calls.log")).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[..whole].lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn called(&self, verb: Verb, uid: &str) {
        self.append(&format!("call {} {uid} {}", verb.as_str(), now_ns()));
    }

    pub(super) fn booted(&self, uid: &str, boot_id: &str) {
        self.append(&format!("boot {uid} {boot_id} {} {}", std::process::id(), now_ns()));
    }

    pub(super) fn hangs(&self, process: ProcessId) {
        self.append(&format!("hang {} {}", process.pid, process.start_time));
    }

    pub(super) fn remember(&self, uid: &str, name: &str) {
        let _ = fs::write(self.0.join("names").join(uid), name);
    }

    pub(super) fn lie(&self, verb: Verb, uid: &str) -> Option<Lie> {
        let lies: Lies = durable::read_json(&self.0.join("script.json")).ok()??;
        let name = fs::read_to_string(self.0.join("names").join(uid)).unwrap_or_default();
        lies.of(verb, &name)
    }

    /// One write, so that lines of several processes do not mix.
    fn append(&self, line: &str) {
        let log = OpenOptions::new().create(true).append(true).open(self.0.join("calls.log"));
        let _ = log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
    }
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

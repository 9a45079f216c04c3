//! Holds an installed kernel against its record, and against what workspaces need of it.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, path::PathBuf, time::UNIX_EPOCH};

use microagent_base::Digest;

use crate::{
    error::{Error, Result},
    kernel::{FileRecord, Kernel},
    need::{Need, OPTIONS, Purpose},
};

/// How a kernel gives a driver or an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In the image.
    BuiltIn,
    /// As a module that is installed with it.
    Module,
    /// Not at all.
    Missing,
    /// It came with no configuration and no list of what is built in: only booting it tells.
    Unknown,
}

/// What a look at an installed kernel found.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// Files that are not what was installed; empty when all are.
    pub corrupted: Vec<Corruption>,
    /// Each driver of [`Need::ALL`].
    pub drivers: Vec<DriverCheck>,
    /// Options that are needed, each with its purpose; empty when the kernel came with no configuration.
    pub options: Vec<OptionCheck>,
}

/// A file that is not what was installed.
#[derive(Clone, Debug)]
pub struct Corruption {
    /// The file.
    pub path: PathBuf,
    /// How it differs.
    pub reason: String,
}

/// One driver.
#[derive(Clone, Debug)]
pub struct DriverCheck {
    /// What it is for.
    pub need: Need,
    /// The module's name.
    pub module: &'static str,
    /// The configuration option, without `CONFIG_`.
    pub option: &'static str,
    /// How the kernel gives it.
    pub presence: Presence,
    /// What fails when it is missing.
    pub without: &'static str,
}

/// One option that must be built in.
#[derive(Clone, Debug)]
pub struct OptionCheck {
    /// What needs it.
    pub purpose: Purpose,
    /// Its name, without `CONFIG_`.
    pub option: &'static str,
    /// How the kernel gives it; a module does not count.
    pub presence: Presence,
    /// What fails when it is missing.
    pub without: &'static str,
}

impl Verification {
    /// The drivers among `needs`, and the options, that are known to be missing, each with what fails without it.
    #[must_use]
    pub fn missing(&self, needs: &[Need]) -> Vec<String> {
        let drivers = self.drivers.iter().filter(|d| needs.contains(&d.need) && d.presence == Presence::Missing);
        let drivers = drivers.map(|d| describe(d.module, d.option, d.without));
        drivers.chain(self.missing_for(Purpose::Workspace)).collect()
    }

    /// The options that are known to be missing for a purpose, each with what fails without it. A kernel that lacks some for another
    /// purpose than [`Purpose::Workspace`] may well be used where that purpose is none.
    #[must_use]
    pub fn missing_for(&self, purpose: Purpose) -> Vec<String> {
        let options = self.options.iter().filter(|o| o.purpose == purpose && o.presence == Presence::Missing);
        options.map(|o| format!("CONFIG_{}, without which {}", o.option, o.without)).collect()
    }

    /// Whether the files are as installed and nothing of `needs` is known to be missing.
    ///
    /// # Errors
    /// [`Error::KernelCorrupted`] with the first damaged file, or [`Error::MissingDriver`] with all that is missing.
    pub fn require(&self, kernel: &Kernel, needs: &[Need]) -> Result<()> {
        if let Some(corruption) = self.corrupted.first() {
            return Err(Error::KernelCorrupted {
                version: kernel.version.clone(),
                path: corruption.path.clone(),
                reason: corruption.reason.clone(),
            });
        }
        require(kernel, self.missing(needs))
    }

    /// What a kernel gives, with nothing said of its files.
    pub(crate) fn of_contents(kernel: &Kernel) -> Result<Self> {
        let check = |need: &Need| {
            let driver = need.driver();
            let presence = kernel.presence(*need);
            DriverCheck { need: *need, module: driver.module, option: driver.option, presence, without: driver.without }
        };
        let drivers = Need::ALL.iter().map(check).collect();
        let config = kernel.config()?;
        let options = config.iter().flat_map(|config| {
            OPTIONS.iter().filter(|needed| needed.is_for(kernel.arch)).map(|needed| {
                let presence = if config.is_built_in(needed.option) { Presence::BuiltIn } else { Presence::Missing };
                OptionCheck { purpose: needed.purpose, option: needed.option, presence, without: needed.without }
            })
        });
        Ok(Self { corrupted: Vec::new(), drivers, options: options.collect() })
    }
}

/// What of [`Need::REQUIRED`] and of the options is missing, and a transport when there is neither.
pub(crate) fn missing_for_any_workspace(kernel: &Kernel) -> Result<Vec<String>> {
    let mut missing = Verification::of_contents(kernel)?.missing(Need::REQUIRED);
    let transports = [Need::VirtioMmio, Need::VirtioPci];
    if transports.iter().all(|need| kernel.presence(*need) == Presence::Missing) {
        missing.push("virtio_mmio and virtio_pci, without one of which the guest finds no devices".to_owned());
    }
    Ok(missing)
}

/// An error when something is missing.
pub(crate) fn require(kernel: &Kernel, missing: Vec<String>) -> Result<()> {
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingDriver { version: kernel.version.clone(), missing }) }
}

fn describe(module: &str, option: &str, without: &str) -> String {
    format!("{module} (CONFIG_{option}), without which {without}")
}

/// What changes when a file is written by whatever means: the change time cannot be set by a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The modification time in nanoseconds and the size: what tells that a file of the host was replaced.
pub(crate) fn revision(path: &Path) -> io::Result<(u128, u64)> {
    let meta = fs::metadata(path)?;
    let modified = meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Ok((modified, meta.len()))
}

/// How a file differs from its record; `None` when it does not.
pub(crate) fn difference(path: &Path, recorded: &FileRecord) -> Option<String> {
    let read = fs::File::open(path).and_then(|mut file| {
        let size = file.metadata()?.len();
        // A file of another size need not be read, however large it has become.
        if size == recorded.size { Digest::of_reader(&mut file) } else { Ok((Digest::of(b""), size)) }
    });
    match read {
        Err(error) => Some(format!("it cannot be read: {error}")),
        Ok((_, size)) if size != recorded.size => Some(format!("it has {size} bytes instead of {}", recorded.size)),
        Ok((digest, _)) if digest != recorded.digest => {
            Some(format!("its content is {digest} instead of {}", recorded.digest))
        }
        Ok(_) => None,
    }
}

//! Processor architectures that a guest kernel may be for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An architecture that workspaces run on. A guest always has its host's: there is no emulation of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// `x86_64`, `amd64` in Debian's words.
    #[serde(rename = "x86_64")]
    X86_64,
    /// `aarch64`, `arm64` in Debian's words.
    Aarch64,
}

impl Arch {
    /// The architecture that this program was built for; `None` where workspaces cannot run at all.
    #[must_use]
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// The name in package names and package records of Debian and Ubuntu.
    #[must_use]
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// `e_machine` of an ELF header: the System V ABI, "ELF Header", and its processor supplements.
    pub(crate) fn of_elf_machine(machine: u16) -> Option<Self> {
        match machine {
            62 => Some(Self::X86_64),
            183 => Some(Self::Aarch64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

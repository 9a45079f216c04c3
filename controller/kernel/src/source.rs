//! Where a kernel is to come from.

use std::path::PathBuf;

use crate::build::Recipe;

/// The `kernel.source` of a workspace. `url` and `oci` are to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSource {
    /// The newest installed kernel that verifies, a built one before others; when there is none, [`KernelSource::Package`].
    Default,
    /// A kernel image on this host.
    Path {
        /// A `bzImage`, an ELF `vmlinux`, or an arm64 `Image`.
        kernel: PathBuf,
        /// The directory of its modules, such as `/lib/modules/6.1.0-56-cloud-amd64`; none when all is built in.
        modules: Option<PathBuf>,
    },
    /// The distribution's own signed kernel, through the host's package manager.
    Package {
        /// The package; without it the distribution's cloud kernel.
        name: Option<String>,
        /// The exact package version; without it the one that the package manager prefers.
        version: Option<String>,
    },
    /// Built on this host of the distribution's kernel source, with what guests need and nothing else.
    Build(Recipe),
}

impl KernelSource {
    /// For people and for `kernel list`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Path { kernel, .. } => format!("path:{}", kernel.display()),
            Self::Package { .. } => "package".to_owned(),
            Self::Build(_) => "build".to_owned(),
        }
    }

    /// What tells this source from others: the key under which an installation is remembered.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Path { kernel, modules } => format!("path\0{kernel:?}\0{modules:?}"),
            Self::Package { name, version } => format!("package\0{name:?}\0{version:?}"),
            Self::Build(recipe) => format!("build\0{}", recipe.fingerprint()),
        }
    }
}

//! What a manifest may say and this version cannot do yet. It is refused, never accepted and ignored.
//!
//! The table is the only list: the refusals and the section of `docs/status.md` are both made from it.

use crate::{
    disks::DiskSpec,
    files::FileSpec,
    health::HttpScheme,
    kernel::KernelSource,
    network::NetworkMode,
    resources::RootDiskMode,
    secrets::SecretSource,
    spec::{Backend, WorkspaceSpec},
};

/// Where a workspace comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A file in a watched folder, or given to the command line.
    Folder,
    /// A custom resource.
    Kubernetes,
}

/// Something that cannot be done yet.
pub struct Unsupported {
    /// The field, without the numbers of list entries: `spec.files[].contentFrom`.
    pub field: &'static str,
    /// Which of its values; empty when the field cannot be used at all.
    pub values: &'static str,
    /// What to do instead.
    pub instead: &'static str,
    /// The only origin for which it is refused; all when absent.
    pub only: Option<Origin>,
    /// The place of its first use in a spec, with the numbers of list entries.
    find: fn(&WorkspaceSpec) -> Option<String>,
}

/// A field that a spec uses and that cannot be done yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Refusal {
    /// The field, such as `spec.files[0].contentFrom`.
    pub path: String,
    /// What is not supported.
    pub message: String,
    /// What to do instead.
    pub instead: &'static str,
}

/// Everything that cannot be done yet.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        field: "spec.imagePullSecrets",
        values: "",
        instead: "remove it, and log in on the host: the Docker config file there is used",
        only: Some(Origin::Folder),
        find: |s| field(!s.image_pull_secrets.is_empty(), "spec.imagePullSecrets"),
    },
    all("spec.backend", "AppleVf", "use `Auto`, `Firecracker` or `Qemu`", |s| {
        field(s.backend == Backend::AppleVf, "spec.backend")
    }),
    all(
        "spec.kernel.source",
        "url, oci",
        "download the kernel and use `source: path`, or use `source: package`",
        |s| field(matches!(s.kernel.source, KernelSource::Url | KernelSource::Oci), "spec.kernel.source"),
    ),
    all(
        "spec.kernel.sha256",
        "",
        "remove it: a kernel is recorded with its digest when it is installed, and verified on every start",
        |s| field(s.kernel.sha256.is_some(), "spec.kernel.sha256"),
    ),
    all(
        "spec.rootDisk.mode",
        "Copy",
        "use `Overlay`, and a disk of `spec.disks` where a plain file system is needed",
        |s| field(s.root_disk.mode == RootDiskMode::Copy, "spec.rootDisk.mode"),
    ),
    all("spec.files[].contentFrom", "", "write the content into `content`", |s| {
        let at = s.files.iter().position(|f: &FileSpec| f.content_from.is_some());
        at.map(|nth| format!("spec.files[{nth}].contentFrom"))
    }),
    all(
        "spec.disks[].source.bundle",
        "",
        "make an ext4 image of the archive and use `image`, or use `empty` and fill it in `setup`",
        |s| {
            let at = s.disks.iter().position(|d: &DiskSpec| d.source.bundle.is_some());
            at.map(|nth| format!("spec.disks[{nth}].source.bundle"))
        },
    ),
    Unsupported {
        field: "spec.secrets[].from.secretKeyRef",
        values: "",
        instead: "use `file` or `env`: a folder has no Secrets",
        only: Some(Origin::Folder),
        find: |s| secret(s, "secretKeyRef", |from| from.secret_key_ref.is_some()),
    },
    Unsupported {
        field: "spec.secrets[].from.env",
        values: "",
        instead: "use `secretKeyRef`: the environment is that of the node's agent",
        only: Some(Origin::Kubernetes),
        find: |s| secret(s, "env", |from| from.env.is_some()),
    },
    all("spec.network.mode", "Mediated, User", "use `None`", |s| {
        field(s.network.mode != NetworkMode::None, "spec.network.mode")
    }),
    all("spec.network.ports", "", "remove it, and reach the workload with `microagent exec`", |s| {
        field(!s.network.ports.is_empty(), "spec.network.ports")
    }),
    all("spec.network.egress", "", "remove it: without a network everything is denied", |s| {
        field(s.network.egress.is_some(), "spec.network.egress")
    }),
    all(
        "spec.health.httpGet.scheme",
        "HTTPS",
        "use `HTTP`, `tcpSocket`, or an `exec` of a program in the image that speaks TLS",
        |s| {
            let get = s.health.as_ref().and_then(|health| health.http_get.as_ref());
            field(get.is_some_and(|get| get.scheme == HttpScheme::Https), "spec.health.httpGet.scheme")
        },
    ),
    Unsupported {
        field: "spec.placement",
        values: "",
        instead: "remove it: the workspaces of a folder run on the host of that folder",
        only: Some(Origin::Folder),
        find: |s| field(s.placement.is_some(), "spec.placement"),
    },
    Unsupported {
        field: "spec.nodeName",
        values: "",
        instead: "remove it: the workspaces of a folder run on the host of that folder",
        only: Some(Origin::Folder),
        find: |s| field(s.node_name.is_some(), "spec.nodeName"),
    },
];

const fn all(
    field: &'static str,
    values: &'static str,
    instead: &'static str,
    find: fn(&WorkspaceSpec) -> Option<String>,
) -> Unsupported {
    Unsupported { field, values, instead, only: None, find }
}

fn field(is_used: bool, path: &str) -> Option<String> {
    is_used.then(|| path.to_owned())
}

/// The place of the first secret whose source is so.
fn secret(spec: &WorkspaceSpec, source: &str, is_used: fn(&SecretSource) -> bool) -> Option<String> {
    let at = spec.secrets.iter().position(|secret| is_used(&secret.from));
    at.map(|nth| format!("spec.secrets[{nth}].from.{source}"))
}

impl Origin {
    /// Where such a manifest stands.
    #[must_use]
    pub fn place(self) -> &'static str {
        match self {
            Self::Folder => "in a file",
            Self::Kubernetes => "in a cluster",
        }
    }
}

impl Unsupported {
    /// What is not supported, as a sentence without its end.
    #[must_use]
    pub fn message(&self) -> String {
        let origin = self.only.map_or_else(String::new, |only| format!(" for a manifest {}", only.place()));
        match self.values {
            "" => format!("`{}` is not supported yet{origin}", self.field),
            values => format!("`{}` is not supported yet with {}{origin}", self.field, values.replace(", ", " or ")),
        }
    }
}

/// What a spec asks for and this version cannot do.
#[must_use]
pub fn refusals(spec: &WorkspaceSpec, origin: Origin) -> Vec<Refusal> {
    UNSUPPORTED
        .iter()
        .filter(|one| one.only.is_none_or(|only| only == origin))
        .filter_map(|one| {
            let path = (one.find)(spec)?;
            Some(Refusal { path, message: one.message(), instead: one.instead })
        })
        .collect()
}

//! The reasons of conditions and events: one enum, one word each. `docs/reasons.md` is made from it.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition is as it is. The names are stable: programs may match on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in `conditions[].reason`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn doc(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason of this name, as an error's `category()` gives it; `Unknown` for any other text.
            #[must_use]
            pub fn from_code(code: &str) -> Self {
                match code { $(stringify!($name) => Self::$name,)+ _ => Self::Unknown }
            }
        }
    };
}

reasons! {
    /// The workspace is new and nothing was done for it yet.
    Pending,
    /// An earlier stage must be done first.
    Waiting,
    /// Other work has the host's room now; this one is in the queue.
    Queued,
    /// A node has room for the workspace and keeps it.
    Scheduled,
    /// A stage is on its way.
    Progressing,
    /// Everything is as was asked for; nothing is left to do.
    Settled,
    /// The registry is asked for the image's digest.
    ResolvingImage,
    /// The image's layers are being downloaded.
    PullingImage,
    /// The image is on the host and verified.
    ImageResolved,
    /// The root disk is being made from the image's layers.
    BuildingRootfs,
    /// The root disk is made.
    RootfsBuilt,
    /// The kernel is being downloaded, unpacked or converted.
    InstallingKernel,
    /// The kernel is on the host and verified.
    KernelInstalled,
    /// The machine is being started.
    StartingMachine,
    /// The machine runs.
    MachineStarted,
    /// The machine runs, and the guest has not answered yet.
    WaitingForGuest,
    /// The guest answers and has its configuration.
    GuestReady,
    /// Setup commands are running.
    RunningSetup,
    /// Every setup command has run.
    SetupComplete,
    /// The spec has no setup commands.
    NoSetup,
    /// The workload is being started.
    StartingWorkload,
    /// The workload runs.
    Running,
    /// The health probe succeeds, or there is none and the workload runs.
    Healthy,
    /// The health probe has not given its first verdict yet.
    HealthUnknown,
    /// The health probe fails.
    Unhealthy,
    /// The workload ended with success and is not to run again.
    Succeeded,
    /// The workload ended and waits for its next start.
    BackingOff,
    /// The machine is being stopped.
    Halting,
    /// The machine is stopped, as was asked for.
    Halted,
    /// The machine's CPUs stand still, as was asked for.
    Paused,
    /// The machine runs cut off from everything, as was asked for.
    Quarantined,
    /// The machine is being started anew, as was asked for.
    Restarting,
    /// The machine was halted because nothing used it for `lifecycle.idleTimeoutSeconds`.
    Idle,
    /// No machine is to run, so this does not apply.
    NotRunning,
    /// The workspace is being deleted.
    Terminating,
    /// The workspace reached its time to live or its expiry: nothing of it is left on the host but what is kept of its outputs.
    Expired,
    /// Nothing of the workspace is left on the host.
    Deleted,
    /// The running machine was made from an older spec; it takes the new one at its next start.
    SpecChanged,
    /// The running machine was made from the present spec.
    UpToDate,
    /// The workload ended with a failure.
    WorkloadFailed,
    /// The program to run is not in the image, or cannot be executed.
    WorkloadNotFound,
    /// The program to run is in the image and cannot be executed by the workload's user.
    WorkloadNotExecutable,
    /// The user or group to run as is not in the image.
    UserNotFound,
    /// The guest's kernel ended the workload for want of memory.
    OutOfMemory,
    /// A setup command failed.
    SetupFailed,
    /// No node can take the workspace, or what it asks for may not be had in its namespace.
    Unschedulable,
    /// The room that a node kept for the workspace was taken away: by preemption, eviction or deletion of its reservation Pod.
    ReservationLost,
    /// The node is gone, or its agent does not answer any more.
    NodeLost,
    /// The manifest cannot be read or is not valid.
    InvalidManifest,
    /// The manifest asks for something that this version cannot do.
    NotSupported,
    /// The same name stands in two places.
    NameConflict,
    /// The folder or API that the workspace comes from cannot be read; what runs goes on.
    SourceUnavailable,
    /// The image reference is not one.
    InvalidReference,
    /// The image, or the file or folder it is to come from, does not exist.
    ImageNotFound,
    /// The image exists, but not for this host's platform.
    PlatformNotFound,
    /// The registry cannot be reached or does not answer in time.
    RegistryUnreachable,
    /// The registry refuses: credentials are missing or not sufficient.
    RegistryDenied,
    /// The registry asks to come back later.
    RegistryThrottled,
    /// The file that says how the registries are reached, or a file that it names, cannot be used.
    RegistrySettingsInvalid,
    /// The Docker configuration with the registry's login cannot be read, or its credential helper fails.
    CredentialsUnreadable,
    /// A Secret, a file or a variable that the workspace takes a value from is missing, cannot be read or has no such value.
    SecretUnavailable,
    /// What was downloaded does not have the digest it must have.
    DigestMismatch,
    /// A layer ends too early.
    LayerTruncated,
    /// The image uses a format that is not known.
    UnsupportedImage,
    /// A layer is not a well-formed archive or breaks a bound.
    InvalidLayer,
    /// A layer cannot be decompressed, or is not a tar archive.
    LayerCorrupt,
    /// A layer has an entry that no image may have, such as a path out of the root.
    LayerEntryRefused,
    /// The image is larger than this host's limits allow.
    ImageTooLarge,
    /// The image could not be pulled for another reason.
    ImagePullFailed,
    /// The root disk could not be made.
    RootfsBuildFailed,
    /// No such kernel is installed or can be had.
    KernelNotFound,
    /// The host's package manager failed.
    PackageManagerFailed,
    /// The host has no package manager that kernels can be had from; name one with `kernel.source: path`.
    PackageManagerMissing,
    /// The host lacks programs that build a kernel; the message has the command that installs them.
    BuildToolsMissing,
    /// The kernel's build failed; the message has its end and the place of its log.
    KernelBuildFailed,
    /// The kernel is of a form that the backend cannot boot.
    UnsupportedKernel,
    /// The kernel lacks a driver that every machine needs.
    MissingDriver,
    /// A kernel file is not what was installed.
    KernelCorrupted,
    /// The image or kernel is for another processor architecture.
    WrongArchitecture,
    /// The kernel could not be installed for another reason.
    KernelInstallFailed,
    /// No backend works on this host, or the one asked for does not.
    BackendUnavailable,
    /// The backend's supervisor could not be run, or answered what is not an answer.
    SupervisorFailed,
    /// The machine could not be started.
    StartFailed,
    /// The backend's virtual machine monitor is not installed.
    VmmNotFound,
    /// The backend's virtual machine monitor is too old, or not the right one.
    VmmUnsuitable,
    /// The backend does not boot the kernel as it is.
    KernelRefused,
    /// Another machine uses a disk of this one.
    DiskInUse,
    /// The program that serves the guest's vsock is not installed.
    VsockNotFound,
    /// The virtual machine monitor ended before the guest was ready.
    VmmFailed,
    /// The guest did not answer in time.
    GuestTimeout,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest's kernel or init failed.
    GuestFailed,
    /// The machine is gone and left no exit record.
    MachineLost,
    /// More than one machine runs for this workspace; none is touched.
    MultipleMachines,
    /// The machine could not be paused, resumed or cut off.
    PowerFailed,
    /// The machine could not be stopped.
    HaltFailed,
    /// The outputs could not be kept.
    OutputsFailed,
    /// The disks and state could not be deleted.
    CleanupFailed,
    /// The host's disk is full.
    DiskFull,
    /// A file that `spec.disks` names does not exist.
    DiskNotFound,
    /// The host does not permit what is needed.
    PermissionDenied,
    /// A file or disk of the host failed.
    HostError,
    /// The API server cannot be reached, or refuses what the node's agent asks of it.
    ApiServerFailed,
    /// The way to Ready took longer than `lifecycle.progressDeadlineSeconds`.
    ProgressDeadlineExceeded,
    /// The work was given up because nobody wants it any more.
    Cancelled,
    /// The reason is not one that this version knows.
    Unknown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Cow<'de, str> = Deserialize::deserialize(deserializer)?;
        Ok(Self::from_code(&text))
    }
}

// The schema says only that it is a word: a new reason must not need a new CRD first.
impl JsonSchema for Reason {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Reason".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 1024 })
    }
}

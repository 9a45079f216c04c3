//! What a guest needs of its kernel, and what fails without it.

use crate::arch::Arch;

/// Something a backend or a workspace uses that a kernel has built in, has as a module, or lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// virtio devices of QEMU's `microvm` machine and of Firecracker.
    VirtioMmio,
    /// virtio devices of QEMU's `q35` machine and of Apple's Virtualization.framework.
    VirtioPci,
    /// Disks.
    Block,
    /// The file system of the baseline and of the overlay disk.
    Ext4,
    /// The root of a workspace: the baseline below, the overlay disk above.
    Overlay,
    /// The channel between host and guest.
    Vsock,
    /// Random numbers from the host.
    Rng,
    /// `hvc0`, the console where there is no serial port.
    Console,
    /// A network device.
    Net,
}

impl Need {
    /// For a machine with virtio over MMIO and no network, in the order in which modules are loaded.
    pub const MMIO: &'static [Self] = &[Self::VirtioMmio, Self::Block, Self::Ext4, Self::Overlay, Self::Vsock];
    /// For a machine with virtio over PCI and no network, in the order in which modules are loaded.
    pub const PCI: &'static [Self] = &[Self::VirtioPci, Self::Block, Self::Ext4, Self::Overlay, Self::Vsock];
    /// Without these no workspace runs, on whatever backend. Of the two transports one is enough.
    pub const REQUIRED: &'static [Self] = &[Self::Block, Self::Ext4, Self::Overlay, Self::Vsock];
    /// All there are.
    pub const ALL: &'static [Self] = &[
        Self::VirtioMmio,
        Self::VirtioPci,
        Self::Block,
        Self::Ext4,
        Self::Overlay,
        Self::Vsock,
        Self::Rng,
        Self::Console,
        Self::Net,
    ];

    pub(crate) fn driver(self) -> &'static Driver {
        match self {
            Self::VirtioMmio => &Driver {
                module: "virtio_mmio",
                option: "VIRTIO_MMIO",
                without: "a microvm guest finds none of its devices",
            },
            Self::VirtioPci => &Driver {
                module: "virtio_pci",
                option: "VIRTIO_PCI",
                without: "a q35 or Apple guest finds none of its devices",
            },
            Self::Block => {
                &Driver { module: "virtio_blk", option: "VIRTIO_BLK", without: "the guest has no disk to start from" }
            }
            Self::Ext4 => &Driver { module: "ext4", option: "EXT4_FS", without: "the guest cannot mount its disks" },
            Self::Overlay => {
                &Driver { module: "overlay", option: "OVERLAY_FS", without: "the guest has no writable root" }
            }
            Self::Vsock => &Driver {
                module: "vmw_vsock_virtio_transport",
                option: "VIRTIO_VSOCKETS",
                without: "the host cannot speak to the guest",
            },
            Self::Rng => &Driver {
                module: "virtio_rng",
                option: "HW_RANDOM_VIRTIO",
                without: "programs may wait long for random numbers after the start",
            },
            Self::Console => &Driver {
                module: "virtio_console",
                option: "VIRTIO_CONSOLE",
                without: "machines with no serial port have no console log",
            },
            Self::Net => {
                &Driver { module: "virtio_net", option: "VIRTIO_NET", without: "`network.mode: User` has no device" }
            }
        }
    }
}

/// The module and the configuration option that give a [`Need`].
pub(crate) struct Driver {
    pub(crate) module: &'static str,
    pub(crate) option: &'static str,
    pub(crate) without: &'static str,
}

/// What an option is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Any workspace, on whatever backend.
    Workspace,
    /// Backend `Qemu`.
    Qemu,
    /// Backend `Firecracker`.
    Firecracker,
    /// A container engine in the workspace.
    Containers,
    /// Programs in the workspace that load eBPF programs.
    Ebpf,
}

impl Purpose {
    /// All there are.
    pub const ALL: &'static [Self] = &[Self::Workspace, Self::Qemu, Self::Firecracker, Self::Containers, Self::Ebpf];

    /// For people: `workspaces`, `Firecracker`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Workspace => "workspaces",
            Self::Qemu => "Qemu",
            Self::Firecracker => "Firecracker",
            Self::Containers => "container engines",
            Self::Ebpf => "eBPF",
        }
    }
}

/// An option of the kernel's configuration that something needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeededOption {
    pub(crate) option: &'static str,
    pub(crate) purpose: Purpose,
    /// The architecture that it is for; all when there is none.
    pub(crate) arch: Option<Arch>,
    /// What fails without it.
    pub(crate) without: &'static str,
}

const fn built_in(purpose: Purpose, option: &'static str, without: &'static str) -> NeededOption {
    NeededOption { option, purpose, arch: None, without }
}

const fn on_x86(purpose: Purpose, option: &'static str, without: &'static str) -> NeededOption {
    NeededOption { option, purpose, arch: Some(Arch::X86_64), without }
}

/// A guest has no modules but those of its start, so that whatever a workload needs must be built in.
pub(crate) const OPTIONS: &[NeededOption] = &[
    built_in(Purpose::Workspace, "BLK_DEV_INITRD", "guest-init, which travels in the initramfs, is never started"),
    built_in(Purpose::Workspace, "BINFMT_ELF", "no program can be started"),
    built_in(Purpose::Workspace, "DEVTMPFS", "the guest has no device nodes"),
    built_in(Purpose::Workspace, "PROC_FS", "guest-init cannot see the processes of the guest"),
    built_in(Purpose::Workspace, "SYSFS", "guest-init cannot see the devices of the guest"),
    built_in(Purpose::Workspace, "TMPFS", "secrets and run-time files have no place that is not a disk"),
    on_x86(Purpose::Qemu, "SERIAL_8250_CONSOLE", "there is no console log"),
    on_x86(Purpose::Qemu, "SERIAL_8250_PNP", "what programs print does not reach the console log"),
    on_x86(Purpose::Qemu, "ACPI", "the guest finds none of its devices"),
    on_x86(Purpose::Qemu, "PVH", "an ELF kernel cannot be entered, and the slower bzImage is booted"),
    built_in(Purpose::Firecracker, "VIRTIO_MMIO", "the guest finds none of its devices"),
    on_x86(Purpose::Firecracker, "SERIAL_8250_CONSOLE", "there is no console log"),
    on_x86(Purpose::Firecracker, "KEYBOARD_ATKBD", "a guest that does not answer cannot be asked to end"),
    on_x86(Purpose::Firecracker, "SERIO_I8042", "a guest that does not answer cannot be asked to end"),
    on_x86(Purpose::Firecracker, "VT", "a guest that does not answer cannot be asked to end"),
    built_in(Purpose::Containers, "NAMESPACES", "no container can be made"),
    built_in(Purpose::Containers, "PID_NS", "no container can be made"),
    built_in(Purpose::Containers, "NET_NS", "no container can have a network of its own"),
    built_in(Purpose::Containers, "USER_NS", "rootless containers cannot be made"),
    built_in(Purpose::Containers, "CGROUPS", "neither containers nor execs can be held together"),
    built_in(Purpose::Containers, "MEMCG", "memory cannot be limited"),
    built_in(Purpose::Containers, "CGROUP_PIDS", "the number of processes cannot be limited"),
    built_in(Purpose::Containers, "CGROUP_BPF", "devices cannot be kept from containers"),
    built_in(Purpose::Containers, "SECCOMP_FILTER", "system calls cannot be kept from containers"),
    built_in(Purpose::Containers, "POSIX_MQUEUE", "the message queues of containers cannot be mounted"),
    built_in(Purpose::Containers, "VETH", "containers cannot be joined to a network"),
    built_in(Purpose::Containers, "BRIDGE", "containers cannot be joined to a network"),
    built_in(Purpose::Containers, "NF_TABLES", "the rules of container networks cannot be written"),
    built_in(Purpose::Containers, "NFT_COMPAT", "`iptables` of today's images cannot write its rules"),
    built_in(Purpose::Containers, "NF_NAT", "no port of a container can be published"),
    built_in(Purpose::Containers, "TUN", "rootless containers have no network"),
    built_in(Purpose::Containers, "FUSE_FS", "rootless containers have no overlay on older engines"),
    built_in(Purpose::Containers, "BLK_DEV_LOOP", "disk images cannot be mounted"),
    built_in(Purpose::Ebpf, "BPF_SYSCALL", "no program can be loaded"),
    built_in(Purpose::Ebpf, "BPF_JIT", "programs are interpreted"),
    built_in(Purpose::Ebpf, "KPROBE_EVENTS", "functions of the kernel cannot be traced"),
    built_in(Purpose::Ebpf, "UPROBE_EVENTS", "functions of programs cannot be traced"),
];

impl NeededOption {
    pub(crate) fn is_for(&self, arch: Arch) -> bool {
        self.arch.is_none_or(|of| of == arch)
    }
}

//! What a guest needs of its kernel, and what fails without it.

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

/// Options that must be `=y`, with what fails without each. They are never modules.
pub(crate) const OPTIONS: &[(&str, &str)] = &[
    ("BLK_DEV_INITRD", "guest-init, which travels in the initramfs, is never started"),
    ("BINFMT_ELF", "no program can be started"),
    ("DEVTMPFS", "the guest has no device nodes"),
    ("PROC_FS", "guest-init cannot see the processes of the guest"),
    ("SYSFS", "guest-init cannot see the devices of the guest"),
    ("TMPFS", "secrets and run-time files have no place that is not a disk"),
];

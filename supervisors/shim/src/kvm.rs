//! Whether KVM works here: a virtual machine is made and runs a few instructions. That `/dev/kvm` exists says little.
#![allow(unsafe_code, reason = "KVM is driven by ioctl(2) and by memory shared with the kernel")]

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::mpsc,
    thread,
    time::Duration,
};

// Numbers and structures: linux/kvm.h, the same on every architecture with the generic ioctl encoding.
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
const KVM_CREATE_VM: libc::c_ulong = 0xAE01;
const KVM_GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xAE04;
const KVM_CREATE_VCPU: libc::c_ulong = 0xAE41;

/// The only version there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// How long the instructions may take. They take microseconds; a KVM that hangs must not hang us.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why KVM does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Whether it is only that this user may not use it.
    pub denied: bool,
    /// Why, for people.
    pub why: String,
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self { denied: false, why }
    }
}

/// Makes a machine and runs it.
///
/// # Errors
/// Why it does not work.
pub fn probe() -> Result<(), Unusable> {
    let (told, answer) = mpsc::sync_channel(1);
    let _unjoined = thread::spawn(move || told.send(try_it()));
    let hung = |_| Err(format!("KVM did not run instructions within {PATIENCE:?}").into());
    answer.recv_timeout(PATIENCE).unwrap_or_else(hung)
}

fn try_it() -> Result<(), Unusable> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "/dev/kvm is not there".to_owned().into(),
        kind => {
            Unusable { denied: kind == io::ErrorKind::PermissionDenied, why: format!("/dev/kvm cannot be opened: {e}") }
        }
    })?;
    let failed = |what: &'static str| move |e: io::Error| format!("KVM cannot {what}: {e}");
    let version = ioctl(&kvm, KVM_GET_API_VERSION, 0).map_err(failed("tell its version"))?;
    if version != API_VERSION {
        return Err(format!("KVM has version {version} of its interface, not {API_VERSION}").into());
    }
    let vm = owned(ioctl(&kvm, KVM_CREATE_VM, 0).map_err(failed("make a machine"))?);
    let vcpu = owned(ioctl(&vm, KVM_CREATE_VCPU, 0).map_err(failed("make a virtual CPU"))?);
    let size = ioctl(&kvm, KVM_GET_VCPU_MMAP_SIZE, 0).map_err(failed("tell the size of its run area"))?;
    Ok(run(&vm, &vcpu, usize::try_from(size).unwrap_or(0)).map_err(failed("run instructions"))?)
}

/// Runs `mov $0x1234, %ax; add $1, %ax; hlt` in real mode and looks at what came of it.
#[cfg(target_arch = "x86_64")]
fn run(vm: &OwnedFd, vcpu: &OwnedFd, run_size: usize) -> io::Result<()> {
    const KVM_SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_AE46;
    const KVM_RUN: libc::c_ulong = 0xAE80;
    const KVM_GET_REGS: libc::c_ulong = 0x8090_AE81;
    const KVM_SET_REGS: libc::c_ulong = 0x4090_AE82;
    const KVM_GET_SREGS: libc::c_ulong = 0x8138_AE83;
    const KVM_SET_SREGS: libc::c_ulong = 0x4138_AE84;
    const KVM_EXIT_HLT: u32 = 5;
    const PROGRAM: [u8; 7] = [0xB8, 0x34, 0x12, 0x05, 0x01, 0x00, 0xF4];
    const ADDRESS: u64 = 0x1000;
    // struct kvm_regs in 64-bit words: sixteen registers from rax, then rip and rflags.
    const RAX: usize = 0;
    const RIP: usize = 16;
    const RFLAGS: usize = 17;
    const REGS: usize = 18;
    // struct kvm_sregs in 64-bit words. It begins with cs: the base, then limit and selector in one word.
    const SREGS: usize = 39;

    let code = Mapping::anonymous(0x1000)?;
    code.write(&PROGRAM);
    // struct kvm_userspace_memory_region: slot and flags in one word, guest address, size, our address.
    let mut region = [0, ADDRESS, 0x1000, code.address()];
    ioctl_with(vm, KVM_SET_USER_MEMORY_REGION, &mut region)?;
    let mut sregs = [0_u64; SREGS];
    ioctl_with(vcpu, KVM_GET_SREGS, &mut sregs)?;
    sregs[0] = 0;
    // limit (32 bits), selector (16 bits), type and present (8 bits each), from the low end: only the selector becomes 0.
    sregs[1] &= !0x0000_FFFF_0000_0000;
    ioctl_with(vcpu, KVM_SET_SREGS, &mut sregs)?;
    let mut regs = [0_u64; REGS];
    (regs[RIP], regs[RFLAGS]) = (ADDRESS, 2);
    ioctl_with(vcpu, KVM_SET_REGS, &mut regs)?;
    let area = Mapping::shared(vcpu, run_size)?;
    ioctl(vcpu, KVM_RUN, 0)?;
    // struct kvm_run has its exit reason after eight bytes of flags.
    let reason = area.read_u32(8);
    ioctl_with(vcpu, KVM_GET_REGS, &mut regs)?;
    if reason == KVM_EXIT_HLT && regs[RAX] == 0x1235 {
        return Ok(());
    }
    Err(io::Error::other(format!("the machine stopped with reason {reason} and {:#x} in its register", regs[RAX])))
}

/// On other architectures that a virtual CPU can be made has to be enough.
#[cfg(not(target_arch = "x86_64"))]
fn run(_vm: &OwnedFd, _vcpu: &OwnedFd, _run_size: usize) -> io::Result<()> {
    Ok(())
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: KVM has just made this descriptor for us, and it is nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn ioctl(fd: &impl AsRawFd, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests that come here take a number, not a pointer.
    result(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) })
}

#[cfg(target_arch = "x86_64")]
fn ioctl_with<const N: usize>(fd: &impl AsRawFd, request: libc::c_ulong, argument: &mut [u64; N]) -> io::Result<i32> {
    debug_assert_eq!((request >> 16) & 0x3FFF, size_of_val(argument) as libc::c_ulong);
    // SAFETY: the request's number carries the size of what it reads or writes, which is that of the array.
    result(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument.as_mut_ptr()) })
}

fn result(value: i32) -> io::Result<i32> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Memory that the kernel uses as well.
#[cfg(target_arch = "x86_64")]
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

#[cfg(target_arch = "x86_64")]
impl Mapping {
    fn anonymous(length: usize) -> io::Result<Self> {
        Self::new(length, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)
    }

    fn shared(fd: &OwnedFd, length: usize) -> io::Result<Self> {
        Self::new(length, libc::MAP_SHARED, fd.as_raw_fd())
    }

    fn new(length: usize, flags: i32, fd: i32) -> io::Result<Self> {
        // SAFETY: no address is asked for, so nothing that is mapped is replaced.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, length }) }
    }

    fn address(&self) -> u64 {
        self.start as u64
    }

    fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.length);
        // SAFETY: the mapping is at least as long as the bytes, and nobody else has a reference into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast(), bytes.len()) }
    }

    fn read_u32(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= self.length);
        // SAFETY: the four bytes are inside the mapping; the kernel writes them only during KVM_RUN.
        unsafe { self.start.byte_add(offset).cast::<u32>().read_volatile() }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

#[cfg(test)]
mod tests {
    /// What it answers depends on the host; that it answers does not.
    #[test]
    fn the_probe_answers_and_says_why() {
        match super::probe() {
            Ok(()) => println!("KVM runs instructions here"),
            Err(e) => assert!(e.why.contains("kvm") || e.why.contains("KVM"), "{}", e.why),
        }
    }
}

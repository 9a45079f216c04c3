// Runs in a guest: uses each thing of the kernel that container engines, language runtimes and eBPF tools use, and prints a line for
// each, `ok NAME` or `failed NAME: WHY`. Compiled by the test, linked statically. Each runs in a process of its own, as most of them
// change what the process sees.

use std::{
    env, fs,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    process::Command,
};

type Feature = (&'static str, fn() -> io::Result<()>);

const FEATURES: &[Feature] = &[
    ("overlay", overlay),
    ("fuse", fuse),
    ("loop", loop_device),
    ("devpts", devpts),
    ("mqueue", || mounted("mqueue", "mqueue", "")),
    ("binfmt_misc", || mounted("binfmt_misc", "binfmt_misc", "")),
    ("filesystems", file_systems),
    ("namespaces", namespaces),
    ("user-namespace", user_namespace),
    ("cgroup-controllers", cgroup_controllers),
    ("bridge", || link("bridge")),
    ("veth", || link("veth")),
    ("dummy", || link("dummy")),
    ("nftables", nftables),
    ("iptables-nft", iptables_nft),
    ("iptables-legacy", iptables_legacy),
    ("ipset", ip_set),
    ("tun", tun),
    ("packet-socket", || socket(17, 3, 0).map(drop)),
    ("ipv6", || socket(10, 2, 0).map(drop)),
    ("seccomp", seccomp),
    ("landlock", landlock),
    ("keyring", keyring),
    ("inotify", inotify),
    ("fanotify", || call(unsafe { fanotify_init(0, 0) }).map(own)),
    ("io_uring", io_uring),
    ("bpf", || bpf_program(1)),
    ("bpf-kprobe", || bpf_program(2)),
    ("bpf-cgroup-device", || bpf_program(15)),
    ("bpf-jit", || is_in("/proc/sys/net/core/bpf_jit_enable", &["1"])),
    ("tracefs", tracing),
];

fn main() {
    if let Some(name) = env::args().nth(1) {
        let (_, feature) = FEATURES.iter().find(|(known, _)| **known == name).unwrap();
        match feature() {
            Ok(()) => println!("ok {name}"),
            Err(error) => println!("failed {name}: {error}"),
        }
        return;
    }
    for (name, _) in FEATURES {
        if !Command::new("/proc/self/exe").arg(name).status().is_ok_and(|status| status.success()) {
            println!("failed {name}: the probe died");
        }
    }
    println!("probed {}", FEATURES.len());
}

fn call(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(fd: i32) {
    // SAFETY: the call before made it, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

/// An empty directory on a tmpfs of its own.
fn place() -> io::Result<String> {
    let dir = format!("/tmp/probe-{}", std::process::id());
    fs::create_dir_all(&dir)?;
    mount_at("tmpfs", &dir, "tmpfs", "")?;
    Ok(dir)
}

fn mount_at(source: &str, at: &str, kind: &str, data: &str) -> io::Result<()> {
    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    let (source, at, kind, data) = (text(source), text(at), text(kind), text(data));
    // SAFETY: four texts that outlive the call.
    call(unsafe { mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, data.as_ptr().cast()) }).map(drop)
}

fn mounted(source: &str, kind: &str, data: &str) -> io::Result<()> {
    mount_at(source, &place()?, kind, data)
}

fn is_in(path: &str, words: &[&str]) -> io::Result<()> {
    let text = fs::read_to_string(path)?;
    let missing: Vec<_> = words.iter().filter(|word| !text.split_whitespace().any(|other| other == **word)).collect();
    if missing.is_empty() { Ok(()) } else { Err(wrong(format!("{path} lacks {missing:?}"))) }
}

fn overlay() -> io::Result<()> {
    let dir = place()?;
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(format!("{dir}/{name}"))?;
    }
    fs::write(format!("{dir}/lower/file"), "below")?;
    let merged = format!("{dir}/merged");
    let data = format!("lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work");
    mount_at("overlay", &merged, "overlay", &data)?;
    fs::write(format!("{merged}/file"), "above")?;
    let (above, below) = (fs::read(format!("{dir}/upper/file"))?, fs::read(format!("{dir}/lower/file"))?);
    if above == b"above" && below == b"below" {
        Ok(())
    } else {
        Err(wrong("a write did not go to the upper directory"))
    }
}

fn fuse() -> io::Result<()> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mounted("probe", "fuse", &data)
}

fn loop_device() -> io::Result<()> {
    let dir = place()?;
    let image = format!("{dir}/image");
    let file = File::options().read(true).write(true).create(true).open(&image)?;
    file.set_len(1 << 20)?;
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    // SAFETY: LOOP_CTL_GET_FREE, LOOP_SET_FD and LOOP_CLR_FD take numbers.
    let number = call(unsafe { ioctl(control.as_raw_fd(), 0x4c82, 0) })?;
    let device = File::options().read(true).write(true).open(format!("/dev/loop{number}"))?;
    call(unsafe { ioctl(device.as_raw_fd(), 0x4c00, i64::from(file.as_raw_fd())) })?;
    let size = io::Seek::seek(&mut &device, io::SeekFrom::End(0))?;
    call(unsafe { ioctl(device.as_raw_fd(), 0x4c01, 0) })?;
    if size == 1 << 20 { Ok(()) } else { Err(wrong(format!("the device has {size} bytes"))) }
}

fn devpts() -> io::Result<()> {
    let dir = place()?;
    mount_at("devpts", &dir, "devpts", "newinstance,ptmxmode=0666")?;
    let terminal = File::options().read(true).write(true).open(format!("{dir}/ptmx"))?;
    let mut number = 0_i32;
    // SAFETY: TIOCGPTN writes a number that outlives the call.
    call(unsafe { ioctl(terminal.as_raw_fd(), 0x8004_5430_u32 as i32, (&raw mut number) as i64) })?;
    if Path::new(&format!("{dir}/{number}")).exists() { Ok(()) } else { Err(wrong("the terminal has no name")) }
}

fn file_systems() -> io::Result<()> {
    is_in(
        "/proc/filesystems",
        &["ext4", "overlay", "fuse", "virtiofs", "tmpfs", "squashfs", "erofs", "cgroup2", "hugetlbfs"],
    )
}

/// Mount, UTS, IPC, PID, network, control group, time.
const NAMESPACES: [i32; 7] = [0x0002_0000, 0x0400_0000, 0x0800_0000, 0x2000_0000, 0x4000_0000, 0x0200_0000, 0x80];

fn namespaces() -> io::Result<()> {
    // SAFETY: a number.
    NAMESPACES.iter().try_for_each(|&flag| call(unsafe { unshare(flag) }).map(drop))
}

fn user_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWUSER; a process with one thread.
    call(unsafe { unshare(0x1000_0000) })?;
    fs::write("/proc/self/uid_map", "0 0 1\n")?;
    // SAFETY: CLONE_NEWNET, with the rights that the new user has in its namespace.
    call(unsafe { unshare(0x4000_0000) }).map(drop)
}

fn cgroup_controllers() -> io::Result<()> {
    let dir = place()?;
    mount_at("cgroup2", &dir, "cgroup2", "")?;
    is_in(&format!("{dir}/cgroup.controllers"), &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"])
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers; the socket is nobody else's.
    call(unsafe { socket_(family, kind, protocol) }).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A netlink attribute.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut out = ((content.len() + 4) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Attributes inside an attribute.
fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &attributes.concat())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, format!("{text}\0").as_bytes())
}

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

fn message(kind: u16, flags: u16, sequence: u32, head: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    let body = [head, &attributes.concat()].concat();
    let mut out = ((body.len() + 16) as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((flags | REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    out.extend(body);
    out
}

/// Sends messages over netlink in a network of its own, and reads as many acknowledgements; an error of any is the answer's.
fn netlink(protocol: i32, messages: &[Vec<u8>], acknowledgements: usize) -> io::Result<()> {
    // SAFETY: CLONE_NEWNET; then plain socket calls on buffers that outlive them.
    call(unsafe { unshare(0x4000_0000) })?;
    let socket = call(unsafe { socket_(16, 3, protocol) })?;
    let bytes = messages.concat();
    call(unsafe { send(socket, bytes.as_ptr(), bytes.len(), 0) } as i32)?;
    let mut left = acknowledgements;
    while left > 0 {
        let mut buffer = [0_u8; 8192];
        let read = call(unsafe { recv(socket, buffer.as_mut_ptr(), buffer.len(), 0) } as i32)? as usize;
        let mut at = 0;
        while at + 20 <= read {
            let length = u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap()) as usize;
            let kind = u16::from_ne_bytes(buffer[at + 4..at + 6].try_into().unwrap());
            if kind == 2 {
                let error = i32::from_ne_bytes(buffer[at + 16..at + 20].try_into().unwrap());
                if error != 0 {
                    return Err(io::Error::from_raw_os_error(-error));
                }
                left = left.saturating_sub(1);
            }
            at += length.max(16).next_multiple_of(4);
        }
    }
    own(socket);
    Ok(())
}

/// RTM_NEWLINK with IFLA_IFNAME and IFLA_LINKINFO.
fn link(kind: &str) -> io::Result<()> {
    let attributes = [text(3, "probe0"), nested(18, &[text(1, kind)])];
    netlink(0, &[message(16, ACK | CREATE | 0x200, 1, &[0; 16], &attributes)], 1)?;
    if fs::read_to_string("/proc/self/net/dev")?.contains("probe0") {
        Ok(())
    } else {
        Err(wrong("the device is not there"))
    }
}

const INET: u8 = 1;
const IPV4: u8 = 2;

/// A family, a version of 0 and a number of the subsystem.
fn generic(family: u8, resource: u16) -> Vec<u8> {
    [&[family, 0][..], &resource.to_be_bytes()].concat()
}

/// A table, a chain for translated addresses, and a rule that masquerades.
fn nftables() -> io::Result<()> {
    let (table, chain, rule) = (10 << 8, (10 << 8) | 3, (10 << 8) | 6);
    let hook = nested(4, &[attribute(1, &4_u32.to_be_bytes()), attribute(2, &100_u32.to_be_bytes())]);
    let masquerade = nested(4, &[nested(1, &[text(1, "masq")])]);
    let head = generic(INET, 0);
    netlink(
        12,
        &[
            message(16, 0, 0, &generic(0, 10), &[]),
            message(table, ACK | CREATE, 1, &head, &[text(1, "probe")]),
            message(chain, ACK | CREATE, 2, &head, &[text(1, "probe"), text(3, "out"), hook, text(7, "nat")]),
            message(rule, ACK | CREATE | APPEND, 3, &head, &[text(1, "probe"), text(2, "out"), masquerade]),
            message(17, 0, 4, &generic(0, 10), &[]),
        ],
        3,
    )
}

/// Asks for the match `addrtype`, as iptables-nft does.
fn iptables_nft() -> io::Result<()> {
    let attributes = [text(1, "addrtype"), attribute(2, &1_u32.to_be_bytes()), attribute(3, &0_u32.to_be_bytes())];
    netlink(12, &[message(11 << 8, ACK, 1, &generic(IPV4, 0), &attributes)], 1)
}

fn iptables_legacy() -> io::Result<()> {
    let socket = socket(2, 3, 255)?;
    let mut info = [0_u8; 84];
    info[..3].copy_from_slice(b"nat");
    let mut size = info.len() as u32;
    // SAFETY: IPT_SO_GET_INFO fills the buffer of the size that is given.
    call(unsafe { getsockopt(socket.as_raw_fd(), 0, 64, info.as_mut_ptr(), &raw mut size) }).map(drop)
}

/// IPSET_CMD_CREATE of a set of networks.
fn ip_set() -> io::Result<()> {
    let attributes = [
        attribute(1, &[7]),
        text(2, "probe"),
        text(3, "hash:net"),
        attribute(4, &[6]),
        attribute(5, &[2]),
        nested(7, &[]),
    ];
    netlink(12, &[message((6 << 8) | 2, ACK | CREATE, 1, &generic(2, 0), &attributes)], 1)
}

fn tun() -> io::Result<()> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0_u8; 40];
    request[..6].copy_from_slice(b"probe0");
    request[16..18].copy_from_slice(&0x1001_u16.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes an ifreq that outlives the call.
    call(unsafe { ioctl(device.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr() as i64) }).map(drop)
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const BPF: i64 = 321;
    pub const SECCOMP: i64 = 317;
    pub const KEYCTL: i64 = 250;
    pub const GETPPID: u32 = 110;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const BPF: i64 = 280;
    pub const SECCOMP: i64 = 277;
    pub const KEYCTL: i64 = 219;
    pub const GETPPID: u32 = 173;
}

/// A filter that refuses getppid(2).
fn seccomp() -> io::Result<()> {
    let program: [(u16, u8, u8, u32); 4] =
        [(0x20, 0, 0, 0), (0x15, 0, 1, number::GETPPID), (0x06, 0, 0, 0x0005_0000 | 7), (0x06, 0, 0, 0x7fff_0000)];
    let bytes: Vec<u8> = program
        .iter()
        .flat_map(|(code, yes, no, k)| [&code.to_ne_bytes()[..], &[*yes, *no], &k.to_ne_bytes()].concat())
        .collect();
    let header: [u64; 2] = [program.len() as u64, bytes.as_ptr() as u64];
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers; SECCOMP_SET_MODE_FILTER a program that outlives the call.
    call(unsafe { prctl(38, 1, 0, 0, 0) })?;
    call(unsafe { syscall(number::SECCOMP, 1_i64, 0_i64, header.as_ptr() as i64) } as i32)?;
    let answer = unsafe { syscall(i64::from(number::GETPPID)) };
    let refused = answer == -1 && io::Error::last_os_error().raw_os_error() == Some(7);
    if refused { Ok(()) } else { Err(wrong("the call was not refused")) }
}

fn landlock() -> io::Result<()> {
    // SAFETY: asked for its version, landlock_create_ruleset reads nothing.
    let version = call(unsafe { syscall(444, 0_i64, 0_i64, 1_i64) } as i32)?;
    if version >= 1 { Ok(()) } else { Err(wrong("no version")) }
}

fn keyring() -> io::Result<()> {
    // SAFETY: KEYCTL_GET_KEYRING_ID of the session's keyring, made when there is none.
    call(unsafe { syscall(number::KEYCTL, 0_i64, -3_i64, 1_i64) } as i32).map(drop)
}

fn inotify() -> io::Result<()> {
    let dir = place()?;
    let path = std::ffi::CString::new(dir.as_str()).unwrap();
    // SAFETY: a text and a buffer that outlive the calls.
    let watch = call(unsafe { inotify_init1(0) })?;
    call(unsafe { inotify_add_watch(watch, path.as_ptr(), 0x100) })?;
    fs::write(format!("{dir}/new"), "")?;
    let mut buffer = [0_u8; 256];
    let read = call(unsafe { read(watch, buffer.as_mut_ptr(), buffer.len()) } as i32)?;
    own(watch);
    if read >= 16 { Ok(()) } else { Err(wrong("no event")) }
}

fn io_uring() -> io::Result<()> {
    let mut parameters = [0_u8; 120];
    // SAFETY: io_uring_setup reads and writes its parameters, of that size.
    call(unsafe { syscall(425, 4_i64, parameters.as_mut_ptr() as i64) } as i32).map(own)
}

/// Loads a program of a kind that gives 0.
fn bpf_program(kind: u32) -> io::Result<()> {
    let instructions: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(kind) | (2 << 32);
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    // SAFETY: BPF_PROG_LOAD reads attributes of that size, which outlive the call with what they name.
    call(unsafe { syscall(number::BPF, 5_i64, attributes.as_ptr() as i64, 128_i64) } as i32).map(own)
}

/// Puts a probe at a function of the kernel and takes it away again; the entry of a system call is there to be traced.
fn tracing() -> io::Result<()> {
    let dir = place()?;
    mount_at("tracefs", &dir, "tracefs", "")?;
    // Appended: whoever cuts the file off takes all probes away.
    let mut probes = File::options().append(true).open(format!("{dir}/kprobe_events"))?;
    for line in ["p:probe/opened do_sys_openat2\n", "-:probe/opened\n"] {
        io::Write::write_all(&mut probes, line.as_bytes())?;
    }
    fs::metadata(format!("{dir}/events/syscalls/sys_enter_openat")).map(drop)
}

unsafe extern "C" {
    fn mount(
        source: *const std::ffi::c_char,
        at: *const std::ffi::c_char,
        kind: *const std::ffi::c_char,
        flags: u64,
        data: *const u8,
    ) -> i32;
    fn unshare(flags: i32) -> i32;
    fn ioctl(fd: i32, request: i32, argument: i64) -> i32;
    #[link_name = "socket"]
    fn socket_(family: i32, kind: i32, protocol: i32) -> i32;
    fn send(fd: i32, bytes: *const u8, size: usize, flags: i32) -> isize;
    fn recv(fd: i32, bytes: *mut u8, size: usize, flags: i32) -> isize;
    fn getsockopt(fd: i32, level: i32, name: i32, value: *mut u8, size: *mut u32) -> i32;
    fn prctl(option: i32, a: u64, b: u64, c: u64, d: u64) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn inotify_init1(flags: i32) -> i32;
    fn inotify_add_watch(fd: i32, path: *const std::ffi::c_char, mask: u32) -> i32;
    fn fanotify_init(flags: u32, event_flags: u32) -> i32;
    fn read(fd: i32, bytes: *mut u8, size: usize) -> isize;
}

//! The floor of a boot: the same QEMU, kernel and initramfs, with an init that prints its clock and powers off.

#![allow(dead_code, reason = "each bench uses its part")]

use std::{
    fs,
    process::{Command, Stdio},
};

use microagent_tests::{
    host::Host,
    qemu::{arguments_of, value},
    static_program,
};

/// What a bare machine's kernel is told.
#[derive(Clone, Copy)]
pub(crate) enum Line {
    /// What somebody gives who starts it by hand, and what the guest's clock needs to be right under translation.
    ByHand,
    /// All that our machines are given.
    Ours,
}

/// Words of ours without which a bare machine boots as well: they are what the boot is made faster by.
const OURS_ALONE: [&str; 4] = ["reboot=t", "8250.nr_uarts=1", "cryptomgr.notests", "rcupdate.rcu_expedited=1"];

/// A machine with no guest-init.
pub(crate) struct Bare {
    command: Vec<String>,
}

impl Bare {
    /// Takes QEMU's command line from a machine of ours that runs, without the devices whose drivers the bare init loads not.
    pub(crate) fn of_machine(host: &Host, name: &str) -> Option<Self> {
        let uid = host.object(name)["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut command = without_devices(arguments_of(&uid).expect("the machine's QEMU runs"));
        let initramfs = value(&mut command, "-initrd");
        let Some(init) = static_program::compile("benches/bare/init.rs", host.scratch().join("bare-init")) else {
            eprintln!("bare boot not measured: no static init could be built");
            return None;
        };
        let bare = host.scratch().join("bare.cpio");
        fs::write(&bare, with_init(&fs::read(&*initramfs).unwrap(), &fs::read(init).unwrap())).unwrap();
        *initramfs = bare.to_string_lossy().into_owned();
        Some(Self { command })
    }

    /// Boots once; gives the guest's clock at the init's first line, in ms.
    pub(crate) fn boot(&self, line: Line) -> f64 {
        let mut command = self.command.clone();
        if matches!(line, Line::ByHand) {
            let append = value(&mut command, "-append");
            let words: Vec<&str> = append.split(' ').filter(|word| !OURS_ALONE.contains(word)).collect();
            *append = words.join(" ");
        }
        let output = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output().unwrap();
        let console = String::from_utf8_lossy(&output.stdout);
        let line = console.lines().find_map(|line| line.trim().strip_prefix("bare-init "));
        let line = line.unwrap_or_else(|| {
            eprintln!("the bare machine did not print its line:\n{console}{}", String::from_utf8_lossy(&output.stderr));
            std::process::exit(1)
        });
        line.trim().parse().unwrap()
    }
}

/// Without disks, vsock and random numbers: the processes behind them are the other machine's.
fn without_devices(args: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-blockdev" | "-device" => drop(args.next()),
            "-chardev" => match args.next() {
                Some(console) if console.starts_with("stdio") => kept.extend([arg, console]),
                _ => {}
            },
            _ => kept.push(arg),
        }
    }
    kept
}

/// An initramfs ("newc" cpio) with the content of `/init` replaced.
fn with_init(mut cpio: &[u8], init: &[u8]) -> Vec<u8> {
    /// Magic and thirteen fields of eight hexadecimal digits.
    const HEADER: usize = 6 + 13 * 8;
    /// The seventh field.
    const SIZE: std::ops::Range<usize> = 54..62;
    let mut out = Vec::new();
    while cpio.len() > HEADER {
        let field = |at: usize| usize::from_str_radix(std::str::from_utf8(&cpio[at..at + 8]).unwrap(), 16).unwrap();
        let (size, name) = (field(SIZE.start), field(94));
        let content = (HEADER + name).next_multiple_of(4);
        let end = (content + size).next_multiple_of(4).min(cpio.len());
        let start = out.len();
        out.extend(&cpio[..content]);
        if &cpio[HEADER..HEADER + name] == b"init\0" {
            out[start..][SIZE].copy_from_slice(format!("{:08x}", init.len()).as_bytes());
            out.extend(init);
            out.resize(out.len().next_multiple_of(4), 0);
        } else {
            out.extend(&cpio[content..end]);
        }
        cpio = &cpio[end..];
    }
    out
}

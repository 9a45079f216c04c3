//! What `/proc` says of a process.

use std::fs;

/// Seconds of CPU time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// Of the process.
    pub(crate) own: f64,
    /// Of its children that it has waited for.
    pub(crate) children: f64,
}

/// Fields 14 to 17 of `/proc/PID/stat`, proc(5).
pub(crate) fn cpu(pid: u32) -> Cpu {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, rest) = text.rsplit_once(") ").expect("a command name");
    let fields: Vec<&str> = rest.split(' ').collect();
    #[expect(clippy::cast_precision_loss, reason = "a number of ticks below 2^52")]
    let seconds =
        |n: usize| fields[n - 3].parse::<u64>().expect("ticks") as f64 / rustix::param::clock_ticks_per_second() as f64;
    Cpu { own: seconds(14) + seconds(15), children: seconds(16) + seconds(17) }
}

/// The most memory that it ever had resident.
pub(crate) fn peak_rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number of KiB") / 1024.0
}

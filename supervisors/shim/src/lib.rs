//! What every supervisor of microagent shares.
//!
//! A supervisor's `main` gives its [`Backend`] to [`main`], which reads one request, carries it out on the machine's
//! directory, and writes one response. `start` leaves behind a *shim*: the same executable as `<exe> shim <directory>`, in a
//! session of its own. The shim is the parent of the VMM and of the program that serves vsock, so the kernel ends both when the
//! shim ends, however it ends. It owns the machine's directory:
//!
//! | name | content |
//! |---|---|
//! | `machine.json` | the [`Record`]: replaced whole on each change, so a watcher of the directory sees a rename |
//! | `console.log`, `console.log.1` | the serial console |
//! | `workload.log`, `workload.log.1` | output of setup and workload, in the CRI log format |
//! | `vmm.log`, `shim.log` | what the VMM, its helper and the shim said on standard error |
//! | `vsock.sock` | the guest's vsock ports for clients, by the `CONNECT <port>` handshake; cut while the machine is quarantined |
//! | `guest.sock` | the same ports for the shim alone, where a program serves vsock |
//! | `activity` | empty; the time of its last change is when the machine was last used, at most a second behind |
//! | `outputs/NAME.tar` | what the guest copied out when its workload had ended; removed by the next start |
//! | `logger.fifo` | what the VMM logs on a pipe of its own; it goes to `vmm.log` |
//! | `metrics.json`, `metrics.fifo` | what the VMM told last of its metrics, and the pipe on which it does |
//! | `memory` | the memory that a machine went on from, where it had to be put together |
//! | `jail` | the root directory of a VMM that is jailed; gone with the machine |
//! | `control.sock` | how `halt`, `kill`, `pause`, `resume` and `quarantine` reach the shim |
//! | `shim.lock` | locked while the shim lives; holds its process id |

mod activity;
mod answer;
mod backend;
mod bridge;
pub mod cgroup;
mod config;
#[cfg(target_os = "linux")]
mod confine;
mod console;
mod control;
mod dir;
mod disks;
mod end_of_log;
mod far;
mod gc;
mod guest;
mod handover;
mod hear;
pub mod kernel_args;
#[cfg(target_os = "linux")]
pub mod kvm;
mod launch;
mod life;
mod log;
#[cfg(target_os = "linux")]
pub mod memory;
mod outputs;
pub mod program;
mod record;
pub mod relay;
mod run;
mod snapshot;
pub mod socket;
mod timers;
mod verbs;
mod vmm;
mod wish;
mod word;

pub use answer::main;
pub use backend::{Backend, Confined, Launch, Program, VERBS};
#[cfg(target_os = "linux")]
pub use confine::Bind;
pub use dir::{
    CONSOLE_LOG, GUEST_SOCKET, JAIL, LOGGER, MACHINE_RECORD, MERGED_MEMORY, METRICS, METRICS_PIPE, VSOCK_SOCKET,
    WORKLOAD_LOG,
};
pub use record::Record;

//! The guest's PID 1. It boots the machine to the point where the host can speak to it, becomes what the host's
//! configuration says, and from then on only supervises: it reaps, relays output, serves execs and powers off.
//!
//! It never panics by design: a panic of PID 1 is a kernel panic, which ends the machine without a report.

mod cgroup;
mod children;
mod clock;
mod console;
mod copy;
mod disks;
mod error;
mod exec;
mod files;
mod health;
mod http;
mod machine;
mod modules;
mod mounts;
mod outputs;
mod peer;
mod power;
mod probe;
mod process;
mod program;
mod relay;
mod root;
mod secrets;
mod server;
mod session;
mod setup;
mod stream;
mod successor;
#[allow(unsafe_code, reason = "system calls that no library makes safely; each with its SAFETY line")]
mod sys;
mod tcp;
mod user;

use std::sync::{Arc, mpsc};

use microagent_guest_protocol::{CONTROL_PORT, LISTENING_LINE};

fn main() {
    let init_ms = clock::uptime_ms();
    if std::process::id() != 1 {
        // The workload of the conformance kit, whose disk holds nothing but this program.
        if std::env::args().nth(1).as_deref() == Some("idle") {
            loop {
                std::thread::park();
            }
        }
        eprintln!(
            "microagent-guest-init is the first process of a microVM's kernel: it does nothing when started by hand. \
             Put it as /init into an initramfs."
        );
        std::process::exit(2);
    }
    sys::block_signals();
    mounts::early();
    console::open();
    process::prepare_self();
    let (channel, others) = modules::find("/modules");
    modules::load_all(&channel);
    let listener = match sys::vsock_listen(CONTROL_PORT) {
        Ok(listener) => listener,
        Err(e) => {
            console::say(&format!(
                "cannot listen on vsock port {CONTROL_PORT}: {e}. The host cannot reach this machine. Give the machine a \
                 vsock device, and the initramfs the kernel's vsock modules. Powering off"
            ));
            power::off()
        }
    };
    let (commands, inbox) = mpsc::channel();
    let machine = Arc::new(machine::Machine::new(init_ms, clock::uptime_ms(), commands));
    console::line(LISTENING_LINE);
    // The host's connection and configuration arrive meanwhile: the kernel keeps them until the server accepts.
    modules::load_all(&others);
    if let Err(e) = sys::loopback_up() {
        console::say(&format!("cannot bring up the loopback interface: {e}"));
    }
    let started = children::start_reaper(&machine.children)
        .and_then(|()| power::start_signal_watch(&machine))
        .and_then(|()| server::start(&machine, listener));
    if let Err(e) = started {
        console::say(&format!("cannot start a thread: {e}. Give the machine more memory. Powering off"));
        power::off()
    }
    power::wait_for_the_end(&machine, &inbox)
}

//! What the kernel of a Firecracker machine is told beside what every kernel here is.

use microagent_shim::kernel_args::{self, Arg};

/// The words. Firecracker itself adds `pci=off`, and where its devices are.
const FIRECRACKER: &[Arg] = &[
    Arg {
        word: "reboot=k",
        why: "restarts by the keyboard controller, which Firecracker takes for the end of the machine",
    },
    Arg {
        word: "microagent.off=restart",
        why: "there is no power switch: a kernel that is told to power off would only stand still, so guest-init restarts",
    },
    Arg { word: "i8042.noaux", why: "there is no mouse; the probe for one waits for answers that never come" },
    Arg { word: "i8042.nomux", why: "nor are there four mice behind one controller" },
    Arg {
        word: "i8042.dumbkbd",
        why: "the keyboard is there for Ctrl+Alt+Del alone and does not answer commands, each of which is waited for. \
              `i8042.nokbd` would save more, and with it a guest that does not answer could not be asked to end",
    },
    Arg {
        word: "swiotlb=noforce",
        why: "Firecracker reads and writes all of the guest's memory: 64 MiB of bounce buffers are not set aside",
    },
];

/// The command line: ours, then the caller's, whose words win where a word is given twice.
pub(crate) fn command_line(callers: &[String]) -> String {
    let mut words = kernel_args::words(FIRECRACKER);
    words.extend_from_slice(callers);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_words_come_last() {
        insta::assert_snapshot!(
            command_line(&["quiet".to_owned()]),
            @"console=ttyS0 loglevel=4 panic=-1 8250.nr_uarts=1 cryptomgr.notests rcupdate.rcu_expedited=1 reboot=k microagent.off=restart i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce quiet"
        );
    }
}

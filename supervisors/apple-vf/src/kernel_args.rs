//! What the kernel of a machine of the framework is told beside what every kernel here is.

use microagent_shim::kernel_args::{self, Arg};

/// The words. The framework adds none.
const APPLE_VF: [Arg; 2] = [
    Arg { word: "console=hvc0", why: "the virtio console is the only one: boot, readiness and panics are told there" },
    Arg {
        word: "panic=0",
        why: "a kernel that panicked stands still until the shim, which has heard of it, ends the machine; what the framework makes of a \
              restart is not written down, and a guest that boots again would run its workload unasked",
    },
];

/// Those of other machines that are not for these: there is no serial port, and no restart.
const NOT_HERE: [&str; 3] = ["console=ttyS0", "8250.nr_uarts=1", "panic=-1"];

/// The command line: ours, then the caller's, whose words win where a word is given twice.
pub(crate) fn command_line(callers: &[String]) -> String {
    let mut words: Vec<String> = APPLE_VF.iter().map(|arg| arg.word.to_owned()).collect();
    words.extend(kernel_args::words_but(&NOT_HERE));
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
            @"console=hvc0 panic=0 loglevel=4 cryptomgr.notests rcupdate.rcu_expedited=1 quiet"
        );
    }
}

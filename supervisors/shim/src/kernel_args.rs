//! The words on a guest kernel's command line, each with its reason.

/// One word.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// As the kernel reads it.
    pub word: &'static str,
    /// For whoever wonders why the word is there.
    pub why: &'static str,
}

/// What every machine of an x86 VMM here is given.
const ALWAYS: [Arg; 6] = [
    Arg {
        word: "console=ttyS0",
        why: "the serial port is the only console: boot, readiness and panics are told there",
    },
    Arg {
        word: "loglevel=4",
        why: "the log is for finding faults: warnings, panics and the listening line stay, progress goes",
    },
    Arg { word: "panic=-1", why: "a panic restarts at once, which ends the VMM" },
    Arg { word: "8250.nr_uarts=1", why: "there is one serial port; others are not looked for" },
    Arg {
        word: "cryptomgr.notests",
        why: "the self-tests of the kernel's ciphers find compilers' and drivers' faults, once for each kernel and not at each \
              boot; translated they take a seventh of it",
    },
    Arg {
        word: "rcupdate.rcu_expedited=1",
        why: "what waits for all CPUs asks them instead of waiting for their ticks, as moving a process into its control \
              group does for each start and exec; guests have few CPUs to ask",
    },
];

/// The words of every machine but these, for a VMM whose machines are not like the others.
#[must_use]
pub fn words_but(without: &[&str]) -> Vec<String> {
    ALWAYS.iter().map(|a| a.word).filter(|word| !without.contains(word)).map(str::to_owned).collect()
}

/// The words of every machine, then those of this VMM.
#[must_use]
pub fn words(of_vmm: &[Arg]) -> Vec<String> {
    ALWAYS.iter().chain(of_vmm).map(|a| a.word.to_owned()).collect()
}

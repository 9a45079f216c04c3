//! The words on the kernel's command line, each with its reason.

use microagent_supervisor_protocol::Accelerator;

use crate::tsc::Tsc;

/// One word.
struct Arg {
    word: &'static str,
    #[allow(dead_code, reason = "for whoever wonders why the word is there")]
    why: &'static str,
}

const ALWAYS: [Arg; 7] = [
    Arg {
        word: "console=ttyS0",
        why: "the serial port is the only console: boot, readiness and panics are told there",
    },
    Arg {
        word: "loglevel=4",
        why: "the log is for finding faults: warnings, panics and the listening line stay, progress goes",
    },
    Arg { word: "panic=-1", why: "a panic restarts at once, which ends QEMU because of -no-reboot" },
    Arg { word: "reboot=t", why: "restarts by a triple fault: works on every machine type and asks no device first" },
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

/// Under translation the counter's calibration against the timer depends on how busy the host is; it can fail, and the
/// kernel then hangs.
const TRANSLATED: [Arg; 1] = [Arg {
    word: "no_timer_check",
    why: "the check that the timer interrupt works measures it against a busy host too",
}];

/// Where the counter's frequency is told, and the host's own kernel trusts the counter.
const STEADY: [Arg; 1] = [Arg {
    word: "tsc=reliable",
    why: "the kernel's watchdog holds the counter against the timer's ticks, which a busy host delivers late, then gives the \
          counter up for those ticks, and the guest's clocks run slow from there on",
}];

/// The command line: ours, then the caller's, whose words win where a word is given twice.
pub(crate) fn command_line(accelerator: Accelerator, tsc: Option<Tsc>, callers: &[String]) -> String {
    let mut words: Vec<String> = ALWAYS.iter().map(|a| a.word.to_owned()).collect();
    if accelerator == Accelerator::Tcg {
        words.extend(TRANSLATED.iter().map(|a| a.word.to_owned()));
        // QEMU's translator gives the host's counter to the guest as it is.
        words.extend(tsc.map(|tsc| format!("tsc_early_khz={}", tsc.khz)));
        if tsc.is_some_and(|tsc| tsc.steady) {
            words.extend(STEADY.iter().map(|a| a.word.to_owned()));
        }
    }
    words.extend_from_slice(callers);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_the_host_does_not_trust_is_not_called_reliable() {
        let line = |steady| command_line(Accelerator::Tcg, Some(Tsc { khz: 1, steady }), &[]);
        assert!(line(true).contains("tsc_early_khz=1 tsc=reliable"));
        assert!(line(false).contains("tsc_early_khz=1") && !line(false).contains("tsc=reliable"));
    }
}

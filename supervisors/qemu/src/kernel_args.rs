//! The words on the kernel's command line, each with its reason.

use microagent_shim::kernel_args::{self, Arg};
use microagent_supervisor_protocol::Accelerator;

use crate::tsc::Tsc;

/// Where the machine differs from those of other VMMs.
const QEMU: [Arg; 1] =
    [Arg { word: "reboot=t", why: "restarts by a triple fault: works on every machine type and asks no device first" }];

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
    let mut words = kernel_args::words(&QEMU);
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

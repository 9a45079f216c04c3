//! What the kernel of a machine of the framework is told beside what every kernel here is.

use microagent_shim::kernel_args::{self, Arg};

/// The words. The framework adds none.
const APPLE_VF: &[Arg] = &[Arg {
    word: "console=hvc0",
    why: "the virtio console is the only one: boot, readiness and panics are told there",
}];

/// The command line: ours, then the caller's, whose words win where a word is given twice.
pub(crate) fn command_line(callers: &[String]) -> String {
    let mut words: Vec<String> = APPLE_VF.iter().map(|arg| arg.word.to_owned()).collect();
    words.extend(kernel_args::words_without_uart());
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
            @"console=hvc0 loglevel=4 panic=-1 cryptomgr.notests rcupdate.rcu_expedited=1 quiet"
        );
    }
}

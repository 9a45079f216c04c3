//! A supervisor for tests: its machines are processes. See `microagent_tests::fake`.

use std::process::ExitCode;

fn main() -> ExitCode {
    microagent_tests::fake::main()
}

//! A strict stand-in for Firecracker, and for its jailer. See `microagent_tests::firecracker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    microagent_tests::firecracker::main()
}

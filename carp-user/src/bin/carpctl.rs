//! The program `carpctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    carp_user::carpctl()
}

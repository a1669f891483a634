//! Keeps a virtual IP alive when a server dies.

use std::process::ExitCode;

fn main() -> ExitCode {
    carp_user::carpd()
}

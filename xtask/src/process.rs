//! Running other programs, with errors that say which one failed and how.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The cargo that runs us, or else the one in PATH, in the workspace's folder.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// [`cargo`] for a build of its own kind: it knows nothing of the flags, wrappers and profiles of the build around
/// this process, be it cargo, clippy or an editor.
pub fn cargo_apart() -> Command {
    apart(cargo())
}

/// The same for a program that runs cargo itself.
pub fn apart(mut command: Command) -> Command {
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_outer_build(name)) {
        command.env_remove(name);
    }
    command
}

/// `program` as root, through sudo if this process is not root's.
pub fn as_root(program: &Path) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    read(sudo.arg("--version")).context("this needs root, and there is no sudo here: run it as root")?;
    eprintln!("carp: this needs root: going through sudo");
    let mut sudo = Command::new("sudo");
    sudo.arg("--preserve-env").arg(program);
    Ok(sudo)
}

/// Whether this process is root's.
pub fn is_root() -> Result<bool> {
    let process = fs::metadata("/proc/self").context("cannot look at /proc/self: is /proc mounted?")?;
    Ok(process.uid() == 0)
}

/// Runs `command` to its end, its output going where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Like [`run`], but what it prints joins the progress on stderr, and it is asked nothing.
pub fn run_on_stderr(command: &mut Command) -> Result<()> {
    run(command.stdin(Stdio::null()).stdout(io::stderr()))
}

/// Runs `command` and returns what it printed; what it said on stderr goes into the error if it fails, and is dropped
/// otherwise.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", line(command), output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed something that is not UTF-8", line(command)))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}

/// Whether a variable tells how the build around this process is done, on the host. A linker set for the host stays:
/// procedural macros are built for the host in any case.
fn is_of_outer_build(name: &OsStr) -> bool {
    const NAMES: [&str; 8] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
    ];
    const STARTS: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_BPF"];
    let Some(name) = name.to_str() else {
        return false;
    };
    NAMES.contains(&name) || STARTS.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_its_status_and_its_words() {
        let error = read(Command::new("sh").args(["-c", "echo no such wire >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("no such wire"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert_eq!(error.to_string(), "cannot run `no-such-program-here`");
    }

    #[test]
    fn flags_wrappers_and_profiles_of_the_outer_build_are_left_behind() {
        for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR", "CARGO_PROFILE_RELEASE_LTO"] {
            assert!(is_of_outer_build(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_network_the_jobserver_and_the_host_linker_stay() {
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_MAKEFLAGS",
            "CARGO_NET_OFFLINE",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
            "PATH",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(!is_of_outer_build(OsStr::new(name)), "{name}");
        }
    }
}

//! What compiling the XDP program needs: a compiler with `core` for the BPF target, and bpf-linker. Found on this
//! machine, or fetched into the user's cache.

mod compiler;
mod linker;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::cache::Cache;
use crate::process;
use compiler::Compiler;

const TARGET: &str = "bpfel-unknown-none";

/// A compiler and a linker for the XDP program.
#[derive(Debug)]
pub struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// The toolchain, if this machine has it. Only looks, never fetches.
    pub fn find() -> Result<Option<Self>> {
        let cache = Cache::of_user()?;
        let Some(compiler) = Compiler::find(&cache)? else {
            return Ok(None);
        };
        let linker = linker::find(&cache);
        Ok(linker.map(|linker| Self { compiler, linker }))
    }

    /// The toolchain; what is missing is fetched into the user's cache.
    pub fn find_or_fetch() -> Result<Self> {
        let cache = Cache::of_user()?;
        Ok(Self { compiler: Compiler::find_or_fetch(&cache)?, linker: linker::find_or_fetch(&cache)? })
    }

    /// What compiles and links, with their versions.
    pub fn versions(&self) -> Result<String> {
        let compiler = process::read(&mut self.compiler.version())?;
        // rustc 1.96.0 (ac68faa20 2026-05-25)
        let compiler: Vec<&str> = compiler.split_whitespace().take(2).collect();
        let linker = process::read(Command::new(&self.linker).arg("--version"))?;
        Ok(format!("{} and {}", compiler.join(" "), linker.trim_end()))
    }

    /// Builds the XDP program below `target_dir` and returns the object's path.
    ///
    /// A build script must not give the target folder of the cargo around it: that one holds the lock.
    pub fn build_object(&self, target_dir: &Path) -> Result<PathBuf> {
        process::run(&mut self.cargo("build", target_dir, &[]))?;
        let object = target_dir.join(TARGET).join("release/carp");
        ensure!(object.is_file(), "cargo left no {}", object.display());
        Ok(object)
    }

    /// Runs clippy on the XDP program, warnings denied, with `target_dir` as in [`Toolchain::build_object`].
    pub fn lint(&self, target_dir: &Path) -> Result<()> {
        let mut check = self.cargo("check", target_dir, &["-Dwarnings"]);
        process::run(check.env("RUSTC_WORKSPACE_WRAPPER", self.compiler.clippy()?))
    }

    fn cargo(&self, subcommand: &str, target_dir: &Path, more_flags: &[&str]) -> Command {
        let mut cargo = process::cargo_apart();
        cargo
            .args([subcommand, "--package", "carp-ebpf", "--target", TARGET, "--release", "--target-dir"])
            .arg(target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(more_flags));
        self.compiler.apply_to(&mut cargo);
        cargo
    }

    /// The flags as `CARGO_ENCODED_RUSTFLAGS` takes them, the variable that overrides every other source of flags.
    fn rustflags(&self, more: &[&str]) -> OsString {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        // From the DWARF, the linker makes the BTF that the kernel wants.
        let fixed = ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Ccodegen-units=1", "-Clink-arg=--btf"];
        let fixed = fixed.iter().chain(more).map(OsStr::new);
        fixed.chain([linker.as_os_str()]).collect::<Vec<_>>().join(OsStr::new("\u{1f}"))
    }
}

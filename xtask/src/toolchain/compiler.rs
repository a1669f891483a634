//! The compiler: the active one if it has the source of `core`, else Debian's with its prebuilt `core` for BPF.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::TARGET;
use crate::cache::Cache;
use crate::debian::{self, Packages};
use crate::{process, workspace};

/// The folder of Debian's compiler in the cache. A newer minimum gets a folder of its own.
const DEBIAN: &str = concat!("rustc-for-", env!("CARGO_PKG_RUST_VERSION"));

const PACKAGES: Packages<'_> = Packages {
    names: &["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"],
    // All of one version, and the only LLVM in the folder that bpf-linker looks into.
    together_with: &["libstd-rust-web-", "libllvm"],
};

/// What to do where there is no compiler and none can be fetched.
const NO_COMPILER: &str = "\
no compiler that has `core` for the BPF target, and none could be fetched. Open one of these two ways, \
then run `cargo xtask build` again:
  rustup:  rustup component add rust-src
  apt:     sudo apt-get update && apt-get download rustc-web libstd-rust-web-dev-bpf rust-web-clippy
           (Debian 12 or later; xtask unpacks these into its own cache as soon as apt can download them)";

/// A Rust compiler that has, or can build, `core` for the BPF target.
#[derive(Debug)]
pub(super) struct Compiler {
    /// The folder with `bin/rustc`.
    sysroot: PathBuf,
    /// Where rustc's libraries are, LLVM among them: a search path.
    libraries: OsString,
    /// Whether `core` has to be built, from the source in the sysroot.
    build_std: bool,
}

impl Compiler {
    pub(super) fn find(cache: &Cache) -> Result<Option<Self>> {
        if let Some(active) = Self::active()? {
            return Ok(Some(active));
        }
        Ok(cache.find(DEBIAN).as_deref().map(Self::debian))
    }

    pub(super) fn find_or_fetch(cache: &Cache) -> Result<Self> {
        if let Some(compiler) = Self::find(cache)? {
            return Ok(compiler);
        }
        eprintln!("carp: the active Rust toolchain has no rust-src: fetching Debian's compiler (120 MB)");
        let folder = cache.find_or_make(DEBIAN, |folder| {
            debian::unpack(PACKAGES, folder)?;
            Self::debian(folder).check()
        });
        Ok(Self::debian(&folder.context(NO_COMPILER)?))
    }

    /// Lets `cargo` compile for BPF with this compiler.
    pub(super) fn apply_to(&self, cargo: &mut Command) {
        cargo
            .env("RUSTC", self.rustc())
            // The BPF target is not a stable one, nor is build-std.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", self.library_path());
        if self.build_std {
            cargo.arg("-Zbuild-std=core");
        }
    }

    /// A command that prints which one it is.
    pub(super) fn version(&self) -> Command {
        let mut rustc = Command::new(self.rustc());
        rustc.arg("--version").env("LD_LIBRARY_PATH", self.library_path());
        rustc
    }

    /// This compiler's clippy-driver, which stands in for rustc.
    pub(super) fn clippy(&self) -> Result<PathBuf> {
        let driver = self.sysroot.join("bin/clippy-driver");
        ensure!(driver.is_file(), "no clippy for {}: run `rustup component add clippy`", self.rustc().display());
        Ok(driver)
    }

    /// The active toolchain's compiler, if `core` can be built with it.
    fn active() -> Result<Option<Self>> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let answer = process::read(Command::new(rustc).args(["--print", "sysroot"]).current_dir(workspace()))?;
        let sysroot = PathBuf::from(answer.trim_end());
        let has_source = sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
        Ok(has_source.then(|| Self { libraries: sysroot.join("lib").into(), sysroot, build_std: true }))
    }

    /// Debian's compiler, unpacked in `folder`.
    fn debian(folder: &Path) -> Self {
        let libraries = debian::library_path(&folder.to_string_lossy()).into();
        Self { sysroot: folder.join("usr"), libraries, build_std: false }
    }

    /// Fails if the compiler does not run here, or has no `core` for BPF.
    fn check(&self) -> Result<()> {
        let mut ask = Command::new(self.rustc());
        ask.args(["--print", "target-libdir", "--target", TARGET]).env("LD_LIBRARY_PATH", self.library_path());
        let core = PathBuf::from(process::read(&mut ask)?.trim_end());
        ensure!(core.is_dir(), "{} has no {}", self.rustc().display(), core.display());
        Ok(())
    }

    fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// Our libraries first: bpf-linker takes the first LLVM that it meets on this path.
    fn library_path(&self) -> OsString {
        let mut path = self.libraries.clone();
        if let Some(others) = env::var_os("LD_LIBRARY_PATH") {
            path.push(":");
            path.push(others);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_both_ways() {
        assert!(NO_COMPILER.contains("rustup component add rust-src"));
        assert!(NO_COMPILER.contains("apt-get update && apt-get download"));
    }

    #[test]
    fn the_message_names_every_package_that_is_fetched() {
        for name in PACKAGES.names {
            assert!(NO_COMPILER.contains(name), "{name}");
        }
    }
}

//! Builds the XDP program and tells the crate where it is, as `CARP_EBPF_OBJECT`; and what `--version` says beside the
//! version.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Error, Result};
use object::{Object, ObjectSection, SectionFlags, elf::SHF_ALLOC};
use sha1::{Digest, Sha1};
use xtask::{process, toolchain::Toolchain, workspace};

const NO_TOOLCHAIN: &str = "what compiles the XDP program is not here yet: run `cargo xtask build`, which fetches it";

fn main() -> ExitCode {
    let toolchain = Toolchain::find().and_then(|found| found.context(NO_TOOLCHAIN));
    match toolchain {
        // cargo stops at the error that it is told, and shows nothing else.
        Err(error) => tell(&error, ExitCode::SUCCESS),
        Ok(toolchain) => match build(&toolchain) {
            // cargo also shows what the compiler said.
            Err(error) => tell(&error, ExitCode::FAILURE),
            Ok(()) => ExitCode::SUCCESS,
        },
    }
}

fn tell(error: &Error, code: ExitCode) -> ExitCode {
    for line in format!("{error:#}").lines() {
        println!("cargo::error={line}");
    }
    code
}

fn build(toolchain: &Toolchain) -> Result<()> {
    watch_sources();
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: run this through cargo")?);
    let built = toolchain.build_object(&target_dir(&out))?;
    let object = out.join("carp");
    fs::copy(&built, &object).with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))?;
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let id = id(&bytes).with_context(|| format!("cannot read {}", object.display()))?;
    println!("cargo::rustc-env=CARP_EBPF_OBJECT={}", object.display());
    println!("cargo::rustc-env=CARP_EBPF_DIGEST={}", hex(&Sha1::digest(&bytes)));
    println!("cargo::rustc-env=CARP_EBPF_BUILD={id}, made by {}", toolchain.versions()?);
    println!("cargo::rustc-env=CARP_REVISION={}", revision());
    Ok(())
}

/// What the kernel gets to see of an object, as a number: the same wherever it is built, unlike the file with its names
/// of folders, and whatever runs it, unlike the kernel's tag.
fn id(object: &[u8]) -> Result<String> {
    let file = object::File::parse(object)?;
    let mut hash = Sha1::new();
    for section in file.sections() {
        if let SectionFlags::Elf { sh_flags } = section.flags()
            && sh_flags & u64::from(SHF_ALLOC) != 0
        {
            hash.update(section.data()?);
        }
    }
    Ok(hex(&hash.finalize()[..6]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The commit that is built, as far as that is known.
fn revision() -> String {
    // Not that of somebody else's repository, in which this lies unpacked from an archive.
    if !workspace().join(".git").exists() {
        return "unknown".to_owned();
    }
    let git = |words: &[&str]| process::read(Command::new("git").current_dir(workspace()).args(words));
    // Written whenever another commit is checked out or made.
    if let Ok(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={}", log.trim_end());
    }
    git(&["rev-parse", "--short=12", "HEAD"]).map_or_else(|_| "unknown".to_owned(), |text| text.trim_end().to_owned())
}

/// A target folder for the object alone: that of the cargo around us is locked. It is beside the profiles' folders, so
/// that debug, release and clippy share one object.
fn target_dir(out: &Path) -> PathBuf {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    let target = build.and_then(|build| build.parent()?.parent());
    target.unwrap_or(out).join("ebpf")
}

fn watch_sources() {
    let sources = ["carp-ebpf", "carp-common/src", "carp-common/Cargo.toml", "Cargo.toml", "Cargo.lock"];
    for path in sources {
        println!("cargo::rerun-if-changed={}", workspace().join(path).display());
    }
}

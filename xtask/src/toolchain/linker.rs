//! bpf-linker, which borrows the LLVM of the compiler whose output it links.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::{crates, process};

/// The last series that borrows rustc's LLVM; the next one wants LLVM installed on the system.
const SERIES: &str = "bpf-linker 0.10.";
const VERSION: &str = "0.10.3";

/// bpf-linker's folder in the cache.
const FOLDER: &str = "bpf-linker-0.10.3";

/// The linker in the cache, or one of the same series in PATH.
pub(super) fn find(cache: &Cache) -> Option<PathBuf> {
    if let Some(folder) = cache.find(FOLDER) {
        return Some(executable(&folder));
    }
    let version = process::read(Command::new("bpf-linker").arg("--version")).ok()?;
    version.starts_with(SERIES).then(|| "bpf-linker".into())
}

pub(super) fn find_or_fetch(cache: &Cache) -> Result<PathBuf> {
    if let Some(linker) = find(cache) {
        return Ok(linker);
    }
    eprintln!("carp: installing bpf-linker {VERSION} into the cache, in a minute or two");
    let folder =
        cache.find_or_make(FOLDER, |folder| crates::install("bpf-linker", VERSION, folder)).with_context(|| {
            format!(
                "cannot install bpf-linker; `cargo install bpf-linker --locked --version {VERSION}` by hand will do"
            )
        })?;
    Ok(executable(&folder))
}

fn executable(folder: &Path) -> PathBuf {
    folder.join("bin/bpf-linker")
}

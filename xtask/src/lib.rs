//! What building and testing carpd needs besides cargo: found on this machine, or fetched into a per-user cache
//! folder. Nothing is installed system-wide.
//!
//! carpd's build script uses [`toolchain`]; the commands of `cargo xtask` are in the binary.

#![forbid(unsafe_code)]

pub mod cache;
pub mod crates;
pub mod debian;
pub mod machine;
pub mod process;
pub mod toolchain;
pub mod tools;

use std::path::Path;

/// The folder with the workspace's `Cargo.toml`.
pub fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

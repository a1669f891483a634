//! What no namespace can do to a program alone: its wall clock is set, and its frames are refused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::folder::Folder;
use crate::netns::output_of;

/// A library that is loaded into programs before the C library, and does what it is told. The kernel knows nothing of it: its
/// time stamps, and all clocks but the wall clock, are the machine's.
pub struct Preload {
    folder: Folder,
    orders: File,
}

impl Preload {
    /// Makes it; it changes nothing yet.
    pub fn new() -> Result<Self> {
        let folder = Folder::new("preload")?;
        let orders = File::create_new(Self::orders(&folder)).context("creating a file for orders")?;
        let preload = Self { folder, orders };
        preload.set_clock(0)?;
        preload.refuse_frames(None)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/preload.c");
        let mut compiler = Command::new("cc");
        output_of(compiler.args(["-shared", "-fPIC", "-o"]).arg(preload.library()).arg(source))?;
        Ok(preload)
    }

    /// Has a program load it that is not started yet.
    pub fn add_to(&self, program: &mut Command) {
        program.env("LD_PRELOAD", self.library()).env("CARP_TEST_PRELOAD", Self::orders(&self.folder));
    }

    /// Sets the wall clock, at once, to so many seconds after the machine's, or before it.
    pub fn set_clock(&self, ahead: i64) -> Result<()> {
        self.order(0, ahead)
    }

    /// From now on no frame leaves: each gets this error; or they leave again.
    pub fn refuse_frames(&self, refusal: Option<Errno>) -> Result<()> {
        self.order(1, refusal.map_or(0, |errno| i64::from(errno as i32)))
    }

    /// The file is mapped by those that are running.
    fn order(&self, number: u64, value: i64) -> Result<()> {
        self.orders.write_all_at(&value.to_ne_bytes(), 8 * number).context("writing an order")
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("preload.so")
    }

    fn orders(folder: &Folder) -> PathBuf {
        folder.path().join("orders")
    }
}

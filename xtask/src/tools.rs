//! Programs that the tests run: those of this machine, or Debian's, unpacked in the user's cache.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Packages};
use crate::{machine, process};

/// If this is set, a peer that cannot be had is an error; the tests look at it too.
pub const REQUIRE_PEERS: &str = "CARP_REQUIRE_PEERS";

/// A program, and the Debian package that has it.
struct Tool {
    name: &'static str,
    package: &'static str,
    /// Where the program is in the package.
    path: &'static str,
    /// Argument with which it does nothing and succeeds.
    probe: &'static str,
    /// What it finds its own files by, below the folder that it is unpacked in.
    settings: &'static [(&'static str, &'static str)],
    /// Whether it is only there to be met or to look on: without it, the tests that need it are skipped.
    peer: bool,
}

const TOOLS: [Tool; 5] = [
    Tool {
        name: "bpftool",
        package: "bpftool",
        path: "usr/sbin/bpftool",
        probe: "version",
        settings: &[],
        peer: false,
    },
    Tool { name: "ucarp", package: "ucarp", path: "usr/sbin/ucarp", probe: "--help", settings: &[], peer: true },
    Tool {
        name: "keepalived",
        package: "keepalived",
        path: "usr/sbin/keepalived",
        probe: "--version",
        settings: &[],
        peer: true,
    },
    Tool {
        name: "tshark",
        package: "tshark",
        path: "usr/bin/tshark",
        probe: "--version",
        // Its dissector of CARP is built in; the plugins are for other protocols.
        settings: &[("WIRESHARK_DATA_DIR", "usr/share/wireshark"), ("WIRESHARK_PLUGIN_DIR", "no-plugins")],
        peer: true,
    },
    Tool {
        name: "promtool",
        package: "prometheus",
        path: "usr/bin/promtool",
        probe: "--version",
        settings: &[],
        peer: true,
    },
];

/// The folders, joined as in PATH, with the test tools that this machine lacks; what is missing is fetched into the
/// user's cache. A peer that cannot be had is left out with a word, unless [`REQUIRE_PEERS`] is set.
pub fn find_or_fetch() -> Result<OsString> {
    let cache = Cache::of_user()?;
    let required = env::var_os(REQUIRE_PEERS).is_some();
    let mut folders = Vec::new();
    let mut add = |name: &str, may_be_missing: bool, found: Result<PathBuf>| match found {
        Ok(folder) => {
            folders.push(folder);
            Ok(())
        }
        Err(error) if may_be_missing && !required => {
            eprintln!("carp: no {name}, so the tests with it are skipped: {error:#}");
            Ok(())
        }
        Err(error) => Err(error),
    };
    for tool in TOOLS.iter().filter(|tool| !tool.is_installed()) {
        add(tool.name, tool.peer, tool.find_or_fetch(&cache))?;
    }
    add("Debian to boot", true, machine::find_or_fetch(&cache))?;
    env::join_paths(folders).context("the cache folder's name has a colon in it")
}

impl Tool {
    /// Root's programs are looked for too: the tests run as root.
    fn is_installed(&self) -> bool {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        folders.into_iter().any(|folder: PathBuf| folder.join(self.name).is_file())
    }

    /// The folder with the program.
    fn find_or_fetch(&self, cache: &Cache) -> Result<PathBuf> {
        let folder = cache.find_or_make(self.name, |folder| {
            eprintln!("carp: fetching {}, which the tests use", self.name);
            debian::unpack(Packages { names: &[self.package], together_with: &[] }, folder)?;
            self.add_starter(folder)
        });
        let folder = folder.with_context(|| {
            format!("the tests need {}: install it, on Debian with `apt-get install {}`", self.name, self.package)
        })?;
        Ok(folder.join("bin"))
    }

    /// Adds `bin/NAME`, which starts the program with the libraries that came with it, and tries it.
    fn add_starter(&self, folder: &Path) -> Result<()> {
        let bin = folder.join("bin");
        fs::create_dir(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
        let starter = bin.join(self.name);
        let (path, libraries) = (self.path, debian::library_path("$root"));
        let settings = self.settings.iter().map(|(name, place)| format!("export {name}=\"$root/{place}\"\n"));
        let script = format!(
            "#!/bin/sh\n\
             root=$(dirname \"$0\")/..\n\
             {}\
             LD_LIBRARY_PATH={libraries} exec \"$root/{path}\" \"$@\"\n",
            settings.collect::<String>()
        );
        fs::write(&starter, script)
            .and_then(|()| fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", starter.display()))?;
        process::read(Command::new(&starter).arg(self.probe)).map(drop)
    }
}

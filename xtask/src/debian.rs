//! Debian packages without root: apt resolves and downloads, dpkg unpacks into a folder of ours. Nothing is installed,
//! and the system's package lists and caches stay as they are.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// What to get, in names that do not move with a version.
#[derive(Debug, Clone, Copy)]
pub struct Packages<'a> {
    /// The packages themselves.
    pub names: &'a [&'a str],
    /// Dependencies whose names start so are unpacked even if this machine has them installed; any other dependency
    /// only if it is missing here.
    pub together_with: &'a [&'a str],
}

/// Unpacks `packages` and the dependencies that this machine lacks into `folder`.
pub fn unpack(packages: Packages<'_>, folder: &Path) -> Result<()> {
    process::read(Command::new("apt-get").arg("--version")).context("this machine has no apt")?;
    let scratch =
        tempfile::tempdir_in(folder).with_context(|| format!("cannot create a folder in {}", folder.display()))?;
    let archives = Apt::new(scratch.path().join("system"))?.download(packages).or_else(|_| {
        eprintln!("carp: the system's package lists are empty or old: fetching new ones, for this use only");
        Apt::with_new_lists(scratch.path().join("new"))?.download(packages)
    })?;
    for archive in archives {
        process::run(Command::new("dpkg").arg("--extract").arg(&archive).arg(folder))?;
    }
    Ok(())
}

/// Where packages put this machine's libraries, below the folder they are unpacked in: a search path, `root` in front of
/// each folder.
pub fn library_path(root: &str) -> String {
    let machine = format!("{}-linux-gnu", env::consts::ARCH);
    format!("{root}/usr/lib/{machine}:{root}/lib/{machine}")
}

/// apt, writing only below `scratch`.
struct Apt {
    scratch: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    fn new(scratch: PathBuf) -> Result<Self> {
        // As root, apt would otherwise download as a user who may not write below scratch.
        let mut apt = Self { scratch, options: vec!["APT::Sandbox::User=root".into()] };
        let cache = apt.folder("cache")?;
        apt.set("Dir::Cache=", &cache);
        Ok(apt)
    }

    fn with_new_lists(scratch: PathBuf) -> Result<Self> {
        let mut apt = Self::new(scratch)?;
        let lists = apt.folder("lists")?;
        apt.set("Dir::State::Lists=", &lists);
        process::run_on_stderr(apt.get().arg("update"))?;
        Ok(apt)
    }

    /// Downloads `packages` and what they need here, and returns the archives.
    fn download(&self, packages: Packages<'_>) -> Result<Vec<PathBuf>> {
        let names = missing(packages, &self.resolve(packages)?, &installed()?);
        let archives = self.folder("archives")?;
        eprintln!("carp: downloading the Debian packages {}", names.join(" "));
        process::run_on_stderr(self.get().arg("download").args(&names).current_dir(&archives))?;
        let entries = fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// What apt would install on a machine that has nothing, one archive a line.
    fn resolve(&self, packages: Packages<'_>) -> Result<String> {
        process::read(
            self.get()
                .args(["-o", "Dir::State::Status=/dev/null", "-o", "Debug::NoLocking=true"])
                .args(["--quiet=2", "--no-install-recommends", "--print-uris", "install"])
                .args(packages.names),
        )
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    fn set(&mut self, option: &str, folder: &Path) {
        let mut setting = OsString::from(option);
        setting.push(folder);
        self.options.push(setting);
    }
}

/// `name_architecture` of each package that is installed here.
fn installed() -> Result<HashSet<String>> {
    let format = "--showformat=${db:Status-Status} ${Package}_${Architecture}\n";
    let list = process::read(Command::new("dpkg-query").args(["--show", format]))?;
    let installed = list.lines().filter_map(|line| line.strip_prefix("installed "));
    Ok(installed.map(str::to_owned).collect())
}

/// The names of the packages to unpack, from apt's lines `'address' file size hash`.
fn missing(packages: Packages<'_>, resolved: &str, installed: &HashSet<String>) -> Vec<String> {
    let files = resolved.lines().filter_map(|line| line.split(' ').nth(1));
    let needed = files.filter_map(|file| {
        let (name, rest) = file.strip_suffix(".deb")?.split_once('_')?;
        let (_version, architecture) = rest.rsplit_once('_')?;
        let always =
            packages.names.contains(&name) || packages.together_with.iter().any(|start| name.starts_with(start));
        let here = installed.contains(&format!("{name}_{architecture}"));
        (always || !here).then(|| name.to_owned())
    });
    needed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPILER: Packages<'_> = Packages { names: &["rustc-web"], together_with: &["libllvm"] };

    const RESOLVED: &str = "\
'https://debian.example/z/libz3-4_4.8.12-3.1_amd64.deb' libz3-4_4.8.12-3.1_amd64.deb 7216172 MD5Sum:12
'https://debian.example/l/libllvm22_22.1.8_amd64.deb' libllvm22_1%3a22.1.8-1~deb12u1_amd64.deb 29378692 
'https://debian.example/g/libc6_2.36-9_amd64.deb' libc6_2.36-9_amd64.deb 2756504 SHA256:34
'https://debian.example/r/rustc-web_1.96.0_amd64.deb' rustc-web_1.96.0_amd64.deb 4450500 
";

    fn missing_beside(installed: &[&str]) -> Vec<String> {
        let installed = installed.iter().map(|&name| name.to_owned()).collect();
        missing(COMPILER, RESOLVED, &installed)
    }

    #[test]
    fn an_installed_dependency_is_left_out() {
        assert_eq!(missing_beside(&["libc6_amd64", "libz3-4_amd64"]), ["libllvm22", "rustc-web"]);
    }

    #[test]
    fn a_dependency_installed_for_another_architecture_is_missing() {
        assert_eq!(missing_beside(&["libc6_amd64", "libz3-4_i386"]), ["libz3-4", "libllvm22", "rustc-web"]);
    }

    #[test]
    fn what_belongs_together_is_fetched_even_if_installed() {
        let all = ["libc6_amd64", "libz3-4_amd64", "libllvm22_amd64", "rustc-web_amd64"];
        assert_eq!(missing_beside(&all), ["libllvm22", "rustc-web"]);
    }
}

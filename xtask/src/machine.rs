//! A minimal Debian with systemd, which the tests boot.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Packages};
use crate::process;

/// What the tests use beyond the minimum; systemd-container boots it.
const PACKAGES: &str = "dbus,iproute2,man-db,systemd-container,systemd-sysv";

/// Boots the machine: nspawn of its own Debian, with the libraries that it has there, whatever this machine has.
const BOOT: &str = "#!/bin/sh
debian=$(dirname \"$0\")/../debian
lib=$(echo \"$debian\"/usr/lib/*-linux-gnu)
loader=$(echo \"$debian\"/lib*/ld-linux-*.so.*)
exec \"$loader\" --argv0 systemd-nspawn --library-path \"$lib/systemd:$lib\" \"$debian/usr/bin/systemd-nspawn\" \\
    --boot --directory=\"$debian\" --volatile=overlay \"$@\"
";

/// The folder with `boot-debian`, which takes nspawn's options. What it changes in the machine is gone with it.
pub fn find_or_fetch(cache: &Cache) -> Result<PathBuf> {
    let release = release()?;
    let folder = cache.find_or_make(&format!("debian-{release}"), |folder| {
        eprintln!("carp: making a minimal Debian, which the tests boot, in about a minute");
        install(&release, folder)
    });
    Ok(folder.context("the tests boot a Debian of their own, made by debootstrap")?.join("bin"))
}

/// The release that this machine runs, whose libraries carpd is built for.
fn release() -> Result<String> {
    let about = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release of Debian")?.trim_matches('"').to_owned())
}

fn install(release: &str, folder: &Path) -> Result<()> {
    let mirror = mirror(release)?;
    let tools =
        tempfile::tempdir_in(folder).with_context(|| format!("cannot create a folder in {}", folder.display()))?;
    debian::unpack(Packages { names: &["debootstrap"], together_with: &[] }, tools.path())?;
    let debian = folder.join("debian");
    let mut debootstrap = process::as_root(&tools.path().join("usr/sbin/debootstrap"))?;
    debootstrap.env("DEBOOTSTRAP_DIR", tools.path().join("usr/share/debootstrap")).env("PATH", path(tools.path())?);
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), release]).arg(&debian).arg(mirror);
    process::run_on_stderr(&mut debootstrap)?;
    // Not the name of the machine that made it, nor what it was made of.
    let mut sh = process::as_root(Path::new("sh"))?;
    process::run(sh.args(["-c", "rm -rf etc/hostname var/cache/apt/archives/*.deb"]).current_dir(&debian))?;
    let bin = folder.join("bin");
    let boot = bin.join("boot-debian");
    fs::create_dir(&bin)
        .and_then(|()| fs::write(&boot, BOOT))
        .and_then(|()| fs::set_permissions(&boot, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", boot.display()))?;
    process::read(Command::new(&boot).arg("--version")).map(drop)
}

/// Where apt gets this release from.
fn mirror(release: &str) -> Result<String> {
    let format = ["--format", "$(RELEASE) $(COMPONENT) $(SITE)"];
    let sources = process::read(Command::new("apt-get").arg("indextargets").args(format).arg("Created-By: Packages"))?;
    let mirror = sources.lines().find_map(|line| line.strip_prefix(&format!("{release} main ")));
    mirror.map(str::to_owned).with_context(|| format!("apt has no source for {release}, main"))
}

/// Where debootstrap finds what it calls: some of it may have been fetched with it.
fn path(tools: &Path) -> Result<OsString> {
    let ours = env::var_os("PATH").unwrap_or_default();
    let fetched = ["usr/bin", "bin"].map(|folder| tools.join(folder));
    let roots = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::join_paths(env::split_paths(&ours).chain(roots).chain(fetched)).context("the cache folder's name has a colon")
}

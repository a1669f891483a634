//! Who may run it: root without a capability may not, a user with the right ones may.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result};
use carp_tests::{Agent, Host, LONG, Lab, VIP, carpd_path, copy_carpd};

use crate::{GOOD, assert_says, assert_untouched, refusal};

/// A virtual host that must have XDP.
const NATIVE: [&str; 5] = [GOOD[0], GOOD[1], GOOD[2], GOOD[3], "--datapath=native"];

/// Gives `nobody` a /run of its own with a folder for the locks, as systemd's RuntimeDirectory= does.
const AS_NOBODY: &str = "mount -t tmpfs none /run && mkdir /run/carp && chown 65534 /run/carp && \
                         caps=$1 && shift && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
                         --bounding-set=\"$caps\" --inh-caps=\"$caps\" --ambient-caps=\"$caps\" \"$@\"";

#[test]
fn a_capability_that_is_missing_is_named_with_what_it_is_for() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let line = refusal(without(&host, "all", &NATIVE)?)?;
    assert_says(&line, &["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "root", "AmbientCapabilities"]);
    assert_eq!(capabilities_in(&refusal(without(&host, "all", &GOOD)?)?), ["CAP_NET_RAW", "CAP_NET_ADMIN"]);
    assert_untouched(&host)?;
    for missing in ["net_raw", "net_admin"] {
        let line = refusal(without(&host, missing, &[&GOOD[..], &["-B"]].concat())?)?;
        let named = format!("CAP_{}", missing.to_uppercase());
        assert_eq!(capabilities_in(&line), [named]);
        assert_untouched(&host)?;
    }
    Ok(())
}

#[test]
fn without_the_capabilities_for_xdp_it_says_so_and_takes_a_socket() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let quick = [&GOOD[..], &["--advbase=0", "--advskew=30"]].concat();
    let mut agent = without(&host, "bpf,-perfmon,-sys_admin", &quick)?;
    let line = agent.wait_for_line("a packet socket on eth0", LONG)?.text;
    assert_says(&line, &["WARN", "eth0 vhid 1", "slower", "CAP_BPF", "CAP_PERFMON"]);
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    assert_eq!(host.xdp_program()?, None);
    assert!(agent.stop_and_wait(LONG)?.success());
    assert_untouched(&host)
}

#[test]
fn what_the_message_asks_for_is_all_that_a_user_needs() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let named = capabilities_in(&refusal(without(&host, "all", &NATIVE)?)?);
    let lowered: Vec<_> =
        named.iter().map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();

    let carpd = Copy::of_carpd()?;
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", AS_NOBODY, "sh", &format!("-all,{}", lowered.join(","))]).arg(&carpd.0);
    command.args(GOOD).args(["--advbase=0", "--advskew=30"]);
    let mut agent = Agent::spawn("carpd as nobody", command)?;
    agent.wait_for_line("native XDP", LONG)?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    carp_tests::eventually("the VIP is there", LONG, || host.has_address(VIP))?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).context("reading a status")?;
    assert!(status.contains("Uid:\t65534\t65534"), "{status}");
    assert!(agent.stop_and_wait(LONG)?.success());
    assert!(!host.has_address(VIP)? && host.xdp_program()?.is_none());
    Ok(())
}

#[test]
fn a_user_who_may_not_write_the_lock_is_told_where_it_would_be() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let carpd = Copy::of_carpd()?;
    let mut command = host.command("unshare");
    let no_folder = AS_NOBODY.replace("chown 65534 /run/carp", "chmod 755 /run/carp");
    command.args(["--mount", "sh", "-c", &no_folder, "sh", "-all,+net_raw,+net_admin,+bpf,+perfmon"]);
    command.arg(&carpd.0).args(GOOD);
    let line = refusal(Agent::spawn("carpd as nobody", command)?)?;
    assert_says(&line, &["/run/carp", "Permission denied"]);
    assert_untouched(&host)
}

/// carpd as root without a capability.
pub(crate) fn without(host: &Host, capability: &str, arguments: &[&str]) -> Result<Agent> {
    let mut command = host.command("setpriv");
    let removed = format!("-{capability}");
    command.args(["--bounding-set", &removed, "--inh-caps", &removed]).arg(carpd_path()?).args(arguments);
    Agent::spawn("carpd", command)
}

fn capabilities_in(line: &str) -> Vec<String> {
    let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("CAP_")).map(str::to_owned).collect()
}

/// A copy of carpd where every user can run it: the target folder may be out of reach.
struct Copy(PathBuf);

impl Copy {
    fn of_carpd() -> Result<Self> {
        let thread = format!("{:?}", std::thread::current().id());
        let copy = Self(env::temp_dir().join(format!("carpd-{}-{}", process::id(), thread.replace(['(', ')'], "-"))));
        copy_carpd(&copy.0)?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.0);
    }
}

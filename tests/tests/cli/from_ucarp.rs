//! What stands in ifupdown's file for ucarp, translated: the script that is printed makes a virtual host that works.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result};
use carp_tests::{Agent, LONG, Lab, VIP, Wire, carpd_path};

use crate::privileges::without;
use crate::{GOOD, assert_says, assert_untouched, refusal};

/// A passphrase that a shell could take to pieces.
const PASSPHRASE: &str = "it's$5%\\x\"!";

/// Runs the script on an /etc of its own, shows what it made, and then runs what the unit says.
const SET_UP: &str = r#"mount -t tmpfs none /etc && mkdir -p /etc/systemd/system &&
    "$1" --from-ucarp "$2" > /etc/script && sh /etc/script &&
    stat --format='%a %u %n' /etc/carp /etc/carp/* /etc/systemd/system/* &&
    set -- "$1" $(sed -n 's/^ExecStart=[^ ]* //p' /etc/systemd/system/carpd-eth0-1.service) &&
    exec "$@""#;

/// A file that is gone after the test.
struct Interfaces(PathBuf);

impl Interfaces {
    fn new(name: &str, content: &[u8]) -> Result<Self> {
        let file = Self(env::temp_dir().join(format!("carpd-interfaces-{}-{name}", process::id())));
        fs::write(&file.0, content).context("writing a file of ifupdown")?;
        Ok(file)
    }

    fn path(&self) -> Result<&str> {
        self.0.to_str().context("a path that is no text")
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_script_that_is_printed_makes_a_virtual_host_that_works_with_its_peers() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let text = format!(
        "auto eth0\niface eth0 inet static\n\taddress {}\n\tnetmask 255.255.255.0\n\tucarp-vid 1\n\tucarp-vip {VIP}\n\t\
         ucarp-password {PASSPHRASE}\n\tucarp-advbase 0\n\tucarp-advskew 30\n\tucarp-master yes\n\
         iface eth0:ucarp inet static\n\taddress {VIP}\n\tnetmask 255.255.255.0\n",
        a.ip()
    );
    let file = Interfaces::new("works", text.as_bytes())?;
    let mut command = a.command("unshare");
    command.args(["--mount", "sh", "-c", SET_UP, "sh"]).arg(carpd_path()?).arg(file.path()?);
    let mut translated = Agent::spawn("what the unit runs", command)?;
    for made in ["750 0 /etc/carp", "600 0 /etc/carp/eth0-1.passphrase", "0 /etc/systemd/system/carpd-eth0-1.service"] {
        translated.wait_for_line(made, LONG)?;
    }
    translated.wait_for_line("eth0 vhid 1: BACKUP -> MASTER", LONG)?;
    carp_tests::eventually("the VIP is there", LONG, || Ok(a.addresses()?.contains(&(VIP.into(), 24))))?;

    // A peer with the same passphrase on its command line takes its adverts for valid, and so waits.
    let wire = Wire::at(&bystander)?;
    let pass = format!("--pass={PASSPHRASE}");
    let peer = b.carpd(&[GOOD[0], GOOD[1], &pass, GOOD[3], "--advbase=0", "--advskew=80"])?;
    peer.wait_for_line("INIT -> BACKUP", LONG)?;
    wire.wait_for_adverts(a.ip(), 12)?;
    for node in [&peer, &translated] {
        let lines: Vec<_> = node.lines().into_iter().map(|line| line.text).collect();
        assert!(lines.iter().all(|line| !line.contains("refused") && !line.contains(PASSPHRASE)), "{lines:?}");
    }
    assert!(wire.adverts_of(b.ip()).is_empty(), "it became master");
    assert!(translated.stop_and_wait(LONG)?.success());
    Ok(())
}

#[test]
fn translating_needs_no_privilege_and_touches_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let text = b"iface eth0 inet dhcp\nucarp-vid 1\nucarp-vip 10.77.0.100\nucarp-password secret\n";
    let file = Interfaces::new("unprivileged", text)?;
    let mut agent = without(&host, "all", &["--from-ucarp", file.path()?])?;
    assert!(agent.wait(LONG)?.success());
    let lines: Vec<_> = agent.lines().into_iter().map(|line| line.text).collect();
    let command = "carpd --interface=eth0 --vhid=1 --addr=10.77.0.100/32";
    assert!(lines.iter().any(|line| line.contains(command)), "{lines:?}");
    assert!(!fs::exists("/etc/carp/eth0-1.passphrase")?);
    assert_untouched(&host)
}

#[test]
fn what_cannot_be_translated_is_refused_with_one_line() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let none = Interfaces::new("none", b"source /etc/network/interfaces.d/*\n")?;
    let wrong = Interfaces::new("wrong", b"iface eth0 inet manual\n\tucarp-vid 1\n\tucarp-vid 2\n")?;
    for (path, parts) in [
        ("/nonexistent", &["/nonexistent", "No such file"][..]),
        ("/", &["directory"]),
        ("/dev/null", &["/dev/null", "no ucarp lines"]),
        ("/dev/zero", &["/dev/zero", "1048576"]),
        (none.path()?, &["no ucarp lines", "line 1, source /etc/network/interfaces.d/*"]),
        (wrong.path()?, &["-wrong:3: ", "ucarp-vid", "twice"]),
    ] {
        let mut agent = host.carpd(&["--from-ucarp", path])?;
        assert_eq!(agent.wait(LONG)?.code(), Some(1), "{path}");
        assert_says(&refusal(agent).with_context(|| path.to_owned())?, parts);
    }
    let line = refusal(host.carpd(&["--from-ucarp", none.path()?, "--vhid=1"])?)?;
    assert_says(&line, &["--from-ucarp", "cannot be used with"]);
    assert_untouched(&host)
}

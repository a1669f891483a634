//! The system log: carpd gets a /dev of its own, in which `log` leads to the test.

use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result};
use carp_tests::{Folder, Host, LONG, Lab, VIP, Wire, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{assert_advertises, daemon_of, in_own_mounts, is_clean, runs};

/// A /dev with `null` and `log`.
const OWN_DEV: &str = "mkdir \"$folder/dev\" && mount -t tmpfs none \"$folder/dev\" && touch \"$folder/dev/null\" && \
                       mount --bind /dev/null \"$folder/dev/null\" && ln -s \"$folder/log\" \"$folder/dev/log\" && \
                       mount --move \"$folder/dev\" /dev";

#[test]
fn in_the_background_the_log_goes_to_syslog_with_facility_and_priority() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    // The facility's number times 8, plus 6 for information and 3 for an error.
    for (option, information, error) in
        [("--preempt", "<30>", "<27>"), ("-flocal3", "<158>", "<155>"), ("-fLOCAL3", "<158>", "<155>")]
    {
        let log = SystemLog::new()?;
        let mut parent = in_own_mounts(&host, OWN_DEV, log.folder.path(), &["-B", option])?;
        assert_eq!(parent.wait(LONG)?.code(), Some(0), "{:?}", parent.lines());
        let line = log.wait_for("BACKUP -> MASTER")?;
        let pid = daemon_of(&host)?;
        assert!(line.starts_with(information), "{line}");
        assert!(line.contains(&format!(" carpd[{pid}]: eth0 vhid 1: BACKUP -> MASTER")), "{line}");
        assert!(!line.contains("INFO"), "{line}");

        let mut second = in_own_mounts(&host, "true", log.folder.path(), &["-B", option])?;
        assert_ne!(second.wait(LONG)?.code(), Some(0));
        let mut second = in_own_mounts(&host, &OWN_DEV.replace("mkdir", "true"), log.folder.path(), &["-B", option])?;
        assert_ne!(second.wait(LONG)?.code(), Some(0));
        let line = log.wait_for("served by another carpd")?;
        assert!(line.starts_with(error), "{line}");
        assert_eq!(second.lines().len(), 1, "the terminal is told as well: {:?}", second.lines());

        end(&host, pid)?;
        log.wait_for("stopped")?;
    }
    Ok(())
}

#[test]
fn a_system_log_that_hangs_holds_up_neither_adverts_nor_the_end() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let log = SystemLog::new()?;
    let mut parent = in_own_mounts(&a, OWN_DEV, log.folder.path(), &["-B", "--debug"])?;
    assert_eq!(parent.wait(LONG)?.code(), Some(0), "{:?}", parent.lines());
    eventually("the VIP is there", LONG, || a.has_address(VIP))?;
    let wire = Wire::at(&bystander)?;
    let (from, _) = wire.wait_for_adverts(a.ip(), 1)?;
    // A socket holds some 10 messages that nobody has read.
    let pair = "addr add 192.0.2.1/32 dev eth0\naddr del 192.0.2.1/32 dev eth0\n";
    a.ns().ip_batch(&pair.repeat(50))?;
    let (to, _) = wire.wait_for_adverts(a.ip(), 10)?;
    assert_advertises(&wire, &a, from, to);
    end(&a, daemon_of(&a)?)
}

#[test]
fn without_a_system_log_it_works_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = Folder::new("daemon")?;
    let mut parent = in_own_mounts(&host, OWN_DEV, folder.path(), &["-B"])?;
    assert_eq!(parent.wait(LONG)?.code(), Some(0), "{:?}", parent.lines());
    eventually("the VIP is there", LONG, || host.has_address(VIP))?;
    end(&host, daemon_of(&host)?)
}

/// What syslogd would receive.
struct SystemLog {
    folder: Folder,
    socket: UnixDatagram,
}

impl SystemLog {
    fn new() -> Result<Self> {
        let folder = Folder::new("daemon")?;
        let socket = UnixDatagram::bind(folder.path().join("log")).context("binding a system log")?;
        socket.set_read_timeout(Some(LONG)).context("limiting the wait for a message")?;
        Ok(Self { folder, socket })
    }

    /// The next message that contains this.
    fn wait_for(&self, text: &str) -> Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).with_context(|| format!("waiting for {text:?}"))?;
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(text) {
                return Ok(message);
            }
        }
    }
}

fn end(host: &Host, pid: u32) -> Result<()> {
    kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM).context("ending the daemon")?;
    eventually("the daemon is gone", LONG, || Ok(!runs(pid)))?;
    assert!(is_clean(host)?);
    Ok(())
}

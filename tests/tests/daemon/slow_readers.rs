//! A log that nobody reads holds up neither the adverts nor the end.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::{BootTime, Host, LONG, Lab, VIP, Wire, carpd_path, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{VHOST, assert_advertises, is_clean};

#[test]
fn adverts_go_on_while_nobody_reads_a_full_log_and_what_was_lost_is_counted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let (reader, mut child) = unread(&a, &[])?;
    eventually("the VIP is there", LONG, || a.has_address(VIP))?;
    let wire = Wire::at(&bystander)?;
    let (from, _) = wire.wait_for_adverts(a.ip(), 1)?;
    make_noise(&a)?;
    let (to, _) = wire.wait_for_adverts(a.ip(), 10)?;
    assert_advertises(&wire, &a, from, to);

    // Somebody begins to read after all.
    let lines = BufReader::new(reader).lines();
    let read = thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    eventually("the log is read", LONG, || {
        a.add_address("192.0.2.1/32")?;
        a.remove_address("192.0.2.1/32")?;
        Ok(BootTime::now().since(to) > Duration::from_secs(1))
    })?;
    end(&a, &mut child)?;
    let lines = read.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    assert!(lines.len() > 1000, "only {} lines", lines.len());
    let lost = lines.iter().find_map(|line| line.strip_suffix(" log lines were lost: the log is read too slowly"));
    assert!(lost.is_some_and(|line| line.ends_with(|last: char| last.is_ascii_digit())), "nothing is said of a loss");
    Ok(())
}

#[test]
fn the_end_does_not_wait_for_a_reader() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let (_reader, mut child) = unread(&host, &[])?;
    eventually("the VIP is there", LONG, || host.has_address(VIP))?;
    make_noise(&host)?;
    end(&host, &mut child)
}

#[test]
fn a_reader_that_is_gone_ends_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let (reader, mut child) = unread(&a, &[])?;
    drop(reader);
    eventually("the VIP is there", LONG, || a.has_address(VIP))?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 5)?;
    end(&a, &mut child)
}

/// carpd with as much to say as possible, to nobody.
fn unread(host: &Host, options: &[&str]) -> Result<(PipeReader, Child)> {
    let (reader, writer) = io::pipe().context("making a pipe")?;
    let mut command = host.command(carpd_path()?);
    command.args(VHOST).args(options).env("RUST_LOG", "trace");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let child = command.spawn().context("starting carpd")?;
    Ok((reader, child))
}

/// Makes it write far more than a pipe holds.
fn make_noise(host: &Host) -> Result<()> {
    let pair = "addr add 192.0.2.1/32 dev eth0\naddr del 192.0.2.1/32 dev eth0\n";
    for _ in 0..10 {
        host.ns().ip_batch(&pair.repeat(50))?;
    }
    Ok(())
}

fn end(host: &Host, child: &mut Child) -> Result<()> {
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM).context("ending carpd")?;
    let mut status = None;
    eventually("carpd ends", LONG, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(is_clean(host)?);
    Ok(())
}

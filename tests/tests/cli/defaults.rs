//! What may be left out, what is taken in its place, and what stays hidden.

use std::fs;

use anyhow::{Context, Result};
use carp_tests::netns::output_of;
use carp_tests::{ETH0, LONG, Lab, VIP, Wire};

use crate::GOOD;

#[test]
fn the_interface_left_out_is_that_of_the_source_or_of_the_route_to_the_vip() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let source = a.ip();
    for words in [vec![], vec![format!("--srcip={source}")]] {
        let words: Vec<&str> = GOOD[1..].iter().copied().chain(words.iter().map(String::as_str)).collect();
        let mut agent = a.carpd(&[&words[..], &["--advbase=0", "--advskew=30"]].concat())?;
        agent.wait_for_line("eth0 vhid 1: BACKUP -> MASTER", LONG)?;
        Wire::at(&bystander)?.wait_for_adverts(source, 2)?;
        assert!(agent.stop_and_wait(LONG)?.success());
    }
    Ok(())
}

#[test]
fn the_source_left_out_is_the_address_in_the_vips_network_and_never_the_vip() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    a.ns().ip_batch(&format!(
        "addr flush dev {ETH0}\naddr add {VIP}/32 dev {ETH0}\naddr add 192.0.2.1/24 dev {ETH0}\naddr add {}/24 dev {ETH0}\n",
        a.ip()
    ))?;
    let agent = a.carpd(&[&GOOD[..], &["--advbase=0", "--advskew=30"]].concat())?;
    agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 2)?;
    Ok(())
}

#[test]
fn nobody_sees_the_passphrase_in_the_list_of_processes() -> Result<()> {
    const SECRET: &str = "ZebraQuagga";
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let [joined, long] = [format!("-p{SECRET}"), format!("--pass={SECRET}")];
    let cluster = format!("-Pp{SECRET}");
    let forms: [&[&str]; 6] =
        [&["-p", SECRET], &[&joined], &[&cluster], &["--pass", SECRET], &[&long], &["--pass=other", "-p", SECRET]];
    for form in forms {
        let mut agent = host.carpd(&[&[GOOD[0], GOOD[1], GOOD[3]], form].concat())?;
        agent.wait_for_line("INIT -> BACKUP", LONG)?;
        let pid = agent.pid().to_string();
        let title = fs::read(format!("/proc/{pid}/cmdline")).context("reading a process title")?;
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        assert!(!title.contains(SECRET) && title.contains("--vhid=1"), "{form:?}: {title}");
        let list = output_of(host.command("ps").args(["-ww", "-o", "args=", "-p", &pid]))?;
        assert!(!list.contains(SECRET) && list.contains("--addr"), "{form:?}: {list}");
        assert!(agent.stop_and_wait(LONG)?.success());
        assert!(agent.lines().iter().all(|line| !line.text.contains(SECRET)));
    }
    Ok(())
}

//! The example for a cloud, which has to be told where an address is, against a stand-in for its server.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result};
use carp_tests::{Host, LONG, Lab, configured, eventually};

use crate::Scripts;

/// A peer that is not there.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Waits for a request and answers it.
fn answer(cloud: &TcpListener, status: &str) -> Result<[String; 3]> {
    respond(&cloud.accept().context("waiting for a request")?.0, status)
}

/// Answers a request, and returns it: the first line, the authorization, the body.
fn respond(stream: &TcpStream, status: &str) -> Result<[String; 3]> {
    stream.set_read_timeout(Some(LONG))?;
    let mut reader = BufReader::new(stream);
    let mut lines = vec![];
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let value = |line: &String| Some(line.split_once(": ")?.1.to_owned());
        lines.iter().find(|line| line.to_lowercase().starts_with(name)).and_then(value).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse()?];
    reader.read_exact(&mut body)?;
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
    (&*stream).write_all(response.as_bytes())?;
    Ok([lines[0].clone(), header("authorization"), String::from_utf8(body)?])
}

/// The number that the cloud knows a host by.
fn server(host: &Host) -> u16 {
    4700 + u16::from(host.ip().octets()[3])
}

/// The example beside a stand-in's port, and a configuration for it.
fn prepare(host: &Host, peer: Ipv4Addr, of_vhids: &str, more: &str) -> Result<(TcpListener, Scripts)> {
    host.ns().ip("link set lo up")?;
    let cloud = host.ns().run(|| TcpListener::bind("127.0.0.1:0").context("opening a port"))?;
    let scripts = Scripts::new()?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../carp-user/packaging/hcloud-floating-ip");
    let endpoint = format!("ENDPOINT=http://{}/v1\n", cloud.local_addr()?);
    fs::write(scripts.path("settings"), format!("TOKEN=tell-no-one\nSERVER={}\n{of_vhids}\n{endpoint}", server(host)))?;
    scripts.write("notify", &format!("HCLOUD_SETTINGS=\"$here/settings\" exec {}\n", example.display()))?;
    crate::notify::configure(&scripts, &format!("notify = \"notify\"\npeers = [\"{peer}\"]\n{more}"))?;
    Ok((cloud, scripts))
}

#[test]
fn a_new_master_has_the_addresses_of_each_virtual_host_assigned_to_itself() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let later = "[[virtual_host]]\nvhid = 2\naddresses = [\"10.77.0.102\"]\nadvskew = 200\nnotify = \"notify\"";
    let (cloud, scripts) = prepare(&a, NOBODY, "FLOATING_IPS_1=\"42 43\"\nFLOATING_IPS_2=44", later)?;
    let agent = configured::start(&a, &scripts.0)?;

    // Not the first time: it is told again.
    let mut asked = vec![answer(&cloud, "503 Service Unavailable")?];
    for _ in 0..3 {
        asked.push(answer(&cloud, "201 Created")?);
    }
    let again = asked.remove(0);
    assert!(asked.contains(&again), "{again:?}, {asked:?}");
    asked.sort();
    for (ip, [request, authorization, body]) in (42..).zip(asked) {
        assert_eq!(request, format!("POST /v1/floating_ips/{ip}/actions/assign HTTP/1.1"));
        assert_eq!((authorization.as_str(), body.as_str()), ("Bearer tell-no-one", "{\"server\":4701}"));
    }
    agent.wait_for_line("MASTER eth0 1: exit status: 0", LONG)?;
    agent.wait_for_line("MASTER eth0 2: exit status: 0", LONG)?;
    // Of BACKUP the cloud hears nothing.
    let told = ["notify BACKUP eth0 1", "notify BACKUP eth0 2", "notify MASTER eth0 1", "notify MASTER eth0 2"];
    assert_eq!(scripts.events()?.into_iter().collect::<BTreeSet<_>>(), told.map(str::to_owned).into());
    Ok(())
}

#[test]
fn a_cloud_that_does_not_answer_is_given_up_before_the_time_limit() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let (_cloud, scripts) = prepare(&a, NOBODY, "FLOATING_IPS_1=\"42 43\"", "")?;
    let agent = configured::start(&a, &scripts.0)?;
    agent.wait_for_line("notify MASTER eth0 1 failed: exit status: 1", LONG)?;
    Ok(())
}

/// The cloud's network, which both hosts reach whatever becomes of the other one, and who has the address there.
struct Cloud {
    doors: Vec<TcpListener>,
    owner: Option<String>,
}

impl Cloud {
    fn new(doors: [TcpListener; 2]) -> Result<Self> {
        for door in &doors {
            door.set_nonblocking(true)?;
        }
        Ok(Self { doors: doors.into(), owner: None })
    }

    /// Does what is asked until the address is at this host.
    fn wait_for_owner(&mut self, host: &Host) -> Result<()> {
        eventually(&format!("the address is at {}", host.name()), LONG, || self.is_at(host))
    }

    /// Whether the address is there when all that has been asked is done.
    fn is_at(&mut self, host: &Host) -> Result<bool> {
        for door in &self.doors {
            while let Ok((stream, _)) = door.accept() {
                let [_, _, body] = respond(&stream, "201 Created")?;
                self.owner = Some(body);
            }
        }
        Ok(self.owner == Some(format!("{{\"server\":{}}}", server(host))))
    }
}

#[test]
fn after_a_failover_and_after_a_split_the_address_is_at_the_master() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let of_vhid = "FLOATING_IPS_1=42";
    let (door_of_a, scripts_of_a) = prepare(&a, b.ip(), of_vhid, "preempt = true")?;
    let (door_of_b, scripts_of_b) = prepare(&b, a.ip(), of_vhid, "advskew = 60")?;
    let mut cloud = Cloud::new([door_of_a, door_of_b])?;
    let mut on_a = configured::start(&a, &scripts_of_a.0)?;
    cloud.wait_for_owner(&a)?;
    let on_b = configured::start(&b, &scripts_of_b.0)?;
    let is_backup_again = |times| {
        let changes = configured::changes(&on_b, "eth0 vhid 1");
        Ok(changes.iter().filter(|change| *change == "MASTER -> BACKUP").count() == times)
    };
    configured::wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;

    assert!(on_a.stop_and_wait(LONG)?.success());
    cloud.wait_for_owner(&b)?;
    let on_a = configured::start(&a, &scripts_of_a.0)?;
    cloud.wait_for_owner(&a)?;
    eventually("the other one is BACKUP", LONG, || is_backup_again(1))?;

    lab.split(&[&a], &[&b])?;
    cloud.wait_for_owner(&b)?;
    lab.heal()?;
    cloud.wait_for_owner(&a)?;
    eventually("the other one is BACKUP", LONG, || is_backup_again(2))?;
    eventually("its last program has ended", LONG, || {
        let lines = on_b.lines();
        let mut since = lines.iter().rev().take_while(|line| !line.text.contains("MASTER -> BACKUP"));
        Ok(since.any(|line| line.text.contains("notify BACKUP eth0 1: exit status: 0")))
    })?;
    assert!(cloud.is_at(&a)?);
    assert_eq!(configured::changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"], "it did not notice");
    Ok(())
}

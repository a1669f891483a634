//! The example for a cloud, which has to be told where an address is, against a stand-in for its server.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};
use carp_tests::{LONG, Lab, configured};

use crate::Scripts;

/// Answers one request, and returns it: the first line, the authorization, the body.
fn answer(cloud: &TcpListener, status: &str) -> Result<[String; 3]> {
    let (stream, _) = cloud.accept().context("waiting for a request")?;
    stream.set_read_timeout(Some(LONG))?;
    let mut reader = BufReader::new(&stream);
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
    (&stream).write_all(response.as_bytes())?;
    Ok([lines[0].clone(), header("authorization"), String::from_utf8(body)?])
}

#[test]
fn a_new_master_has_the_addresses_assigned_to_itself() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    a.ns().ip("link set lo up")?;
    let cloud = a.ns().run(|| TcpListener::bind("127.0.0.1:0").context("opening a port"))?;
    let scripts = Scripts::new()?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../carp-user/packaging/hcloud-floating-ip");
    let settings =
        format!("TOKEN=tell-no-one\nSERVER=4711\nFLOATING_IPS=\"42 43\"\nENDPOINT=http://{}/v1\n", cloud.local_addr()?);
    fs::write(scripts.path("settings"), settings)?;
    let run = format!("HCLOUD_SETTINGS=\"$here/settings\" exec {}\n", example.display());
    scripts.write("notify", &run)?;
    crate::notify::configure(&scripts, "notify = \"notify\"\npeers = [\"10.77.0.2\"]")?;
    let agent = configured::start(&a, &scripts.0)?;

    // Not the first time: it is told again.
    let first = answer(&cloud, "503 Service Unavailable")?;
    assert_eq!(first[0], "POST /v1/floating_ips/42/actions/assign HTTP/1.1");
    for ip in [42, 43] {
        let [request, authorization, body] = answer(&cloud, "201 Created")?;
        assert_eq!(request, format!("POST /v1/floating_ips/{ip}/actions/assign HTTP/1.1"));
        assert_eq!((authorization.as_str(), body.as_str()), ("Bearer tell-no-one", "{\"server\":4711}"));
    }
    agent.wait_for_line("MASTER eth0 1: exit status: 0", LONG)?;
    // Of BACKUP the cloud hears nothing.
    assert_eq!(scripts.events()?, ["notify BACKUP eth0 1", "notify MASTER eth0 1"]);
    Ok(())
}

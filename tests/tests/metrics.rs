//! What Prometheus is told, and that whoever asks for it cannot hurt.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carp_tests::adverts::{Election, forge};
use carp_tests::configured;
use carp_tests::netns::output_of;
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{
    Agent, BootTime, ETH0, Folder, Host, LONG, Lab, Node, VHID, VIP, Wire, carpd_path, eventually, is_missing,
    send_frame, tool,
};

const ADDRESS: &str = "127.0.0.1:10112";
const ASK: &str = "GET /metrics HTTP/1.1\r\nHost: carp\r\n\r\n";

fn connect() -> Result<TcpStream> {
    let address: SocketAddr = ADDRESS.parse()?;
    let stream = TcpStream::connect_timeout(&address, LONG).context("connecting")?;
    stream.set_read_timeout(Some(LONG))?;
    Ok(stream)
}

/// Sends this to the listener on a host; what comes back until it closes the connection.
fn send(host: &Host, request: &[u8]) -> Result<String> {
    host.ns().run(|| {
        let mut stream = connect()?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("reading the answer")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
}

fn scrape(host: &Host) -> Result<String> {
    let answer = send(host, ASK.as_bytes())?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    ensure!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    ensure!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    ensure!(body.ends_with("# EOF\n"), "{body}");
    Ok(body.to_owned())
}

/// Waits for the line that says where the metrics are; it may come before others that were waited for.
fn wait_until_told(node: &Node<'_>) -> Result<()> {
    let told = "metrics at http://127.0.0.1:10112/metrics";
    eventually(told, LONG, || Ok(!node.lines_with(told).is_empty()))
}

/// The value of a series by its name and labels; `None` if there is no such series.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn wait_for(host: &Host, series: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
    eventually(series, LONG, || Ok(value(&scrape(host)?, series).is_some_and(&wanted)))
        .with_context(|| scrape(host).unwrap_or_default())
}

/// A series of the virtual host, with these labels besides.
fn of_host(name: &str, labels: &str) -> String {
    format!("carp_{name}{{interface=\"{ETH0}\",vhid=\"{VHID}\"{labels}}}")
}

#[test]
fn each_source_of_a_demotion_is_told_by_its_name() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let folder = configured::folder()?;
    let lines = "failover_group = \"edge\"\ntrack_interfaces = [{ name = \"eth7\", demote = 100 }, { name = \"lo\" }]";
    configured::write(&folder, &[configured::virtual_host(VHID, VIP, lines)])?;
    let mut carpd = host.command(carpd_path()?);
    configured::add_options(&mut carpd, &folder, &folder.path().join("socket")).arg("--metrics");
    let agent = Agent::spawn("a", carpd)?;
    agent.wait_for_line("metrics at http://127.0.0.1:10112/metrics", LONG)?;
    for (by, demotion) in [
        ("administrator", 0.0),
        ("maintenance", 0.0),
        ("addresses", 0.0),
        ("send_errors", 0.0),
        ("interface eth7", 100.0),
        ("interface lo", 0.0),
        ("group", 0.0),
    ] {
        wait_for(&host, &of_host("demotion", &format!(",by=\"{by}\"")), |value| value == demotion)?;
    }
    Ok(())
}

#[test]
fn states_counters_and_causes_can_be_read() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [mut master, backup] =
        Node::start_pair((&a, &format!("{PREFERRED} --metrics")), (&b, &format!("{OTHER} --metrics={ADDRESS}")))?;
    wait_until_told(&backup)?;
    wait_for(&a, &of_host("state", ",state=\"MASTER\""), |value| value == 1.0)?;
    wait_for(&a, &of_host("adverts_sent_total", ""), |value| value > 2.0)?;
    wait_for(&b, &of_host("state", ",state=\"BACKUP\""), |value| value == 1.0)?;
    wait_for(&b, &of_host("adverts_received_total", ",family=\"ipv4\""), |value| value > 2.0)?;
    wait_for(&b, "carp_event_latency_seconds_count", |value| value > 0.0)?;
    let text = scrape(&b)?;
    assert_eq!(value(&text, &of_host("state", ",state=\"MASTER\"")), Some(0.0));
    assert_eq!(value(&text, &of_host("adverts_dropped_total", ",reason=\"badauth\"")), Some(0.0));
    assert_eq!(value(&text, "carp_maintenance"), Some(0.0));

    for counter in 0..5 {
        send_frame(attacker.ns(), ETH0, &forge(attacker.ip(), VHID, Election::new(0, 0), counter))?;
    }
    for host in [&a, &b] {
        wait_for(host, &of_host("adverts_dropped_total", ",reason=\"badauth\""), |value| value == 5.0)?;
    }

    master.agent_mut().kill()?;
    let change = |cause| of_host("transitions_total", &format!(",from=\"BACKUP\",to=\"MASTER\",cause=\"{cause}\""));
    wait_for(&b, &change("master_down"), |value| value == 1.0)?;
    wait_for(&b, &of_host("state", ",state=\"MASTER\""), |value| value == 1.0)?;
    wait_for(&b, "carp_timer_lateness_seconds_count", |value| value > 0.0)?;
    let text = scrape(&b)?;
    assert_eq!(value(&text, &change("bow_out")), None);
    assert!(!text.contains("10.77.0."), "an address in a label grows without bounds: {text}");
    Ok(())
}

#[test]
fn nobody_is_answered_unless_it_is_asked_for_and_then_on_the_loopback_only() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let mut node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    assert!(a.ns().run(connect).is_err());
    node.agent_mut().stop_and_wait(LONG)?;
    let node = Node::start(&a, &format!("{PREFERRED} --metrics"))?;
    wait_until_told(&node)?;
    scrape(&a)?;
    let from_outside = SocketAddr::from((a.ip(), 10112));
    assert!(b.ns().run(|| Ok(TcpStream::connect_timeout(&from_outside, LONG)?)).is_err());
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_told_and_the_vip_is_served_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let other = a.ns().run(|| TcpListener::bind(ADDRESS).context("listening"))?;
    let node = Node::start(&a, &format!("{PREFERRED} --metrics"))?;
    let line = node.wait_for_line("no metrics: cannot listen on 127.0.0.1:10112 (--metrics): ")?.text;
    assert!(line.contains("WARN") && line.contains("in use"), "{line}");
    Wire::at(&bystander)?.wait_for_announcement(&a, VIP, BootTime::now())?;
    // It is there as soon as the other has gone.
    drop(other);
    wait_until_told(&node)?;
    scrape(&a)?;
    Ok(())
}

#[test]
fn clients_that_are_many_slow_or_talk_nonsense_cost_no_advert() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [master, backup] = Node::start_pair((&a, &format!("{PREFERRED} --metrics")), (&b, OTHER))?;
    wait_until_told(&master)?;
    let wire = Wire::at(&b)?;
    let (begin, _) = wire.wait_for_adverts(a.ip(), 1)?;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: carp\r\n\r\n".to_owned(), "404"),
        ("POST /metrics HTTP/1.1\r\nHost: carp\r\nContent-Length: 1000000\r\n\r\n".to_owned(), "405"),
        (format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(7 << 10)), "200"),
    ] {
        let answer = send(&a, request.as_bytes())?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    // Whether it hears the answer before the connection is reset does not matter.
    for nonsense in [vec![0_u8; 1 << 20], b"GET".repeat(1 << 18), b"GET /metrics HTTP/1.1\r\n".repeat(1 << 14)] {
        send(&a, &nonsense).ok();
    }
    let mut slow: Vec<TcpStream> = a.ns().run(|| (0..200).map(|_| connect()).collect())?;
    for _ in 0..20 {
        for stream in &mut slow {
            // Those beyond the limit have been turned away.
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").ok();
        }
        wire.wait_for_adverts(a.ip(), 1)?;
    }
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    // The slow ones have had their time, though they hold on.
    eventually("there is room again", LONG, || Ok(scrape(&a).is_ok()))?;
    a.ns().run(|| {
        for _ in 0..2000 {
            // Or turned away.
            connect().and_then(|mut stream| Ok(stream.write_all(ASK.as_bytes())?)).ok();
        }
        Ok(())
    })?;
    let (end, _) = wire.wait_for_adverts(a.ip(), 4)?;
    let silence = wire.longest_silence(a.ip(), VHID, begin, end);
    assert!(silence < Duration::from_millis(2 * 234), "no advert for {silence:?}");
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    Ok(())
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() -> Result<()> {
    if is_missing("promtool")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let node = Node::start(&host, &format!("{PREFERRED} --metrics"))?;
    node.wait_for("BACKUP -> MASTER")?;
    wait_for(&host, "carp_timer_lateness_seconds_count", |value| value > 0.0)?;
    let text = scrape(&host)?;
    // It reads the format before OpenMetrics, in which the description of a counter has the suffix, too.
    let counters: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let with_suffix = |line: &str| {
        let of = |start: &str| {
            let (name, rest) = line.strip_prefix(start)?.split_once(' ')?;
            counters.contains(name).then(|| format!("{start}{name}_total {rest}\n"))
        };
        of("# HELP ").or_else(|| of("# TYPE ")).unwrap_or_else(|| format!("{line}\n"))
    };
    let folder = Folder::new("metrics")?;
    let path = folder.path().join("metrics");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(text.lines().map(with_suffix).collect::<String>().as_bytes())?;
    file.rewind()?;
    let output = Command::new(tool("promtool")?).args(["check", "metrics"]).stdin(file).output()?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.is_empty(), "{said}");
    Ok(())
}

#[test]
fn each_alert_fires_at_what_it_is_for_and_none_when_all_is_well() -> Result<()> {
    if is_missing("promtool")? {
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("promtool");
    let promtool = || -> Result<Command> {
        let mut command = Command::new(tool("promtool")?);
        command.current_dir(&folder);
        Ok(command)
    };
    output_of(promtool()?.args(["check", "rules", "../../carp-user/packaging/carp.rules.yml"]))?;
    output_of(promtool()?.args(["test", "rules", "rules.yml"]))?;
    Ok(())
}

#[test]
fn a_script_that_fails_is_counted() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let _node = Node::start(&host, &format!("{PREFERRED} --upscript=/bin/false --metrics"))?;
    eventually("carpd listens", LONG, || Ok(scrape(&host).is_ok()))?;
    wait_for(&host, &of_host("script_failures_total", ""), |value| value >= 1.0)?;
    Ok(())
}

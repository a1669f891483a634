//! Notify programs: told of every change of state, while carpd keeps the addresses.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::{Agent, BootTime, Host, LONG, Lab, VIP, Wire, configured, eventually};
use nix::sys::signal::Signal;

use crate::limits::hang_with;
use crate::ownership::assert_advertises;
use crate::{Scripts, runs};

/// Writes what a program is told of a state into a file of the name of that state.
const TELL: &str = r#"
env | grep -E '^CARP_(ADDRESSES|CAUSE|INTERFACE|PREVIOUS|SOURCE|STATE|VHID)=' | sort > "$here/$1.new"
mv "$here/$1.new" "$here/$1"
"#;
const ON_BACKUP: &str = "notify BACKUP eth0 1";
const ON_MASTER: &str = "notify MASTER eth0 1";
const ON_INIT: &str = "notify INIT eth0 1";

/// Writes a configuration beside the scripts, with these lines: an advert every 117 ms, and a dead time of 351 ms.
pub(crate) fn configure(scripts: &Scripts, lines: &str) -> Result<()> {
    let text = format!(
        "[defaults]\ninterface = \"eth0\"\npassphrase = \"secret\"\nadvbase = 0\nadvskew = 30\n\
         [[virtual_host]]\nvhid = 1\naddresses = [\"{VIP}/24\", \"10.77.0.101\"]\n{lines}\n"
    );
    let file = scripts.path("carpd.toml");
    fs::write(&file, text)?;
    fs::set_permissions(&file, Permissions::from_mode(0o600)).context("hiding the configuration")
}

/// Starts carpd with the program `notify`, which does this besides noting its arguments, and with these lines.
fn start(host: &Host, scripts: &Scripts, body: &str, lines: &str) -> Result<Agent> {
    scripts.write("notify", body)?;
    configure(scripts, &format!("notify = \"notify\"\n{lines}"))?;
    configured::start(host, &scripts.0)
}

#[test]
fn a_notify_program_is_told_of_each_state_and_carpd_keeps_the_addresses() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let mut agent = start(&host, &scripts, TELL, "")?;
    scripts.wait_for_events(&[ON_BACKUP, ON_MASTER])?;
    agent.wait_for_line("MASTER eth0 1: exit status: 0", LONG)?;
    let told = |state| fs::read_to_string(scripts.path(state)).with_context(|| format!("what {state} was told"));
    let vips = "CARP_ADDRESSES=10.77.0.100/24 10.77.0.101/32\n";
    let rest = |state, previous| {
        format!(
            "CARP_INTERFACE=eth0\nCARP_PREVIOUS={previous}\nCARP_SOURCE=10.77.0.1\nCARP_STATE={state}\nCARP_VHID=1\n"
        )
    };
    let lines = agent.lines();
    for (state, previous) in [("BACKUP", "INIT"), ("MASTER", "BACKUP")] {
        // In the words of the log.
        let change = format!("{previous} -> {state}, ");
        let cause = lines.iter().find_map(|line| Some(line.text.split_once(&change)?.1)).context("no cause")?;
        assert_eq!(told(state)?, format!("{vips}CARP_CAUSE={cause}\n{}", rest(state, previous)));
    }
    eventually("carpd adds the address", LONG, || host.has_address(VIP))?;
    host.remove_address("10.77.0.100/24")?;
    agent.wait_for_line("putting it back", LONG)?;
    eventually("carpd puts the address back", LONG, || host.has_address(VIP))?;

    assert!(agent.stop_and_wait(LONG)?.success());
    assert_eq!(scripts.events()?, [ON_BACKUP, ON_MASTER, ON_INIT]);
    assert!(told("INIT")?.ends_with(&rest("INIT", "MASTER")), "{}", told("INIT")?);
    assert!(!host.has_address(VIP)?);
    Ok(())
}

#[test]
fn a_notify_program_that_hangs_holds_up_nothing_and_is_killed_with_what_it_started() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let wire = Wire::at(&bystander)?;
    let body = format!("if [ $1 = MASTER ]; then trap '' TERM\n{}\nfi", hang_with("sleep 600"));
    let agent = start(&a, &scripts, &body, "notify_timeout = 2")?;
    let (master, _) = wire.wait_for_advert("the first", |_, advert| advert.source == a.ip())?;
    let child = scripts.number_in("child")?;
    eventually("the address is there all the same", LONG, || a.has_address(VIP))?;
    assert!(runs(child));
    wire.wait_for_announcement(&a, VIP, master)?;
    let line = agent.wait_for_line("notify MASTER eth0 1 was killed: it ran longer than 2 s (notify_timeout)", LONG)?;
    assert!(line.text.contains("ERROR"), "{}", line.text);
    eventually("the child is gone", LONG, || Ok(!runs(child)))?;
    let (later, _) = wire.wait_for_adverts(a.ip(), 3)?;
    assert_advertises(&wire, &a, master, later);
    assert!(a.has_address(VIP)?);
    Ok(())
}

#[test]
fn a_notify_program_that_floods_its_output_harms_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let wire = Wire::at(&bystander)?;
    let flood = "head -c 50000000 /dev/zero | tr '\\0' x | fold -w 5000; exit 3";
    let mut agent = start(&a, &scripts, &format!("if [ $1 = MASTER ]; then {flood}; fi"), "")?;
    let (master, _) = wire.wait_for_advert("the first", |_, advert| advert.source == a.ip())?;
    agent.wait_for_line("notify MASTER eth0 1 failed: exit status: 3", LONG)?;
    let (later, _) = wire.wait_for_adverts(a.ip(), 3)?;
    assert_advertises(&wire, &a, master, later);
    assert!(a.has_address(VIP)?);
    assert!(agent.stop_and_wait(LONG)?.success());
    assert_eq!(scripts.events()?, [ON_BACKUP, ON_MASTER, ON_INIT]);
    Ok(())
}

#[test]
fn a_master_that_stays_when_it_hears_another_one_is_told_so() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [scripts, worse] = [Scripts::new()?, Scripts::new()?];
    let on_a = start(&a, &scripts, TELL, "")?;
    scripts.wait_for_events(&[ON_BACKUP, ON_MASTER])?;
    configure(&worse, "advskew = 60")?;
    let on_b = configured::start(&b, &worse.0)?;
    configured::wait_for_change(&on_b, "eth0 vhid 1", "INIT -> BACKUP")?;
    lab.split(&[&a], &[&b])?;
    configured::wait_for_change(&on_b, "eth0 vhid 1", "BACKUP -> MASTER")?;
    assert_eq!(scripts.events()?, [ON_BACKUP, ON_MASTER]);
    lab.heal()?;
    scripts.wait_for_events(&[ON_BACKUP, ON_MASTER, ON_MASTER])?;
    eventually("it is told of the other one", LONG, || {
        let told = fs::read_to_string(scripts.path("MASTER"))?;
        Ok(told.contains("CARP_CAUSE=10.77.0.2 was heard as MASTER, too\n") && told.contains("CARP_PREVIOUS=MASTER\n"))
    })?;
    assert_eq!(configured::changes(&on_a, "eth0 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn a_notify_program_of_a_state_that_is_over_is_ended_before_the_next_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let ends = "trap 'echo ended >> \"$here/events\"; exit 0' TERM";
    let body = format!("if [ $1 = MASTER ]; then {ends}\n{}\nfi\n{TELL}", hang_with("sleep 600"));
    let agent = start(&host, &scripts, &body, "notify_timeout = 600")?;
    let child = scripts.number_in("child")?;
    agent.signal(Signal::SIGUSR2)?;
    scripts.wait_for_events(&[ON_BACKUP, ON_MASTER, "ended", ON_BACKUP])?;
    agent.wait_for_line("notify MASTER eth0 1 was ended: the state has changed", LONG)?;
    eventually("the child is gone", LONG, || Ok(!runs(child)))?;
    eventually("the last change is told", LONG, || {
        Ok(fs::read_to_string(scripts.path("BACKUP"))?.contains("CARP_PREVIOUS=MASTER\n"))
    })
}

#[test]
fn a_notify_program_that_does_not_want_to_end_is_killed_with_what_it_started() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let body = format!("if [ $1 = MASTER ]; then trap '' TERM\n{}\nfi", hang_with("sleep 600"));
    let agent = start(&host, &scripts, &body, "notify_timeout = 600")?;
    let child = scripts.number_in("child")?;
    agent.signal(Signal::SIGUSR2)?;
    scripts.wait_for_events(&[ON_BACKUP, ON_MASTER, ON_BACKUP])?;
    eventually("the child is gone", LONG, || Ok(!runs(child)))
}

#[test]
fn a_hanging_notify_program_holds_up_the_stop_no_longer_than_its_limit() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let scripts = Scripts::new()?;
    let wire = Wire::at(&bystander)?;
    let body = format!("if [ $1 != BACKUP ]; then trap '' TERM\n{}\nfi", hang_with("sleep 600"));
    let mut agent = start(&a, &scripts, &body, "notify_timeout = 3")?;
    let first = scripts.number_in("child")?;
    let asked = BootTime::now();
    assert!(agent.stop_and_wait(LONG)?.success());
    // What is at work at the stop is ended, and what is told of the stop has the rest.
    let took = BootTime::now().since(asked);
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(4500), "{took:?}");
    agent.wait_for_line("notify MASTER eth0 1 was ended", LONG)?;
    agent.wait_for_line("carpd waits for it no longer", LONG)?;
    let last = scripts.number_in("child")?;
    eventually("nothing is left", LONG, || Ok(!runs(first) && !runs(last)))?;
    let (bowed_out, _) = wire.wait_for_advert("the bow-out", |_, advert| advert.is_bow_out())?;
    assert!(bowed_out.since(asked) < Duration::from_secs(1), "the peers do not wait for it");
    Ok(())
}

#[test]
fn a_notify_program_that_is_gone_is_an_error_and_a_reload_names_another() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let scripts = Scripts::new()?;
    let agent = start(&host, &scripts, "", "")?;
    agent.wait_for_line("notify MASTER eth0 1: exit status: 0", LONG)?;
    fs::remove_file(scripts.path("notify"))?;
    agent.signal(Signal::SIGUSR2)?;
    let line = agent.wait_for_line("cannot run ", LONG)?.text;
    assert!(line.contains("ERROR") && line.contains("notify BACKUP eth0 1: No such file"), "{line}");
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_line("carpd.toml:9:10: notify: cannot use the script", LONG)?;

    scripts.write("other", TELL)?;
    configure(&scripts, "notify = \"other\"")?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_line("0 added, 1 changed", LONG)?;
    let told = scripts.events()?;
    eventually("it is master", LONG, || {
        Ok(agent.lines().iter().filter(|line| line.text.contains("BACKUP -> MASTER")).count() == 2)
    })?;
    agent.signal(Signal::SIGUSR2)?;
    eventually("the other is told", LONG, || Ok(scripts.events()?.contains(&"other BACKUP eth0 1".to_owned())))?;
    assert!(scripts.events()?[told.len()..].iter().all(|event| event.starts_with("other ")));
    Ok(())
}

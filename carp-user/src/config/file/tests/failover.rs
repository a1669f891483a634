//! The keys that say what demotes a virtual host and what holds it back.

use carp_common::engine::Profile;

use super::*;
use crate::config::failover::{Check, Failover, TrackedInterface};

/// A folder with a program and a text.
struct Programs(PathBuf);

impl Programs {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("carp-failover-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, mode) in [("program", 0o755), ("text", 0o644)] {
            fs::write(folder.join(name), "#!/bin/sh\n").unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Self(folder)
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { folder: &self.0, ..private() }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A file with these lines in its virtual host, which are from line 7 on, and these tables before.
fn file(tables: &str, lines: &str) -> String {
    format!("{tables}{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.1\"]\n{lines}\n")
}

#[test]
fn without_a_word_nothing_is_tracked_and_nothing_is_waited_for() {
    assert_eq!(hosts(&file("", ""))[0].failover, Failover::default());
}

#[test]
fn what_demotes_and_what_holds_back_is_read() {
    let programs = Programs::new("read");
    let text = file(
        "[script.gateway]\ncommand = [\"program\", \"-c\", \"a b\"]\n\
         [script.full]\ncommand = [\"program\"]\ninterval = 5\ntimeout = 3\nrise = 2\nfall = 255\ndemote = 1\n",
        "profile = \"freebsd\"\nfailover_group = \"edge\"\n\
         track_interfaces = [{ name = \"eth1\", demote = 100 }, { name = \"eth2\" }]\n\
         track_scripts = [\"gateway\", \"full\"]\npreempt_delay = 60\nstartup_delay = 3600\nready_script = \"full\"",
    );
    let mut hosts = parse(Path::new("x.toml"), &text, &programs.surroundings()).unwrap().hosts;
    let failover = hosts.remove(0).failover;
    assert_eq!((failover.profile, failover.group.as_deref()), (Profile::FreeBsd, Some("edge")));
    let tracked = |name: &str, demote| TrackedInterface { name: name.to_owned(), demote };
    assert_eq!(failover.interfaces, [tracked("eth1", 100), tracked("eth2", 240)]);
    let second = Duration::from_secs(1);
    let plain = Check {
        program: programs.0.join("program"),
        arguments: vec!["-c".to_owned(), "a b".to_owned()],
        interval: second,
        time_limit: second,
        rise: 1,
        fall: 1,
    };
    let full =
        Check { arguments: vec![], interval: second * 5, time_limit: second * 3, rise: 2, fall: 255, ..plain.clone() };
    let scripts = failover.scripts.iter().map(|script| (script.name.as_str(), &script.check, script.demote));
    assert_eq!(scripts.collect::<Vec<_>>(), [("gateway", &plain, 240), ("full", &full, 1)]);
    assert_eq!((failover.preempt_delay, failover.startup_delay), (second * 60, second * 3600));
    assert_eq!(failover.ready.map(|script| script.name.clone()).as_deref(), Some("full"));
}

#[test]
fn the_defaults_have_them_too_and_a_script_may_take_as_long_as_its_interval() {
    let programs = Programs::new("defaults");
    let text = "[script.a]\ncommand = [\"program\"]\ninterval = 9\n".to_owned()
        + DEFAULTS
        + "track_scripts = [\"a\"]\nprofile = \"openbsd\"\n[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.1\"]\n\
           [[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.2\"]\ntrack_scripts = []\n";
    let hosts = parse(Path::new("x.toml"), &text, &programs.surroundings()).unwrap().hosts;
    assert_eq!(hosts[0].failover.scripts[0].check.time_limit, Duration::from_secs(9));
    assert_eq!(hosts[1].failover.scripts, []);
}

#[test]
fn a_script_that_no_virtual_host_names_is_told_of() {
    let programs = Programs::new("unnamed");
    let script = |name: &str| format!("[script.{name}]\ncommand = [\"program\"]\n");
    let text = ["a", "b", "c"].map(script).concat()
        + DEFAULTS
        + "track_scripts = [\"c\"]\n[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.1\"]\n\
           track_scripts = []\nready_script = \"a\"\n";
    let read = parse(Path::new("x.toml"), &text, &programs.surroundings()).unwrap();
    let never = |at: u8, name: &str| {
        format!("x.toml:{at}:9: warning: script: no virtual host names `{name}`, so it is never run")
    };
    assert_eq!(read.warnings, [never(3, "b"), never(5, "c")]);
}

#[test]
fn mistakes_in_them_are_told_with_their_places() {
    let programs = Programs::new("mistakes");
    let told = |tables: &str, lines: &str| mistakes_in(&file(tables, lines), &programs.surroundings());
    for (line, what) in [
        ("profile = \"netbsd\"", "7:11: profile: unknown variant `netbsd`, expected `openbsd` or `freebsd`"),
        ("failover_group = \"\"", "7:18: failover_group: 1 to 64 bytes, no control characters"),
        ("track_interfaces = \"eth1\"", "7:20: track_interfaces: is to be a list: [{ name = \"eth1\" }]"),
        (
            "track_interfaces = [\"eth1\"]",
            "7:21: track_interfaces: an interface is a table: { name = \"eth1\", demote = 240 }",
        ),
        ("track_interfaces = [{ demote = 1 }]", "7:21: `name` is missing"),
        ("track_interfaces = [{ name = \"a/b\" }]", "7:30: name: \"a/b\" cannot be an interface's name"),
        ("track_interfaces = [{ name = \"a\", demote = 0 }]", "7:44: demote: 0 is not in 1 to 254"),
        ("track_interfaces = [{ name = \"a\", demote = 255 }]", "7:44: demote: 255 is not in 1 to 254"),
        ("track_interfaces = [{ name = \"a\", weight = 1 }]", "7:35: unknown key `weight`"),
        ("track_interfaces = [{ name = \"a\" }, { name = \"a\" }]", "7:46: track_interfaces: a is there twice"),
        ("track_scripts = [\"b\"]", "7:18: track_scripts: there is no [script.b]"),
        ("ready_script = \"b\"", "7:16: ready_script: there is no [script.b]"),
        ("preempt_delay = 3601", "7:17: preempt_delay: 3601 is not in 0 to 3600"),
        ("startup_delay = -1", "7:17: startup_delay: -1 is not in 0 to 3600"),
    ] {
        assert_eq!(told("", line), [what]);
    }
    let folder = programs.0.display();
    for (tables, what) in [
        ("script = 1\n", "1:10: `script` has a table for each script: [script.NAME]".to_owned()),
        ("script.a = 1\n", "1:12: script: `a` is a table: [script.NAME]".to_owned()),
        (
            "[script.\"\"]\ncommand = [\"program\"]\n",
            "1:9: script: \"\" cannot be a name: 64 bytes, no control characters".to_owned(),
        ),
        ("[script.a]\n", "1:1: `command` is missing".to_owned()),
        ("[script.a]\ncommand = []\n", "2:11: command: at least the program".to_owned()),
        (
            "[script.a]\ncommand = \"program\"\n",
            "2:11: command: invalid type: string \"program\", expected a sequence".to_owned(),
        ),
        (
            "[script.a]\ncommand = [\"text\"]\n",
            format!("2:11: command: cannot use the script {folder}/text: it is not an executable file (chmod +x?)"),
        ),
        ("[script.a]\ncommand = [\"program\"]\ninterval = 0\n", "3:12: interval: 0 is not in 1 to 3600".to_owned()),
        ("[script.a]\ncommand = [\"program\"]\ntimeout = 3601\n", "3:11: timeout: 3601 is not in 1 to 3600".to_owned()),
        ("[script.a]\ncommand = [\"program\"]\nrise = 0\n", "3:8: rise: 0 is not in 1 to 255".to_owned()),
        ("[script.a]\ncommand = [\"program\"]\nfall = 256\n", "3:8: fall: 256 is not in 1 to 255".to_owned()),
        ("[script.a]\ncommand = [\"program\"]\nweight = 1\n", "3:1: unknown key `weight`".to_owned()),
    ] {
        // What names a script with a mistake has none of its own.
        let lines = if tables.starts_with("[script.a]") { "track_scripts = [\"a\"]\nready_script = \"a\"" } else { "" };
        assert_eq!(told(tables, lines), [what], "{tables}");
    }
}

//! ucarp's command line: every option in every spelling that getopt_long takes. What is refused is in `refusals`.

mod refusals;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use clap::CommandFactory;

use super::*;

/// What every virtual host needs.
const REQUIRED: [&str; 3] = ["--vhid=1", "--pass=secret", "--addr=10.0.0.100"];

/// Two executable files.
const UP: &str = "/bin/sh";
const DOWN: &str = "/bin/ls";

/// ucarp's long options: what `getopt_long` completes an abbreviation to.
const UCARP: [&str; 22] = [
    "interface",
    "srcip",
    "mcast",
    "vhid",
    "pass",
    "passfile",
    "preempt",
    "neutral",
    "addr",
    "help",
    "advbase",
    "advskew",
    "upscript",
    "downscript",
    "deadratio",
    "debug",
    "shutdown",
    "daemonize",
    "ignoreifstate",
    "nomcast",
    "facility",
    "xparam",
];

/// Whether an option has had its effect.
type Check = fn(&Parsed) -> bool;

/// The options with a value: letter, name, a value, and whether it arrived.
const VALUED: [(&str, &str, &str, Check); 14] = [
    ("i", "interface", "eth7", |got| got.settings.interface.as_deref() == Some("eth7")),
    ("s", "srcip", "10.0.0.7", |got| got.settings.sources == [IpAddr::from([10, 0, 0, 7])]),
    ("v", "vhid", "7", |got| got.settings.vhid.get() == 7),
    ("p", "pass", "other", |got| is_key(got, b"other")),
    ("m", "mcast", "224.0.0.7", |got| got.settings.group == Ipv4Addr::new(224, 0, 0, 7)),
    ("b", "advbase", "7", |got| got.settings.advbase.get() == 7),
    ("k", "advskew", "7", |got| got.settings.advskew.get() == 7),
    ("r", "deadratio", "7", |got| got.settings.dead_ratio.get() == 7),
    ("u", "upscript", UP, |got| scripts(got).up.as_deref() == Some(Path::new(UP))),
    ("d", "downscript", DOWN, |got| scripts(got).down.as_deref() == Some(Path::new(DOWN))),
    ("f", "facility", "local7", |got| got.facility == "local7".parse().unwrap()),
    ("a", "addr", "10.0.0.7", |got| got.settings.digests().sent[0].contains(&[10, 0, 0, 7].into())),
    ("x", "xparam", "a b", |got| {
        got.settings.scripts.is_none() || scripts(got).xparam.as_deref() == Some("a b".as_ref())
    }),
    ("o", "passfile", "PASSFILE", |got| is_key(got, b"from file")),
];

/// The options without one: letter, name, and whether it counts.
const FLAGS: [(&str, &str, Check); 7] = [
    ("P", "preempt", |got| got.settings.preempt),
    ("n", "neutral", |got| got.settings.neutral),
    ("z", "shutdown", |_| true),
    ("M", "nomcast", |got| got.settings.is_broadcast),
    ("S", "ignoreifstate", |got| got.settings.ignore_link_state),
    ("B", "daemonize", |got| got.daemonize),
    ("D", "debug", |got| got.debug),
];

struct Parsed {
    settings: Settings,
    facility: Facility,
    daemonize: bool,
    debug: bool,
}

/// A file that is gone after the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = env::temp_dir().join(format!("carpd-cli-{}-{name}", process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn try_parse(words: &[&str]) -> Result<Parsed, String> {
    let words = ["carpd"].iter().chain(words).map(OsString::from);
    let args = Args::read(words).map_err(|error| error.to_string())?;
    let (facility, daemonize, debug) = (args.facility(), args.daemonize(), args.debug());
    let settings = args.settings().map_err(|error| format!("{error:#}"))?;
    Ok(Parsed { settings, facility, daemonize, debug })
}

fn parse(words: &[&str]) -> Parsed {
    try_parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The required options, then these.
fn with(words: &[&str]) -> Parsed {
    parse(&[&REQUIRED, words].concat())
}

fn scripts(got: &Parsed) -> &Scripts {
    got.settings.scripts.as_ref().expect("no scripts")
}

fn is_key(got: &Parsed, passphrase: &[u8]) -> bool {
    got.settings.passphrase.key() == Passphrase::new(passphrase).unwrap().key()
}

#[test]
fn an_option_with_a_value_is_taken_long_and_short_joined_and_separate() {
    let file = TempFile::new("spellings", "from file\nsecond line\n");
    for (letter, name, value, arrived) in VALUED {
        let value = if value == "PASSFILE" { file.text() } else { value };
        let [short, long] = [format!("-{letter}"), format!("--{name}")];
        let joined = [format!("{short}{value}"), format!("{long}={value}")];
        for words in [vec![&short[..], value], vec![&long, value], vec![&joined[0]], vec![&joined[1]]] {
            // The passphrase comes from one of its two options.
            let required = if name == "passfile" { vec![REQUIRED[0], REQUIRED[2]] } else { REQUIRED.to_vec() };
            let words = [required, words].concat();
            assert!(arrived(&parse(&words)), "{words:?}");
        }
    }
}

#[test]
fn an_option_without_a_value_is_taken_long_and_short_and_in_a_cluster() {
    for (letter, name, counts) in FLAGS {
        assert!(name == "shutdown" || !counts(&with(&[])), "--{name} counts without being given");
        for word in [format!("-{letter}"), format!("--{name}"), format!("-{letter}z"), format!("-z{letter}k9")] {
            assert!(counts(&with(&[&word])), "{word}");
        }
    }
    let all = with(&["-PnzMSBDk9"]);
    assert!(FLAGS.iter().all(|(_, _, counts)| counts(&all)));
    assert_eq!(all.settings.advskew.get(), 9);
}

#[test]
fn a_long_option_may_be_abbreviated_wherever_ucarp_takes_it() {
    let file = TempFile::new("abbreviated", "from file");
    for name in UCARP {
        for length in 1..name.len() {
            let short = &name[..length];
            let is_unique = UCARP.iter().filter(|other| other.starts_with(short)).count() == 1;
            if !is_unique && !UCARP.contains(&short) {
                assert!(try_parse(&[&REQUIRED[..], &[&format!("--{short}")]].concat()).is_err(), "--{short}");
            } else if let Some((_, _, counts)) = FLAGS.iter().find(|(_, flag, _)| *flag == name) {
                assert!(counts(&with(&[&format!("--{short}")])), "--{short}");
            } else if let Some((_, _, value, arrived)) =
                VALUED.iter().find(|(_, option, ..)| *option == name && is_unique)
            {
                let value = if name == "passfile" { file.text() } else { value };
                let required = if name == "passfile" { vec![REQUIRED[0], REQUIRED[2]] } else { REQUIRED.to_vec() };
                let word = format!("--{short}={value}");
                assert!(arrived(&parse(&[&required[..], &[&word]].concat())), "{word}");
            }
        }
    }
    assert_eq!(with(&["--inter=eth0"]).settings.interface.as_deref(), Some("eth0"));
}

#[test]
fn of_a_repeated_option_the_last_one_counts() {
    for (_, name, value, arrived) in VALUED.into_iter().filter(|(_, name, ..)| !["passfile", "addr"].contains(name)) {
        let other = match name {
            "vhid" | "advbase" | "advskew" | "deadratio" => "200",
            "srcip" => "10.0.0.200",
            "mcast" => "224.0.0.200",
            "upscript" | "downscript" => "/bin/cat",
            "facility" => "mail",
            _ => "z",
        };
        let words = [format!("--{name}={other}"), format!("--{name}={value}")];
        assert!(arrived(&with(&[&words[0], &words[1]])), "{words:?}");
        assert!(!arrived(&with(&["-u", UP, &words[1], &words[0]])), "{words:?}, the other way round");
    }
    assert!(with(&["-P", "-P", "--preempt"]).settings.preempt);
}

#[test]
fn prometheus_is_answered_only_if_asked_for_and_on_the_loopback_unless_told_otherwise() {
    let metrics = |words: &[&str]| {
        let words = [&["carpd"], &REQUIRED[..], words].concat();
        Args::read(words.into_iter().map(OsString::from)).map(|args| args.metrics().map(|address| address.to_string()))
    };
    let at = |address: &str| Some(address.to_owned());
    assert_eq!(metrics(&[]).unwrap(), None);
    assert_eq!(metrics(&["--metrics", "-P"]).unwrap(), at("127.0.0.1:10112"));
    assert_eq!(metrics(&["--metrics", "10.0.0.1:1"]).unwrap(), at("10.0.0.1:1"));
    assert_eq!(metrics(&["--metrics=[::1]:2"]).unwrap(), at("[::1]:2"));
    for wrong in ["--metrics=10112", "--metrics=", "--metrics=localhost:10112"] {
        assert!(metrics(&[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn a_short_option_keeps_an_equals_sign_as_part_of_its_value() {
    assert!(is_key(&with(&["-p=secret"]), b"=secret"));
    assert!(is_key(&with(&["-Pp=secret"]), b"=secret"));
    assert_eq!(scripts(&with(&["-u", UP, "-x=1"])).xparam.as_deref(), Some("=1".as_ref()));
    assert!(is_key(&with(&["--pass==secret"]), b"=secret"));
}

#[test]
fn a_value_may_begin_with_a_hyphen() {
    for words in [["-p", "-secret"], ["--pass", "-secret"], ["-p-secret", "-z"], ["--pass=-secret", "-z"]] {
        assert!(is_key(&with(&words), b"-secret"), "{words:?}");
    }
    // Also if it looks like an option that has one.
    for words in [["-p", "-p=x"], ["--pass", "-p=x"]] {
        assert!(is_key(&with(&words), b"-p=x"), "{words:?}");
    }
    let got = with(&["-u", UP, "--xpar", "-p=x"]);
    assert!(scripts(&got).xparam.as_deref() == Some("-p=x".as_ref()) && is_key(&got, b"secret"));
    assert!(is_key(&with(&["--interface", "-x", "-p=x"]), b"=x"));
    for words in [["-x", "--table"], ["--xparam", "--table"]] {
        let got = with(&[&["-u", UP], &words[..]].concat());
        assert_eq!(scripts(&got).xparam.as_deref(), Some("--table".as_ref()), "{words:?}");
    }
}

#[test]
fn the_tutorials_line_is_accepted_as_it_stands() {
    let line = format!(
        "--interface=ens33 --pass=bYaTxPw2 --srcip=192.168.178.210 --vhid=1 --addr=192.168.178.201 --shutdown \
         --preempt --upscript={UP} --downscript={DOWN} -B"
    );
    let got = parse(&line.split_whitespace().collect::<Vec<_>>());
    let Parsed { settings, .. } = &got;
    assert_eq!(settings.interface.as_deref(), Some("ens33"));
    assert_eq!(settings.sources, [IpAddr::from([192, 168, 178, 210])]);
    assert_eq!(settings.vhid.get(), 1);
    assert!(is_key(&got, b"bYaTxPw2"));
    assert_eq!(settings.vips, [Vip { address: [192, 168, 178, 201].into(), prefix: 32 }]);
    assert!(settings.preempt && !settings.neutral && !settings.ignore_link_state && got.daemonize && !got.debug);
    assert_eq!((settings.advbase.get(), settings.advskew.get(), settings.dead_ratio.get()), (1, 0, 3));
    assert_eq!((settings.group, settings.is_broadcast), (GROUP_V4, false));
    assert_eq!(scripts(&got).up.as_deref(), Some(Path::new(UP)));
    assert_eq!(scripts(&got).down.as_deref(), Some(Path::new(DOWN)));
    assert_eq!(scripts(&got).xparam, None);
    assert_eq!(got.facility, "daemon".parse().unwrap());
}

#[test]
fn what_debians_ifupdown_hook_runs_is_accepted() {
    let line = format!(
        "-i eth0 -s 10.0.0.1 -B -z -v 3 -p secret -a 10.0.0.100 -u {UP} -d {DOWN} -P -k 5 -b 2 -r 4 -M -x table"
    );
    let got = parse(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!((got.settings.advbase.get(), got.settings.advskew.get(), got.settings.dead_ratio.get()), (2, 5, 4));
    assert_eq!(scripts(&got).xparam.as_deref(), Some("table".as_ref()));
}

#[test]
fn several_vips_may_be_given_each_once_with_or_without_its_prefix_length() {
    let got = parse(&["-v1", "-psecret", "-a10.0.0.100", "--addr=10.0.0.101/24", "-a", "10.0.0.100/8"]);
    let told: Vec<_> = got.settings.vips.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["10.0.0.100/32", "10.0.0.101/24"]);
}

#[test]
fn every_facility_of_ucarp_is_known_in_capitals_too() {
    for name in
        ["auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "security", "syslog", "user"]
    {
        with(&["-f", name]);
        with(&["-f", &name.to_uppercase()]);
    }
    for number in 0..8 {
        with(&[&format!("--facility=local{number}")]);
    }
}

#[test]
fn the_passphrase_may_be_any_bytes_and_its_file_may_end_without_a_newline() {
    let words =
        [OsString::from("carpd"), "-v1".into(), "-a10.0.0.100".into(), OsString::from_vec(b"-p\xff\xfe k\xc3".into())];
    let args = Args::read(words).unwrap_or_else(|error| panic!("{error}"));
    let settings = args.settings().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(&settings.passphrase.key()[..5], b"\xff\xfe k\xc3");

    for content in ["from file", "from file\n", "from file\n\n\nmore"] {
        let file = TempFile::new("ends", content);
        assert!(is_key(&parse(&["-v1", "-a10.0.0.100", "-o", file.text()]), b"from file"), "{content:?}");
    }
    // As ucarp reads it: blanks and a carriage return are part of the passphrase.
    let file = TempFile::new("blanks", " from file \r\n");
    assert!(is_key(&parse(&["-v1", "-a10.0.0.100", "-o", file.text()]), b" from file \r"));
}

#[test]
fn a_configuration_file_goes_with_no_option_that_describes_a_virtual_host() {
    let of_the_process =
        ["would_go_on", "config", "socket", "metrics", "bpffs", "facility", "daemonize", "debug", "help", "version"];
    let command = Args::command();
    let others =
        command.get_arguments().map(|option| option.get_id().as_str()).filter(|id| !of_the_process.contains(id));
    let mut others: Vec<_> = others.collect();
    let mut listed = OF_ONE_HOST;
    others.sort_unstable();
    listed.sort_unstable();
    assert_eq!(others, listed);
}

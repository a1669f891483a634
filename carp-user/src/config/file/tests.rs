//! What is read, and how mistakes are told.

mod failover;
mod seal;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use carp_common::{abi::Family, engine::Announcements};
use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{
    reader::{
        FILE_KEYS, KEYS, OWN_KEYS, failover::KEYS as FAILOVER_KEYS, failover::SCRIPT_KEYS, lease::KEYS as LEASE_KEYS,
        seal::KEYS as SEAL_KEYS,
    },
    *,
};
use crate::config::{AdvertMac, Choice, LinkLocal, Notify, VipMac, passphrase};

fn private() -> Surroundings<'static> {
    Surroundings { is_public: false, folder: Path::new(""), credentials: Credentials::None }
}

/// Enough for a virtual host, but for its own keys.
const DEFAULTS: &str = "[defaults]\ninterface = \"eth0\"\npassphrase = \"secret\"\n";

fn hosts(text: &str) -> Vec<Settings> {
    parse(Path::new("x.toml"), text, &private()).unwrap_or_else(|mistakes| panic!("{mistakes}")).hosts
}

/// Each as `LINE:COLUMN: WHAT`.
fn mistakes_in(text: &str, surroundings: &Surroundings<'_>) -> Vec<String> {
    let mistakes = parse(Path::new("x.toml"), text, surroundings).err().expect("there is a mistake");
    mistakes.first.into_iter().map(|Mistake { line, column, what }| format!("{line}:{column}: {what}")).collect()
}

fn mistakes(text: &str) -> Vec<String> {
    mistakes_in(text, &private())
}

#[test]
fn a_virtual_host_has_its_own_settings_or_the_defaults_or_those_of_the_command_line() {
    let text = format!(
        "{DEFAULTS}advskew = 100\npreempt = true\n\
         [[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100/24\", \"10.0.0.101\"]\n\
         [[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.102\"]\ninterface = \"eth1\"\nsource = \"10.0.0.1\"\nsource6 = \"fe80::1\"\n\
         advbase = 0\nadvskew = 7\ndead_ratio = 4\npreempt = false\ndatapath = \"socket\"\nadvert_mac = \"interface\"\n\
         group = \"224.0.0.200\"\nbroadcast = true\ngarp_repeat = 0\ngarp_refresh = 9\nignore_link_state = true\n"
    );
    let [plain, full] = &hosts(&text)[..] else { panic!("two virtual hosts") };
    let vips: Vec<_> = plain.vips.iter().map(ToString::to_string).collect();
    assert_eq!((plain.interface.as_deref(), plain.vhid.get()), (Some("eth0"), 1));
    assert_eq!(vips, ["10.0.0.100/24", "10.0.0.101/32"]);
    assert_eq!((plain.advbase.get(), plain.advskew.get(), plain.dead_ratio.get()), (1, 100, 3));
    assert!(plain.preempt && !plain.ignore_link_state && plain.sources.is_empty());
    assert_eq!((plain.datapath, plain.advert_mac, plain.mac), (Choice::Auto, AdvertMac::Virtual, VipMac::Interface));
    assert_eq!(plain.announcements, Announcements::default());

    assert_eq!(full.interface.as_deref(), Some("eth1"));
    assert_eq!(full.sources, ["10.0.0.1", "fe80::1"].map(|source| source.parse::<IpAddr>().unwrap()));
    assert_eq!((full.advbase.get(), full.advskew.get(), full.dead_ratio.get()), (0, 7, 4));
    assert!(!full.preempt && full.ignore_link_state);
    assert_eq!((full.datapath, full.advert_mac), (Choice::Socket, AdvertMac::Interface));
    assert_eq!((full.group, full.is_broadcast), (Ipv4Addr::new(224, 0, 0, 200), true));
    assert_eq!(full.announcements, Announcements { repeat: 0, refresh: 9 });
}

#[test]
fn a_virtual_host_can_have_peers_and_both_families() {
    let text = format!(
        "{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\", \"fd00::100/64\", \"fe80::100\"]\n\
         peers = [\"10.0.0.2\", \"fd00::2\"]\nmin_ttl = 250\nlink_local = \"ignored\"\n"
    );
    let [host] = &hosts(&text)[..] else { panic!("one virtual host") };
    assert_eq!(host.families(), [Family::V4, Family::V6]);
    assert_eq!(host.peers, ["10.0.0.2", "fd00::2"].map(|peer| peer.parse::<IpAddr>().unwrap()));
    assert_eq!((host.min_ttl, host.link_local), (250, LinkLocal::Ignored));
    // What a cloud knows nothing of, it drops.
    assert_eq!(host.advert_mac, AdvertMac::Interface);
    assert_eq!(
        mistakes(&format!(
            "{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100/33\", \"ff02::1\", \"fd00::1/129\"]\n\
             source6 = \"10.0.0.1\"\nmin_ttl = 0\n\
             [[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.101\"]\n\
             peers = [\"10.0.0.2\", \"10.0.0.2\", \"224.0.0.1\", \"host\", \"10.0.0.101\"]\n"
        ))
        .iter()
        .map(|mistake| mistake.split_once(": ").unwrap().1)
        .collect::<Vec<_>>(),
        [
            "addresses: \"10.0.0.100/33\": the prefix length is 0 to 32",
            "addresses: \"ff02::1\": cannot be a host's address",
            "addresses: \"fd00::1/129\": the prefix length is 0 to 128",
            "source6: \"10.0.0.1\" cannot be a host's address",
            "min_ttl: 0 is not in 1 to 255",
            "peers: \"10.0.0.2\" is there twice",
            "peers: \"224.0.0.1\" cannot be a host's address",
            "peers: \"host\" cannot be a host's address",
            "peers: 10.0.0.101 is a virtual address, and not a host's own",
        ]
    );
}

#[test]
fn a_peer_that_gets_nothing_from_a_virtual_host_is_told_of_once() {
    let text = format!(
        "{DEFAULTS}peers = [\"10.0.0.2\", \"fd00::2\"]\n\
         [[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\n\
         [[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.101\"]\n\
         [[virtual_host]]\nvhid = 3\naddresses = [\"10.0.0.102\", \"fd00::102\"]\n"
    );
    assert_eq!(
        parse(Path::new("x.toml"), &text, &private()).unwrap().warnings,
        ["x.toml:4:22: warning: peers: fd00::2 gets no adverts of a virtual host without an address of its family"]
    );
}

#[test]
fn while_addresses_change_both_digests_count_and_afterwards_one() {
    let text = |until: &str| {
        format!(
            "{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\", \"10.0.0.101\"]\n\
             rollout = {{ from = [\"10.0.0.100\"], until = \"{until}\" }}\n"
        )
    };
    let [old, new] = [&["10.0.0.100"][..], &["10.0.0.100", "10.0.0.101"]]
        .map(|addresses| addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>());
    let under_way = hosts(&text("2999-01-01T00:00:00Z"))[0].digests();
    assert_eq!((&under_way.sent, &under_way.accepted), (&vec![new.clone(), old], &under_way.sent));
    let over = hosts(&text("2020-01-01T00:00:00Z"))[0].digests();
    assert_eq!((&over.sent, &over.accepted), (&vec![new], &over.sent));
    let wrong = format!(
        "{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\nrollout = {{ until = \"soon\", who = 1 }}\n"
    );
    assert_eq!(
        mistakes(&wrong),
        [
            "7:11: `from` is missing",
            "7:21: until: \"soon\" is no time: as 2026-12-24T18:00:00Z",
            "7:29: unknown key `who`",
        ]
    );
}

#[test]
fn what_addresses_were_can_be_hosts_and_is_at_least_one() {
    let with = |addresses: &str, from: &str, more: &str| {
        let rollout = format!("rollout = {{ from = {from}, until = \"2999-01-01T00:00:00Z\" }}\n");
        format!("{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [{addresses:?}]\n{rollout}{more}")
    };
    let impossible = r#"["0.0.0.0", "224.0.0.1", "127.0.0.1", "::1", "host", "10.0.0.2", "10.0.0.2/24"]"#;
    assert_eq!(
        mistakes(&with("10.0.0.100", impossible, "")),
        [
            "7:21: from: \"0.0.0.0\": cannot be a host's address",
            "7:32: from: \"224.0.0.1\": cannot be a host's address",
            "7:45: from: \"127.0.0.1\": cannot be a host's address",
            "7:58: from: \"::1\": cannot be a host's address",
            "7:65: from: \"host\": no IP address",
            "7:85: from: 10.0.0.2 is used twice",
        ]
    );
    assert_eq!(
        mistakes(&with("10.0.0.100", "[]", "")),
        ["7:20: from: at least one: a virtual host without addresses has no adverts to understand"]
    );
    let from = hosts(&with("10.0.0.100", r#"["10.0.0.2/24"]"#, "")).remove(0).rollout.unwrap().from;
    assert_eq!(from, [IpAddr::from([10, 0, 0, 2])], "as it stood in `addresses`");
}

#[test]
fn of_a_rollout_with_link_local_addresses_the_form_of_the_digest_is_to_be_named() {
    let warnings = |address: &str, from: &str, more: &str| {
        let rollout = format!("rollout = {{ from = [{from:?}], until = \"2999-01-01T00:00:00Z\" }}\n");
        let host = format!("[[virtual_host]]\nvhid = 1\naddresses = [{address:?}]\n{rollout}");
        parse(Path::new("x.toml"), &format!("{DEFAULTS}{more}{host}"), &private()).unwrap().warnings.join("\n")
    };
    for (address, from) in [("fe80::1", "fd00::1"), ("fd00::1", "fe80::1")] {
        let told = warnings(address, from, "");
        assert!(told.starts_with("x.toml:7:11: warning: rollout: until then, of the two digests"), "{told}");
        assert_eq!(warnings(address, from, "link_local = \"hashed\"\n"), "");
    }
    assert_eq!(warnings("fd00::1", "fd00::2", ""), "");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = "[defaults]\n\
                interface = \"eth0\"\n\
                colour = \"red\"\n\
                [[virtual_host]]\n\
                vhid = 256\n\
                addresses = [\"10.0.0.1\", \"10.0.0.300\"]\n\
                source = \"10.0.0.1\"\n\
                passphrase = \"12345678901234567890\"\n\
                advskew = 255\n\
                [[virtual_host]]\n\
                vhid = \"two\"\n\
                adresses = []\n\
                datapath = \"pigeon\"\n\
                preempt = 1\n";
    assert_eq!(
        mistakes(text),
        [
            "3:1: unknown key `colour`",
            "5:8: vhid: 256 is not in 1 to 255",
            "6:26: addresses: \"10.0.0.300\": no IP address",
            "7:10: source: 10.0.0.1 is a virtual address, and not a host's own",
            "8:14: passphrase: the passphrase has 20 bytes; CARP takes 1 to 19, none of them NUL",
            "9:11: advskew: 255 is not in 0 to 254",
            "10:1: `addresses` is missing",
            "10:1: a passphrase is needed: one of passphrase, passphrase_file, passphrase_credential",
            "11:8: vhid: invalid type: string \"two\", expected i64",
            "12:1: unknown key `adresses`",
            "13:12: datapath: unknown variant `pigeon`, expected one of `auto`, `native`, `generic`, `socket`",
            "14:11: preempt: invalid type: integer `1`, expected a boolean",
        ]
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_place_too() {
    assert_eq!(mistakes(""), ["1:1: there is no virtual host: [[virtual_host]]"]);
    assert_eq!(mistakes("virtual_host = []\n"), ["1:16: there is no virtual host: [[virtual_host]]"]);
    assert_eq!(mistakes("virtual_host = 1\n"), ["1:16: `virtual_host` is a list of tables: [[virtual_host]]"]);
}

#[test]
fn beside_what_is_not_toml_only_mistakes_that_are_certain_are_told() {
    let host = "[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.1\"]\nadvskew = 300\n";
    let certain = "advskew: 300 is not in 0 to 254";
    for (what, error) in [
        ("= 3", "4:1: "),
        ("source =", "4:9: "),
        ("source = 10.0.0.1", "4:14: "),
        ("source = \"10.0.0.2", "4:19: "),
        ("[[virtual_host]\nvhid = 2", "4:16: "),
        ("[[virtual_host]]\nvhid =\naddresses = [\"10.0.0.2\"]", "5:7: "),
        ("[[virtual_host]]\nvhid = 2\naddresses =\n", "6:12: "),
        ("[[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.2\"]\ndatapath =", "7:11: "),
        ("[[virtual_host]]\nvhid = 2\nvhid = 2\naddresses = [\"10.0.0.2\"]", "6:1: "),
    ] {
        let told = mistakes(&format!("{DEFAULTS}{what}\n{host}"));
        let [first, second] = &told[..] else { panic!("{what}: {told:#?}") };
        assert!(first.starts_with(error) && second.ends_with(certain), "{told:#?}");
    }
    // The rest cannot be made out, or there are several errors.
    for what in [
        "\"source = 1",
        "[virtual_host",
        "[[virtual_host]]\nvhid 2",
        "[[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.2\"",
    ] {
        let told = mistakes(&format!("{DEFAULTS}{what}\n{host}")).concat();
        assert!(
            told.contains("expected `") && !told.contains("missing:") && !told.contains("`virtual_host`"),
            "{told}"
        );
        assert!(!told.contains("addresses: "), "{told}");
    }
}

#[test]
fn no_source_is_an_address_of_any_virtual_host() {
    let host = |vhid, rest: &str| format!("[[virtual_host]]\nvhid = {vhid}\naddresses = [\"10.0.0.{vhid}\"]\n{rest}\n");
    let text = [DEFAULTS, &host(1, "source = \"10.0.0.2\""), &host(2, ""), &host(3, "source = \"10.0.0.9\"")].concat();
    assert_eq!(mistakes(&text), ["7:10: source: 10.0.0.2 is a virtual address, and not a host's own"]);
    let text = [DEFAULTS, "source = \"10.0.0.2\"\n", &host(1, ""), &host(2, "")].concat();
    assert_eq!(mistakes(&text), ["4:10: source: 10.0.0.2 is a virtual address, and not a host's own"]);
}

#[test]
fn what_can_be_there_only_once_is_told_where_it_is_again() {
    let host = |rest: &str| format!("[[virtual_host]]\n{rest}\n");
    let text = [
        DEFAULTS.to_owned(),
        host("vhid = 1\naddresses = [\"10.0.0.1\", \"10.0.0.1/24\"]"),
        host("vhid = 1\naddresses = [\"10.0.0.2\"]\ninterface = \"eth1\""),
        host("vhid = 1\naddresses = [\"10.0.0.2\"]"),
        host("vhid = 2\naddresses = [\"10.0.0.3\"]\ndatapath = \"socket\""),
    ];
    assert_eq!(
        mistakes(&text.concat()),
        [
            "6:26: addresses: 10.0.0.1 is used twice",
            "12:8: vhid 1 is on eth0 already",
            "13:14: addresses: 10.0.0.2 is used twice",
            "17:12: datapath: all virtual hosts on eth0 have the same",
        ]
    );
}

#[test]
fn what_every_virtual_host_would_read_anew_is_short_and_no_more_are_read_than_can_be_served() {
    let peers: Vec<_> = (0..60_000_u32).map(|peer| format!("{:?}", Ipv4Addr::from(0x0a00_0001 + peer))).collect();
    let text = format!("{DEFAULTS}peers = [\"{}\"]\n{}", peers.join("\", \""), "[[virtual_host]]\n".repeat(10_000));
    assert_eq!(mistakes(&text), ["4:9: peers: 256 are the most in [defaults]"]);
    let text = DEFAULTS.to_owned() + &"[[virtual_host]]\n".repeat(10_000);
    let told = parse(Path::new("x.toml"), &text, &private()).err().expect("there are too many");
    assert_eq!(told.first[0].what, "10000 virtual hosts: 1024 is the most");
    assert_eq!(told.first.len() + told.more, 1 + 2 * 1024, "each lacks vhid and addresses");
}

#[test]
fn no_more_peers_are_taken_than_the_kernel_can_be_told_of() {
    let all = |count: u32| {
        let peers: Vec<_> = (0..count).map(|peer| format!("{:?}", Ipv4Addr::from(0x0a00_1000 + peer))).collect();
        format!("[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\npeers = [\"{}\"]\n", peers.join("\", \""))
    };
    // One of them has a policy, too, and is no other for that.
    let other = "[[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.101\"]\n\
         peer_policy = [{ source = \"10.0.0.1\" }]\npeers = [\"10.0.0.1\"]";
    assert!(parse(Path::new("x.toml"), &format!("{DEFAULTS}{}{other}", all(4095)), &private()).is_ok());
    let what = "4097 peers, and others with a policy, of all virtual hosts: 4096 is the most";
    assert!(mistakes(&format!("{DEFAULTS}{}{other}", all(4096)))[0].ends_with(what));
}

#[test]
fn a_passphrase_comes_from_one_place_that_others_cannot_read() {
    let folder = env::temp_dir().join(format!("carp-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("secret");
    fs::write(&file, "from a file\n").unwrap();
    let with = |line: &str| {
        format!(
            "[defaults]\npassphrase = \"other\"\n[[virtual_host]]\ninterface = \"eth0\"\nvhid = 1\naddresses = [\"10.0.0.1\"]\n{line}\n"
        )
    };
    let by_file = with(&format!("passphrase_file = {file:?}"));
    let by_name = with("passphrase_file = \"secret\"");
    let by_credential = with("passphrase_credential = \"secret\"");
    let here = Surroundings { is_public: false, folder: &folder, credentials: Credentials::In(&folder) };
    let key = |text: &str| parse(Path::new("x.toml"), text, &here).map(|read| *read.hosts[0].passphrase.key()).ok();
    let expected = passphrase(b"from a file").ok().map(|passphrase| *passphrase.key());

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!([by_name, by_file.clone(), by_credential.clone()].iter().all(|text| key(text) == expected));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let public = mistakes(&by_file);
    assert!(public[0].starts_with("7:19: passphrase_file: everybody can read "), "{public:?}");
    // Nobody would ever write into it.
    let pipe = folder.join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR).unwrap();
    for other in [pipe.as_path(), &folder, Path::new("/dev/zero")] {
        let told = mistakes(&with(&format!("passphrase_file = {other:?}")));
        assert_eq!(told, [format!("7:19: passphrase_file: {} is no ordinary file", other.display())]);
    }
    fs::remove_dir_all(&folder).unwrap();

    let missing = mistakes(&by_credential);
    assert!(missing[0].starts_with("7:25: passphrase_credential: there are no credentials: Load"), "{missing:?}");
    let elsewhere = Surroundings { credentials: Credentials::Unknown, ..private() };
    let Configuration { hosts, warnings, .. } = parse(Path::new("x.toml"), &by_credential, &elsewhere).unwrap();
    assert!(
        warnings[0].starts_with("x.toml:7:25: warning: passphrase_credential: secret: not looked at"),
        "{warnings:?}"
    );
    assert_eq!(hosts.len(), 1);
    let both = mistakes(&with("passphrase = \"a\"\npassphrase_file = \"/b\""));
    assert_eq!(both, ["8:19: passphrase_file: there is `passphrase` already: one of them is enough"]);
    assert_eq!(mistakes(&with("passphrase = 12345")), ["7:14: passphrase: is to be a string"]);
    let everybody = Surroundings { is_public: true, ..private() };
    for inline in [with(""), by_file] {
        let told = mistakes_in(&inline, &everybody);
        assert_eq!(told[0], "2:14: passphrase: this file holds a passphrase, and everybody can read it: chmod o= it");
    }
}

#[test]
fn addresses_on_a_virtual_mac_have_their_adverts_from_it() {
    let text = |more: &str| {
        let host = "[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\nmac = \"virtual\"\n";
        format!("{DEFAULTS}{host}{more}")
    };
    for more in ["", "peers = [\"10.0.0.2\"]\n", "advert_mac = \"virtual\"\n"] {
        let [host] = &hosts(&text(more))[..] else { panic!("one virtual host") };
        assert_eq!((host.mac, host.advert_mac), (VipMac::Virtual, AdvertMac::Virtual), "{more}");
    }
    let told = mistakes(&text("advert_mac = \"interface\"\n"));
    assert_eq!(told.len(), 1);
    assert!(told[0].contains(":7: mac: with \"virtual\" the adverts come from the virtual MAC"), "{told:?}");
}

#[test]
fn a_notify_program_is_one_that_can_be_run() {
    let folder = env::temp_dir().join(format!("carp-notify-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, mode) in [("program", 0o755), ("text", 0o644)] {
        fs::write(folder.join(name), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let here = Surroundings { folder: &folder, ..private() };
    let with = |lines: &str| format!("{DEFAULTS}{lines}\n[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.1\"]\n");
    let notify = |lines: &str| parse(Path::new("x.toml"), &with(lines), &here).unwrap().hosts.remove(0).notify;
    let told = Notify { program: folder.join("program"), time_limit: Duration::from_secs(10) };
    assert_eq!(notify("notify = \"program\""), Some(told.clone()));
    let limited = Notify { time_limit: Duration::from_secs(3600), ..told };
    assert_eq!(notify(&format!("notify = {:?}\nnotify_timeout = 3600", limited.program)), Some(limited));
    assert_eq!(notify("notify_timeout = 1"), None);
    for (lines, what) in [
        (
            "notify = \"nosuch\"",
            "4:10: notify: cannot use the script FOLDER/nosuch: No such file or directory (os error 2)",
        ),
        (
            "notify = \"text\"",
            "4:10: notify: cannot use the script FOLDER/text: it is not an executable file (chmod +x?)",
        ),
        ("notify = \"\"", "4:10: notify: cannot use the script FOLDER/: it is not an executable file (chmod +x?)"),
        ("notify_timeout = 0", "4:18: notify_timeout: 0 is not in 1 to 3600"),
        ("notify_timeout = 3601", "4:18: notify_timeout: 3601 is not in 1 to 3600"),
    ] {
        assert_eq!(mistakes_in(&with(lines), &here), [what.replace("FOLDER", folder.to_str().unwrap())]);
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn of_very_many_mistakes_the_first_are_told() {
    let mistakes = parse(Path::new("x.toml"), &"x = 1\n[[x]]\n".repeat(100_000), &private()).err().unwrap();
    let told = mistakes.to_string();
    assert_eq!(told.lines().count(), TOLD + 1);
    assert!(told.starts_with("x.toml:1:1: "), "{told}");
    assert!(told.ends_with(" more mistakes"), "{told}");
}

#[test]
fn the_example_names_every_key() {
    let example = include_str!("../../../packaging/carpd.toml");
    for key in FILE_KEYS
        .iter()
        .chain(&OWN_KEYS)
        .chain(&KEYS)
        .chain(&FAILOVER_KEYS)
        .chain(&SCRIPT_KEYS)
        .chain(&LEASE_KEYS)
        .chain(&SEAL_KEYS)
    {
        assert!(example.contains(key), "{key}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[|\\]|\\{|=|\"|\n|,|#|a|1|virtual_host|defaults|vhid|addresses| |\\PC){0,60}") {
        let _ = parse(Path::new("x.toml"), &text, &private());
    }
}

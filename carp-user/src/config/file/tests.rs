//! What is read, and how mistakes are told.

use std::{fs, net::Ipv4Addr};

use carp_common::engine::Announcements;

use super::*;
use crate::config::{AdvertMac, Choice, passphrase};

const PRIVATE: Surroundings<'_> = Surroundings { is_public: false, credentials: None };

/// Enough for a virtual host, but for its own keys.
const DEFAULTS: &str = "[defaults]\ninterface = \"eth0\"\npassphrase = \"secret\"\n";

fn hosts(text: &str) -> Vec<Settings> {
    parse(Path::new("x.toml"), text, &PRIVATE).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Each as `LINE:COLUMN: WHAT`.
fn mistakes_in(text: &str, surroundings: &Surroundings<'_>) -> Vec<String> {
    let mistakes = parse(Path::new("x.toml"), text, surroundings).err().expect("there is a mistake");
    mistakes.first.into_iter().map(|Mistake { line, column, what }| format!("{line}:{column}: {what}")).collect()
}

fn mistakes(text: &str) -> Vec<String> {
    mistakes_in(text, &PRIVATE)
}

#[test]
fn a_virtual_host_has_its_own_settings_or_the_defaults_or_those_of_the_command_line() {
    let text = format!(
        "{DEFAULTS}advskew = 100\npreempt = true\n\
         [[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100/24\", \"10.0.0.101\"]\n\
         [[virtual_host]]\nvhid = 2\naddresses = [\"10.0.0.102\"]\ninterface = \"eth1\"\nsource = \"10.0.0.1\"\n\
         advbase = 0\nadvskew = 7\ndead_ratio = 4\npreempt = false\ndatapath = \"socket\"\nadvert_mac = \"interface\"\n\
         group = \"224.0.0.200\"\nbroadcast = true\ngarp_repeat = 0\ngarp_refresh = 9\nignore_link_state = true\n"
    );
    let [plain, full] = &hosts(&text)[..] else { panic!("two virtual hosts") };
    let vips: Vec<_> = plain.vips.iter().map(ToString::to_string).collect();
    assert_eq!((plain.interface.as_deref(), plain.vhid.get()), (Some("eth0"), 1));
    assert_eq!(vips, ["10.0.0.100/24", "10.0.0.101/32"]);
    assert_eq!((plain.advbase.get(), plain.advskew.get(), plain.dead_ratio.get()), (1, 100, 3));
    assert!(plain.preempt && !plain.ignore_link_state && plain.source.is_none());
    assert_eq!((plain.datapath, plain.advert_mac), (Choice::Auto, AdvertMac::Virtual));
    assert_eq!(plain.announcements, Announcements::default());

    assert_eq!((full.interface.as_deref(), full.source), (Some("eth1"), Some(Ipv4Addr::new(10, 0, 0, 1))));
    assert_eq!((full.advbase.get(), full.advskew.get(), full.dead_ratio.get()), (0, 7, 4));
    assert!(!full.preempt && full.ignore_link_state);
    assert_eq!((full.datapath, full.advert_mac), (Choice::Socket, AdvertMac::Interface));
    assert_eq!(full.destination.ip, Ipv4Addr::new(224, 0, 0, 200));
    assert_eq!(full.announcements, Announcements { repeat: 0, refresh: 9 });
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
            "6:14: addresses: 10.0.0.1 is the source, the host's own address",
            "6:26: addresses: \"10.0.0.300\": no IP address",
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
    let told =
        mistakes(&format!("{DEFAULTS}= 3\n[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.1\"]\nadvskew = 300\n"));
    assert!(told[0].starts_with("4:1: "), "{told:?}");
    assert_eq!(told[told.len() - 1], "8:11: advskew: 300 is not in 0 to 254");
    assert_eq!(mistakes(""), ["1:1: there is no virtual host: [[virtual_host]]"]);
    assert_eq!(mistakes("virtual_host = []\n"), ["1:16: there is no virtual host: [[virtual_host]]"]);
    assert_eq!(mistakes("virtual_host = 1\n"), ["1:16: `virtual_host` is a list of tables: [[virtual_host]]"]);
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
    let by_credential = with("passphrase_credential = \"secret\"");
    let here = Surroundings { is_public: false, credentials: Some(&folder) };
    let key = |text: &str| parse(Path::new("x.toml"), text, &here).map(|hosts| *hosts[0].passphrase.key()).ok();
    let expected = passphrase(b"from a file").ok().map(|passphrase| *passphrase.key());

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(key(&by_file) == expected && key(&by_credential) == expected);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let public = mistakes(&by_file);
    assert!(public[0].starts_with("7:19: passphrase_file: everybody can read "), "{public:?}");
    fs::remove_dir_all(&folder).unwrap();

    let missing = mistakes(&by_credential);
    assert!(missing[0].starts_with("7:25: passphrase_credential: there are no credentials: Load"), "{missing:?}");
    let both = mistakes(&with("passphrase = \"a\"\npassphrase_file = \"/b\""));
    assert_eq!(both, ["8:19: passphrase_file: there is `passphrase` already: one of them is enough"]);
    assert_eq!(mistakes(&with("passphrase = 12345")), ["7:14: passphrase: is to be a string"]);
    let everybody = Surroundings { is_public: true, credentials: None };
    let inline = mistakes_in(&with(""), &everybody);
    assert_eq!(inline, ["2:14: passphrase: this file holds a passphrase, and everybody can read it: chmod o= it"]);
}

#[test]
fn of_very_many_mistakes_the_first_are_told() {
    let mistakes = parse(Path::new("x.toml"), &"x = 1\n[[x]]\n".repeat(100_000), &PRIVATE).err().unwrap();
    let told = mistakes.to_string();
    assert_eq!(told.lines().count(), TOLD + 1);
    assert!(told.starts_with("x.toml:1:1: "), "{told}");
    assert!(told.ends_with(" more mistakes"), "{told}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[|\\]|\\{|=|\"|\n|,|#|a|1|virtual_host|defaults|vhid|addresses| |\\PC){0,60}") {
        let _ = parse(Path::new("x.toml"), &text, &PRIVATE);
    }
}

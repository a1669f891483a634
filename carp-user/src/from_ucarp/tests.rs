//! What Debian's hook would start, and what is printed instead.

use std::process::Command;

use proptest::prelude::*;

use super::*;

/// The example in the README of Debian's package.
const README: &str = "\
iface eth0 inet static
	address 10.0.0.2
	netmask 255.255.255.0
	ucarp-vid 3
	ucarp-vip 10.0.0.1
	ucarp-password 16charsatmost
	ucarp-advskew 0
	ucarp-advbase 1
	ucarp-master yes
iface eth0:ucarp inet static
	address 10.0.0.1
	netmask 255.255.255.255
";

/// The least that the hook starts ucarp for.
const LEAST: &str = "\
iface eth0 inet static
	address 10.0.0.2/24
	ucarp-vid 3
	ucarp-vip 10.0.0.1
	ucarp-password secret
";

/// Debian's own scripts.
fn debians() -> Service {
    Service::Scripts { up: DEFAULT_UP.to_vec(), down: DEFAULT_DOWN.to_vec(), xparam: None }
}

fn script(text: impl AsRef<[u8]>) -> String {
    translate("interfaces", text.as_ref()).unwrap_or_else(|error| panic!("{error:#}"))
}

fn refused(text: impl AsRef<[u8]>) -> String {
    match translate("interfaces", text.as_ref()) {
        Ok(script) => panic!("accepted:\n{script}"),
        Err(error) => format!("{error:#}"),
    }
}

fn read(text: &str) -> Interfaces {
    stanzas::read(text.as_bytes()).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

/// The only virtual host in a file.
fn host(text: &str) -> VirtualHost {
    let file = read(text);
    let Ok([host]) = virtual_hosts(&file).map(<[_; 1]>::try_from).expect("a good file") else {
        panic!("not one: {text}")
    };
    host
}

/// The least, and these lines in the same stanza.
fn with(lines: &str) -> VirtualHost {
    host(&format!("{LEAST}{lines}\n"))
}

fn command(script: &str) -> &str {
    script.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command")
}

#[test]
fn debians_example_becomes_a_passfile_and_a_unit_that_needs_no_scripts() {
    let script = script(README);
    assert_eq!(
        command(&script),
        "/usr/sbin/carpd --interface=eth0 --srcip=10.0.0.2 --vhid=3 --addr=10.0.0.1/32 \
         --passfile=/etc/carp/eth0-3.passphrase --advskew=0 --advbase=1 --preempt"
    );
    let parts = [
        "install -m 600 /dev/null /etc/carp/eth0-3.passphrase\nprintf '16charsatmost\\n' > /etc/carp/eth0-3.passphrase\n",
        "cat > /etc/systemd/system/carpd-eth0-3.service <<'END'\n[Unit]\nDescription=CARP: virtual IP 10.0.0.1\n",
        "Restart=always\n",
        "WantedBy=multi-user.target\nEND\n",
        "the stanza `iface eth0:ucarp` (lines 10 to 12)",
    ];
    for part in parts {
        assert!(script.contains(part), "{part:?} is not in:\n{script}");
    }
    assert!(!script.contains("vip-up") && !script.contains("Note:"), "{script}");
}

#[test]
fn what_is_left_out_is_the_hooks_default() {
    let least = with("");
    assert_eq!((least.advskew, least.advbase, least.deadratio), (None, None, None));
    assert!(!least.preempt && !least.nomcast);
    assert_eq!((least.source, least.vhid), (Some(Ipv4Addr::new(10, 0, 0, 2)), 3));
    assert_eq!(least.service, Service::Own { prefix: 32, alias: None });
    assert!(least.notes[0].contains("no stanza `iface eth0:ucarp`"), "{:?}", least.notes);
}

#[test]
fn every_setting_of_the_hook_arrives() {
    let all = with(
        "ucarp-advskew 254\nucarp-advbase 255\nucarp-deadratio 9\nucarp-master 1\nucarp-nomcast yes\n\
         ucarp-upscript /up\nucarp-downscript /down\nucarp-xparam x",
    );
    assert_eq!((all.advskew, all.advbase, all.deadratio), (Some(254), Some(255), Some(9)));
    assert!(all.preempt && all.nomcast);
    assert_eq!(all.service, Service::Scripts { up: b"/up".into(), down: b"/down".into(), xparam: Some(b"x".into()) });
}

#[test]
fn a_switch_is_off_for_what_begins_like_no_and_on_for_all_else() {
    for (value, is_on) in [
        ("no", false),
        ("nope", false),
        ("off", false),
        ("false", false),
        ("0", false),
        ("No", true),
        ("1", true),
        ("y", true),
    ] {
        let host = with(&format!("ucarp-master {value}\nucarp-nomcast {value}"));
        assert_eq!((host.preempt, host.nomcast), (is_on, is_on), "{value}");
    }
}

#[test]
fn the_alias_is_given_up_only_if_it_is_the_vip_and_nothing_else() {
    for (alias, service) in [
        ("address 10.0.0.1\n\tnetmask 255.255.255.0", Service::Own { prefix: 24, alias: Some(6..=8) }),
        ("address 10.0.0.1/24", Service::Own { prefix: 24, alias: Some(6..=7) }),
        ("address 10.0.0.1\n\tnetmask 16", Service::Own { prefix: 16, alias: Some(6..=8) }),
        ("address 10.0.0.1\n\tnetmask 255.0.255.0", debians()),
        ("address 10.0.0.1", debians()),
        ("address 10.0.0.7/24", debians()),
        ("address 10.0.0.1/24\n\tup ip route add default via 10.0.0.254", debians()),
    ] {
        let text = format!("{LEAST}iface eth0:ucarp inet static\n\t{alias}\n");
        assert_eq!(host(&text).service, service, "{alias}");
    }
    let twice = format!("{LEAST}{0}{0}", "iface eth0:ucarp inet static\n\taddress 10.0.0.1/32\n");
    assert_eq!(host(&twice).service, debians());
    let elsewhere = format!("source interfaces.d/*\n{LEAST}");
    assert_eq!(host(&elsewhere).service, debians());
    let script = script(elsewhere);
    for part in ["# Not followed: line 1, source interfaces.d/*", "install -m 755 /usr/share/ucarp/vip-up /etc/carp/\n"]
    {
        assert!(script.contains(part), "{part:?} is not in:\n{script}");
    }
    assert!(command(&script).ends_with("--upscript=/etc/carp/vip-up --downscript=/etc/carp/vip-down"), "{script}");
}

#[test]
fn every_mistake_is_refused_with_its_line() {
    for (line, mistake, says) in [
        (6, "ucarp-vid 4", "twice"),
        (6, "ucarp-advskew 255", "255 is not a number from 0 to 254"),
        (6, "ucarp-advbase 256", "0 to 255"),
        (6, "ucarp-advbase 010", "010"),
        (6, "ucarp-deadratio 0", "1 to 255"),
        (6, "ucarp-advskew", "no value"),
        (6, "ucarp-upscript up", "absolute"),
        (7, "iface\n\tucarp-vid", "ucarp-vid has no value"),
        (7, "auto eth1\nucarp-vid 4", "no iface stanza"),
        (6, "iface", "without the name"),
        (8, "iface eth1 inet manual\n\n\tucarp-vid 4", "no ucarp-vip"),
        (7, "# iface eth0 inet6 auto\niface eth0:1 inet manual\n\tucarp-vid 4", "eth0:1"),
        (
            7,
            "\niface eth0 inet static\naddress 10.0.0.3\nucarp-vid 3\nucarp-vip 10.0.0.1\nucarp-password pw",
            "already, at line 1",
        ),
        (8, "iface e inet static\nucarp-vid 4\nucarp-vip 10.0.0.1/24\nucarp-password pw", "10.0.0.1/24"),
        (
            10,
            "iface e inet static\nucarp-vid 4\nucarp-vip 10.0.0.1\nucarp-password pw\naddress 10.0.0.1",
            "own address",
        ),
        (9, "iface e inet static\nucarp-vid 4\nucarp-vip 10.0.0.1\nucarp-password 12345678901234567890", "20 bytes"),
    ] {
        let mistake = mistake.replace("iface\n", "iface eth1 inet static\n");
        let error = refused(format!("{LEAST}{mistake}\n"));
        assert!(error.starts_with(&format!("interfaces:{line}: ")) && error.contains(says), "{mistake:?}: {error}");
        assert!(!error.contains('\n') && !error.contains("12345678901234567890"), "{error}");
    }
    assert_eq!(refused("iface lo inet loopback\n"), "interfaces: no ucarp lines in it");
    assert!(refused("auto lo\nsource /etc/more\n").contains("line 2, source /etc/more"));
    assert!(refused(b"iface eth0 inet static\n\0").starts_with("interfaces:2: there is a NUL byte"));
}

#[test]
fn names_and_lines_are_read_as_ifupdown_reads_them() {
    let odd = "\
 # ucarp-vid 9 \\
  iface\teth0  inet static
UCARP_VID   3
  ucarp-vip \\
     10.0.0.1
ucarp-password a\\\\
address 10.0.0.2/24
ucarp-facility daemon";
    let host = host(odd);
    assert_eq!((host.vhid, &*host.passphrase, host.lines.clone()), (3, &b"a\\"[..], 2..=8));
    assert!(host.notes[0].contains("does not read ucarp-facility"), "{:?}", host.notes);
}

#[test]
fn of_a_value_that_the_hook_does_not_quote_the_first_word_counts_and_a_note_says_so() {
    let host = host(&LEAST.replace("secret", "open sesame"));
    assert_eq!(host.passphrase, b"open");
    assert!(
        host.notes.iter().any(|note| note.contains("line 5") && note.contains("ucarp-password")),
        "{:?}",
        host.notes
    );
}

#[test]
fn a_value_that_the_hooks_shell_may_have_expanded_is_kept_and_a_note_says_so() {
    let host = host(&LEAST.replace("secret", "a*c"));
    assert_eq!(host.passphrase, b"a*c");
    assert!(host.notes.iter().any(|note| note.contains("line 5") && note.contains("expand")), "{:?}", host.notes);
}

#[test]
fn two_virtual_hosts_on_one_interface_are_told() {
    let text = format!("{LEAST}{}", LEAST.replace("vid 3", "vid 4"));
    let script = script(&text);
    assert!(script.contains("carpd-eth0-3.service") && script.contains("carpd-eth0-4.service"), "{script}");
    assert!(script.contains("the second carpd takes a slower packet socket"), "{script}");
}

#[test]
fn arguments_are_quoted_for_systemd() {
    let odd = with("ucarp-upscript /a\"b\\c%d$e'f\nucarp-downscript /\u{e9}\nucarp-xparam ;");
    let script = print::script("interfaces", &read(""), &[odd]);
    let quoted = r#""--upscript=/a\"b\\c%%d$$e'f" "--downscript=/\xc3\xa9" "--xparam=;""#;
    assert!(command(&script).ends_with(quoted), "{script}");
}

/// What sh prints when it runs the script's printf.
fn printed(script: &str) -> Vec<u8> {
    let line = script.lines().find(|line| line.starts_with("printf ")).expect("a printf");
    let (printf, _) = line.rsplit_once(" > ").expect("a file");
    Command::new("sh").args(["-c", printf]).output().expect("there is a shell").stdout
}

#[test]
fn a_passphrase_survives_the_shell() {
    let every: Vec<u8> = (1..=255u8).filter(|byte| !byte.is_ascii_whitespace() && *byte != b'\\').collect();
    let hard: [&[u8]; 7] = [b"-n", b"%s%d%%", b"'\"`$(id)", b"\\0551\\c", b"a\x1b[31m1", b"!!#~*?[x]", b"\xff\xc3"];
    for passphrase in every.chunks(19).chain(hard) {
        let text = [LEAST.strip_suffix("secret\n").unwrap().as_bytes(), passphrase, b"\n"].concat();
        let script = script(&text);
        assert!(script.is_ascii() && !script.contains('\x1b'));
        assert_eq!(printed(&script), [passphrase, b"\n"].concat(), "{script}");
    }
}

/// Lines that mean something, with anything in them.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("iface eth0 inet static\n"),
        Just("iface eth0:ucarp inet static\n"),
        Just("address 10.0.0.1/"),
        Just("netmask "),
        Just("ucarp-vid "),
        Just("ucarp-vip 10.0.0.1"),
        Just("ucarp-password "),
        Just("ucarp-upscript /"),
        Just("ucarp-xparam "),
        Just("source "),
        Just("\\"),
        Just("\n"),
        Just("3"),
    ];
    let piece = prop_oneof![4 => word.prop_map(|word| word.as_bytes().to_vec()), 1 => any::<Vec<u8>>()];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic_and_what_it_says_is_printable(
        text in prop_oneof![any::<Vec<u8>>(), nearly_right()],
        name in any::<Vec<u8>>(),
    ) {
        let said = translate(&shown(&name), &text).unwrap_or_else(|error| format!("{error:#}"));
        prop_assert!(said.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{said}");
    }

    #[test]
    fn any_values_make_a_script_that_is_printable(
        passphrase in prop::collection::vec(33..=255u8, 1..=19),
        xparam in prop::collection::vec(33..=255u8, 1..40),
    ) {
        let text = [
            LEAST.strip_suffix("secret\n").unwrap().as_bytes(),
            &passphrase,
            b"x\nucarp-upscript /up\nucarp-xparam ",
            &xparam,
        ]
        .concat();
        if let Ok(said) = translate("interfaces", &text) {
            prop_assert!(said.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{said}");
            prop_assert!(said.contains("\nEND\n# By hand"));
        }
    }
}

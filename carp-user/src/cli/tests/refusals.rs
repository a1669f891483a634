//! What is refused, and whether the message says what would be accepted.

use super::*;

/// The required options, then these, which are wrong.
fn refused(words: &[&str]) -> String {
    refused_alone(&[&REQUIRED, words].concat())
}

fn refused_alone(words: &[&str]) -> String {
    let Err(error) = try_parse(words) else { panic!("accepted: {words:?}") };
    error
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_number_out_of_its_range_is_refused_with_the_range() {
    for (option, values, least, most) in [
        ("--vhid", vec!["0", "256", "-1", "1x", ""], "1", "255"),
        ("--advbase", vec!["256", "300", "-1", "1.5"], "0", "255"),
        ("--advskew", vec!["255", "256", "-5"], "0", "254"),
        ("--deadratio", vec!["0", "256"], "1", "255"),
        ("--script-timeout", vec!["0", "3601"], "1", "3600"),
    ] {
        for value in values {
            let error = refused(&[&format!("{option}={value}")]);
            assert_says(&error, &[option, value]);
            let is_number = value.parse::<i64>().is_ok();
            assert!(!is_number || error.contains(&format!("{least}..={most}")), "no range: {error}");
        }
    }
    for (option, edges) in [("-v", [1, 255]), ("-b", [0, 255]), ("-k", [0, 254]), ("-r", [1, 255])] {
        for edge in edges {
            with(&[&format!("{option}{edge}")]);
        }
    }
}

#[test]
fn a_passphrase_of_1_to_19_bytes_is_taken_and_no_other() {
    with(&["--pass=1"]);
    with(&["--pass=1234567890123456789"]);
    let long = "12345678901234567890";
    let error = refused(&["--pass", long]);
    assert_says(&error, &["--pass", "20 bytes", "1 to 19"]);
    assert!(!error.contains(long), "the passphrase is told: {error}");
    assert_says(&refused(&["--pass="]), &["--pass", "empty"]);
    assert_says(&refused(&["-p", ""]), &["--pass", "empty"]);
    assert_says(&refused_alone(&["--vhid=1", "--addr=10.0.0.100"]), &["--pass"]);
}

#[test]
fn a_passfile_that_gives_no_passphrase_is_named() {
    let refused = |file: &str| refused_alone(&["--vhid=1", "--addr=10.0.0.100", "--passfile", file]);
    assert_says(&refused("/nonexistent/secret"), &["/nonexistent/secret", "No such file"]);
    assert_says(&refused("/"), &["cannot read the secret in /", "directory"]);
    for empty in ["", "\n", "\nsecond line"] {
        let file = TempFile::new("empty", empty);
        assert_says(&refused(file.text()), &[file.text(), "empty"]);
    }
    let file = TempFile::new("long", "12345678901234567890\n");
    let error = refused(file.text());
    assert_says(&error, &[file.text(), "20 bytes", "1 to 19"]);
    assert!(!error.contains("1234567890"), "the passphrase is told: {error}");
    let file = TempFile::new("nul", b"ab\0cd\n");
    assert_says(&refused(file.text()), &[file.text(), "NUL"]);
    // It never ends, and has no line feed: it is not swallowed whole.
    assert_says(&refused("/dev/zero"), &["/dev/zero", "NUL"]);
}

#[test]
fn an_address_that_cannot_be_a_vip_is_refused() {
    for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.18", "240.0.0.1", "255.255.255.255"] {
        assert_says(&refused(&["-a", address]), &["--addr", address]);
    }
    for address in ["::", "::1", "ff02::12", "::ffff:10.0.0.1"] {
        assert_says(&refused(&["-a", address]), &["--addr", address]);
    }
    assert_says(&refused(&["--addr=fd00::1/129"]), &["--addr", "fd00::1/129", "0 to 128"]);
    for prefix in ["33", "-1", "", "x", "255.255.255.0"] {
        let address = format!("10.0.0.9/{prefix}");
        assert_says(&refused(&["-a", &address]), &["--addr", &address, "0 to 32"]);
    }
    for nonsense in ["", "vip", "10.0.0", "10.0.0.256", "10.0.0.1 ", "/24"] {
        assert_says(&refused(&["-a", nonsense]), &["--addr", nonsense]);
    }
    let without = ["--vhid=1", "--pass=secret"];
    assert_says(&refused_alone(&without), &["--addr"]);
    assert_says(&refused_alone(&["--pass=secret", "--addr=10.0.0.100"]), &["--vhid"]);
}

#[test]
fn a_link_local_vip_is_searched_for_on_no_interface() {
    let link_local = ["--vhid=1", "--pass=secret", "--addr=fe80::1", "--addr=10.0.0.100"];
    assert_says(&refused_alone(&link_local), &["--addr", "fe80::1", "link-local", "--interface"]);
    for named in ["--interface=eth0", "--srcip=10.0.0.1", "--addr=10.0.0.101"] {
        // A VIP before it says where they all are.
        try_parse(&[&[named], &link_local[..]].concat()).unwrap_or_else(|error| panic!("{named}: {error}"));
    }
}

#[test]
fn a_source_that_is_a_vip_or_no_hosts_address_is_refused() {
    assert_says(&refused(&["--srcip=10.0.0.100"]), &["--addr", "--srcip", "10.0.0.100"]);
    assert_says(&refused(&["--addr=10.0.0.1/24", "-s10.0.0.1"]), &["--srcip", "10.0.0.1"]);
    for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        assert_says(&refused(&["-s", address]), &["--srcip", address]);
    }
    assert_says(&refused(&["-s", "ff02::1"]), &["--srcip", "ff02::1"]);
    assert_says(&refused(&["--peer", "ff02::1"]), &["--peer", "ff02::1"]);
    assert_says(&refused(&["--peer=10.0.0.100"]), &["--peer", "10.0.0.100"]);
    assert_says(&refused(&["--peer=10.0.0.2", "--peer=fd00::2"]), &["--peer", "fd00::2", "no --addr is of its family"]);
    with(&["--peer=10.0.0.2", "--peer=fd00::2", "--addr=fd00::100"]);
    assert_says(&refused(&["--min-ttl=0"]), &["--min-ttl", "0"]);
    assert_says(&refused(&["-m", "10.0.0.1"]), &["--mcast", "10.0.0.1", "multicast"]);
}

#[test]
fn a_name_that_no_interface_can_have_is_refused() {
    for name in ["", "sixteen-letters-", "a/b", "a b", "eth0:1", ".", ".."] {
        assert_says(&refused(&["-i", name]), &["--interface"]);
    }
    with(&["--interface=fifteen-letters"]);
}

#[test]
fn a_script_that_cannot_be_run_is_named() {
    let file = TempFile::new("script", "#!/bin/sh\n");
    for option in ["--upscript", "--downscript"] {
        assert_says(&refused(&[option, "/nonexistent/vip-up"]), &["/nonexistent/vip-up", "No such file"]);
        assert_says(&refused(&[option, "/"]), &["cannot use the script /", "executable"]);
        assert_says(&refused(&[option, file.text()]), &[file.text(), "executable"]);
    }
}

#[test]
fn what_is_no_option_is_refused_by_name() {
    for (word, told) in
        [("--nonsense", "--nonsense"), ("-Q", "-Q"), ("stray", "stray"), ("--preempt=yes", "yes"), ("--pre=1", "1")]
    {
        assert_says(&refused(&[word]), &[told]);
    }
    assert_says(&refused(&["--facility=local8"]), &["--facility", "local8", "local7"]);
    for option in ["--interface", "-s", "--vhid", "-x"] {
        assert_says(&refused(&[option]), &["value is required", option]);
    }
}

#[test]
fn a_virtual_mac_goes_neither_with_scripts_nor_with_adverts_from_another() {
    with(&["--mac=virtual"]);
    for script in ["--upscript=/bin/true", "--downscript=/bin/true"] {
        assert_says(&refused(&["--mac=virtual", script]), &["--mac virtual", "the scripts own the addresses"]);
    }
    assert_says(&refused(&["--mac=virtual", "--advert-mac=interface"]), &["--advert-mac interface", "--mac virtual"]);
}

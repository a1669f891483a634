//! Bad input: one clear line, a code that is not 0, and nothing half done.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use carp_tests::netns::output_of;
use carp_tests::{LONG, Lab, carpd_path};

use crate::{GOOD, assert_says, assert_untouched, refusal};

#[test]
fn bad_input_is_refused_with_one_line_and_nothing_is_half_done() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let empty = env::temp_dir().join(format!("carpd-empty-{}", std::process::id()));
    fs::write(&empty, "\n").context("writing a passfile")?;
    let empty = empty.to_str().context("a path that is no text")?;

    let wrong: [(&[&str], &[&str]); 30] = [
        (&["--nonsense"], &["--nonsense"]),
        (&["-Q"], &["-Q"]),
        (&["stray"], &["stray"]),
        (&["--vhid=0"], &["--vhid", "1..=255"]),
        (&["--vhid", "256"], &["--vhid", "1..=255"]),
        (&["-b256"], &["--advbase", "0..=255"]),
        (&["--advbase=300"], &["--advbase", "0..=255"]),
        (&["-k255"], &["--advskew", "0..=254"]),
        (&["--advskew=256"], &["--advskew", "0..=254"]),
        (&["-r0"], &["--deadratio", "1..=255"]),
        (&["--pass=12345678901234567890"], &["--pass", "20 bytes", "1 to 19"]),
        (&["--pass="], &["--pass", "empty"]),
        (&["--srcip=10.77.0.100"], &["--addr", "--srcip", "10.77.0.100"]),
        (&["--srcip=0.0.0.0"], &["--srcip", "0.0.0.0"]),
        (&["--addr=0.0.0.0"], &["--addr", "0.0.0.0"]),
        (&["--addr=224.0.0.1"], &["--addr", "224.0.0.1"]),
        (&["--addr=fd77::100/129"], &["--addr", "0 to 128"]),
        (&["--addr=10.77.0.100/33"], &["--addr", "0 to 32"]),
        (&["--mcast=10.77.0.1"], &["--mcast", "10.77.0.1"]),
        (&["--interface=a/b"], &["--interface", "a/b"]),
        (&["--upscript=/nonexistent"], &["/nonexistent", "No such file"]),
        (&["--downscript=/"], &["cannot use the script /", "executable"]),
        (&["--upscript", empty], &[empty, "executable"]),
        (&["--facility=local8"], &["--facility", "local8"]),
        (&["--script-timeout=0"], &["--script-timeout", "1..=3600"]),
        (&["--advert-mac=mine"], &["--advert-mac", "mine", "virtual, interface"]),
        (&["--garp-repeat=256"], &["--garp-repeat", "0..=255"]),
        (&["--garp-refresh=-1"], &["--garp-refresh", "-1"]),
        (&["--xparam"], &["--xparam"]),
        (&["-B", "--vhid=0"], &["--vhid", "1..=255"]),
    ];
    for (words, parts) in wrong {
        let line = refusal(host.carpd(&[&GOOD, words].concat())?).with_context(|| format!("{words:?}"))?;
        assert_says(&line, parts);
        assert!(!line.contains("12345678901234567890"), "the passphrase is told: {line}");
    }
    for (passfile, parts) in
        [("/nonexistent", "No such file"), ("/", "directory"), (empty, "empty"), ("/dev/null", "empty")]
    {
        let words = [GOOD[0], GOOD[1], GOOD[3], "--passfile", passfile];
        assert_says(&refusal(host.carpd(&words)?)?, &[passfile, parts]);
    }
    for (missing, option) in [(1, "--vhid"), (2, "--pass"), (3, "--addr")] {
        let words: Vec<_> =
            GOOD.into_iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, word)| word).collect();
        assert_says(&refusal(host.carpd(&words)?)?, &[option]);
    }
    fs::remove_file(empty).context("removing a passfile")?;
    assert_untouched(&host)?;

    let mut agent = host.carpd(&GOOD)?;
    agent.wait_for_line("INIT -> BACKUP", LONG)?;
    assert!(agent.stop_and_wait(LONG)?.success());
    assert_untouched(&host)
}

#[test]
fn help_and_version_are_no_errors() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    for (word, told) in [("--help", "--script-timeout"), ("-h", "--script-timeout"), ("--version", "carpd ")] {
        let mut agent = host.carpd(&[word])?;
        assert!(agent.wait(LONG)?.success(), "{word}");
        assert!(agent.lines().iter().any(|line| line.text.contains(told)), "{word}");
    }
    assert_untouched(&host)
}

#[test]
fn the_version_tells_the_commit_and_which_xdp_program_it_carries() -> Result<()> {
    let carpd = carpd_path()?;
    let told = output_of(Command::new(&carpd).arg("--version"))?;
    let lines: Vec<&str> = told.lines().collect();
    let [name, revision, program] = lines[..] else { bail!("not three lines: {told}") };
    assert_eq!(name, concat!("carpd ", env!("CARGO_PKG_VERSION")));
    let repository = concat!("--git-dir=", env!("CARGO_MANIFEST_DIR"), "/../.git");
    let head = output_of(Command::new("git").args([repository, "rev-parse", "--short=12", "HEAD"]));
    let head = head.unwrap_or_else(|_| "unknown".to_owned());
    assert_eq!(revision, format!("git revision {}", head.trim_end()));
    let words: Vec<&str> = program.split(' ').collect();
    let ["XDP", "program", id, "made", "by", "rustc", _, "and", "bpf-linker", _] = words[..] else {
        bail!("{program}")
    };
    assert!(id.len() == 13 && id.trim_end_matches(',').chars().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let other = output_of(Command::new(carpd.with_file_name("carpctl")).arg("--version"))?;
    assert_eq!(other, told.replacen("carpd", "carpctl", 1));
    Ok(())
}

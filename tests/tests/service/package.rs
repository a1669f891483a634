//! What the package brings, looked at by Debian's own tools.

use anyhow::Result;
use carp_tests::{Lab, is_missing};

use crate::BOOT;
use crate::machine::Machine;

/// The most that `systemd-analyze security` may find, times ten; the unit says what is left and why.
const EXPOSURE: &str = "--threshold=20";

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_little_exposed() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let machine = Machine::with_package(&host)?;
    assert_eq!(machine.run("systemd-analyze verify carpd.service")?, "");
    let example = "/usr/share/doc/carpd/examples/one-virtual-host.service";
    assert_eq!(machine.run(&format!("systemd-analyze verify {example}"))?, "");
    machine.run(&format!("systemd-analyze security --offline=yes {EXPOSURE} carpd.service")).map(drop)
}

#[test]
fn manual_pages_and_completions_are_there_and_right() -> Result<()> {
    if is_missing(BOOT)? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let machine = Machine::with_package(&host)?;
    for program in ["carpd", "carpctl"] {
        // The warnings are what is left of the output.
        let lint = "man --warnings --local-file --troff-device=utf8 --ditroff";
        assert_eq!(machine.run(&format!("LC_ALL=C.UTF-8 {lint} $(man --path {program}) >/dev/null"))?, "");
        let page = machine.run(&format!("LC_ALL=C.UTF-8 man {program}"))?;
        for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"] {
            assert!(page.lines().any(|line| line == section), "{program}: {section}: {page}");
        }
        let completions = format!("/usr/share/bash-completion/completions/{program}");
        let known = machine.run(&format!("bash -c '. {completions} && complete -p {program}'"))?;
        assert!(known.contains(&format!("-F _{program}")), "{known}");
    }
    Ok(())
}

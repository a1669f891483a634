//! The capabilities that carpd needs, checked at the start.

use anyhow::{Result, ensure};
use caps::{CapSet, Capability};

/// What is needed whatever adverts come through, and for what.
const NEEDED: [(Capability, &str); 2] = [
    (Capability::CAP_NET_RAW, "to send adverts and gratuitous ARP"),
    (Capability::CAP_NET_ADMIN, "to attach the XDP program and to manage addresses"),
];
/// What XDP needs besides.
const FOR_XDP: [(Capability, &str); 2] = [
    (Capability::CAP_BPF, "to load the XDP program"),
    (Capability::CAP_PERFMON, "so that the verifier lets it compute where a header lies"),
];

/// Refuses to go on if a capability is missing, naming each; those for XDP too if there is no way without it.
pub(crate) fn check(must_have_xdp: bool) -> Result<()> {
    let for_xdp: &[_] = if must_have_xdp { &FOR_XDP } else { &[] };
    let missing = missing([&NEEDED, for_xdp].concat().as_slice());
    ensure!(
        missing.is_empty(),
        "missing privileges: {missing}: run carpd as root, or grant them with AmbientCapabilities= (and RuntimeDirectory=carp) in its systemd unit"
    );
    Ok(())
}

/// What XDP lacks, if anything.
pub(crate) fn missing_for_xdp() -> Option<String> {
    let missing = missing(&FOR_XDP);
    (!missing.is_empty()).then(|| format!("missing privileges: {missing}"))
}

fn missing(needed: &[(Capability, &str)]) -> String {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let is_of_bpf = |capability| matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
    let covered = |capability| has(capability) || (is_of_bpf(capability) && has(Capability::CAP_SYS_ADMIN));
    let missing = needed.iter().filter(|(capability, _)| !covered(*capability));
    missing.map(|(capability, purpose)| format!("{capability} ({purpose})")).collect::<Vec<_>>().join(", ")
}

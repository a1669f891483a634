//! The capabilities that carpd needs, checked at the start.

use anyhow::{Result, ensure};
use caps::{CapSet, Capability};

/// What is needed, and for what.
const NEEDED: [(Capability, &str); 4] = [
    (Capability::CAP_NET_RAW, "to send adverts and gratuitous ARP"),
    (Capability::CAP_NET_ADMIN, "to attach the XDP program and to manage addresses"),
    (Capability::CAP_BPF, "to load the XDP program"),
    (Capability::CAP_PERFMON, "so that the verifier lets it compute where a header lies"),
];

/// Refuses to go on if a capability is missing, naming each.
pub(crate) fn check() -> Result<()> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let is_of_bpf = |capability| matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
    let covered = |capability| has(capability) || (is_of_bpf(capability) && has(Capability::CAP_SYS_ADMIN));
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, _)| !covered(*capability))
        .map(|(capability, purpose)| format!("{capability} ({purpose})"))
        .collect();
    ensure!(
        missing.is_empty(),
        "missing privileges: {}: run carpd as root, or grant them with AmbientCapabilities= (and RuntimeDirectory=carp) in its systemd unit",
        missing.join(", ")
    );
    Ok(())
}

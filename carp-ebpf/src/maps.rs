//! The maps, each described in `carp_common::abi`, and the only places that dereference their values.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use carp_common::{
    abi::{
        AddressKey, AdvertEvent, COUNTER_ROWS, COUNTERS, Deadline, ENDING_WORDS, Held, LastHeard, MAX_KEYS, MAX_PEERS,
        MAX_SOURCES, MAX_VIPS, RING_BYTES, Refused, Sent, SourceKey, Vhost, VhostKey, counter_index, ending_bit,
    },
    digest::Blocks,
    fence::Leases,
    reason::Reason,
    verdict::Tables,
};

#[btf_map]
static CARP_VHOSTS: HashMap<VhostKey, Vhost, { MAX_KEYS as usize }> = HashMap::new();

#[btf_map]
static CARP_SENT: HashMap<VhostKey, Sent, { MAX_KEYS as usize }> = HashMap::new();

#[btf_map]
static CARP_PEERS: HashMap<SourceKey, u8, { MAX_PEERS as usize }> = HashMap::new();

#[btf_map]
static CARP_HEARD: LruHashMap<SourceKey, LastHeard, { MAX_SOURCES as usize }> = LruHashMap::new();

#[btf_map]
static CARP_COUNTERS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();

#[btf_map]
static CARP_REFUSED: Array<Refused, { COUNTERS as usize }> = Array::new();

#[btf_map]
static CARP_EVENTS: RingBuf<AdvertEvent, { RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
static CARP_HELD: HashMap<AddressKey, Held, { MAX_VIPS as usize }> = HashMap::new();

#[btf_map]
static CARP_ENDINGS: Array<u64, { ENDING_WORDS as usize }> = Array::new();

#[btf_map]
static CARP_LEASES: Array<u64, { COUNTER_ROWS as usize }> = Array::new();

/// Working space for a digest: the stack is too small. (A struct, because the loader takes no map whose
/// value is an array of arrays.)
#[repr(C)]
struct Scratch {
    blocks: Blocks,
}

#[btf_map]
static CARP_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's working space. To be asked for once a frame.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Blocks> {
    let scratch = CARP_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: XDP runs to its end on one CPU, so this CPU's slot has no other user; the slot lives as long as the program.
    Some(unsafe { &mut (*scratch).blocks })
}

/// The maps as the verdict asks for them.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn vhost(&self, key: &VhostKey) -> Option<&Vhost> {
        // SAFETY: this program never changes CARP_VHOSTS, so the slot stays; if the agent replaces or
        // removes the entry meanwhile, an advert is judged by a mix of two valid keys and refused.
        unsafe { CARP_VHOSTS.get(key) }
    }

    #[inline(always)]
    fn is_peer(&self, source: &SourceKey) -> bool {
        // SAFETY: nothing is read of the value.
        unsafe { CARP_PEERS.get(source) }.is_some()
    }

    #[inline(always)]
    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        // SAFETY: this program never changes CARP_SENT; a torn read while the agent writes can at worst
        // let an echo through, which the engine survives.
        unsafe { CARP_SENT.get(key) }
    }
}

impl Leases for Maps {
    #[inline(always)]
    fn may_hold(&self, ending: [u8; 2]) -> bool {
        let (word, bit) = ending_bit(ending);
        CARP_ENDINGS.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn held(&self, key: &AddressKey) -> Option<&Held> {
        // SAFETY: no program changes CARP_HELD; if the agent removes the entry meanwhile, the slot may say already whose
        // another VIP is, which one frame is then judged by.
        unsafe { CARP_HELD.get(key) }
    }

    #[inline(always)]
    fn deadline(&self, row: u32) -> Deadline {
        // A single load of eight bytes, as the agent's write is a single store.
        CARP_LEASES.get(row).map_or(Deadline::NONE, |word| Deadline::from_word(*word))
    }
}

/// Counts a frame under `reason` in a virtual host's row.
#[inline(always)]
pub(crate) fn count(row: u32, reason: Reason) {
    let Some(counter) = CARP_COUNTERS.get_ptr_mut(counter_index(row, reason)) else { return };
    // SAFETY: this CPU's slot, and both programs run to their end on it: what is about to leave is not interrupted by what
    // arrives, for softirqs are off.
    unsafe { *counter += 1 };
}

/// Counts a frame that was not taken, and keeps its source.
#[inline(always)]
pub(crate) fn refuse(row: u32, reason: Reason, source: &Refused) {
    count(row, reason);
    let Some(last) = CARP_REFUSED.get_ptr_mut(counter_index(row, reason)) else { return };
    // SAFETY: the slot of an array lives as long as the program; a race with another CPU mixes two sources,
    // as documented at `Refused`.
    unsafe { *last = *source };
}

/// The last advert of this source, copied.
#[inline(always)]
pub(crate) fn last_heard(source: &SourceKey) -> Option<LastHeard> {
    // SAFETY: copied at once, before anything can replace the entry.
    unsafe { CARP_HEARD.get(source) }.copied()
}

/// Remembers the last advert of this source.
#[inline(always)]
pub(crate) fn remember(source: &SourceKey, last: &LastHeard) {
    // It can only fail under memory pressure on the element lists; then the event still goes out.
    let _ = CARP_HEARD.insert(source, last, 0);
}

/// Puts the event on the ring; `false` if the ring is full.
#[inline(always)]
pub(crate) fn send(event: &AdvertEvent) -> bool {
    let Some(mut entry) = CARP_EVENTS.reserve(0) else { return false };
    entry.write(*event);
    entry.submit(0);
    true
}

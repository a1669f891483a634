//! The maps, each described in `carp_common::abi`, and the only places that dereference their values.
//!
//! Maps of what is set up with virtual hosts, or of which there is seldom much, take memory for what is there
//! (`BPF_F_NO_PREALLOC`). Those that a host needs to send adverts and to hold VIPs have theirs from the start, so that it goes on
//! when there is no more.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use carp_common::{
    abi::{
        AddressKey, AdvertEvent, COUNTER_ROWS, COUNTERS, Deadline, ENDING_WORDS, Held, LastHeard, MAX_KEYS, MAX_PEERS,
        MAX_SEALS, MAX_SEQUENCES, MAX_SOURCES, MAX_VIPS, Policy, RING_BYTES, Refused, Said, SealId, Sent, SourceKey,
        Vhost, VhostKey, counter_index, ending_bit,
    },
    digest::Scratch,
    fence::Leases,
    reason::Reason,
    seal::{Apart, Budget, Clocks, SealKey, Sequence},
    verdict::{Seals, Tables, goes_on, objection},
};

use crate::now;

#[btf_map]
static CARP_VHOSTS: HashMap<VhostKey, Vhost, { MAX_KEYS as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map]
static CARP_SENT: HashMap<VhostKey, Sent, { MAX_KEYS as usize }> = HashMap::new();

#[btf_map]
static CARP_PEERS: HashMap<SourceKey, Policy, { MAX_PEERS as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

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

#[btf_map]
static CARP_SEALS: HashMap<SealId, SealKey, { MAX_SEALS as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Not one that forgets the longest unheard when it is full: whoever is forgotten can be replayed.
#[btf_map]
static CARP_SEQUENCES: HashMap<SourceKey, Sequence, { MAX_SEQUENCES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static CARP_APART: HashMap<SourceKey, Apart, { MAX_SEQUENCES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static CARP_NEWEST: Array<u64, { COUNTER_ROWS as usize }> = Array::new();

#[btf_map]
static CARP_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

#[btf_map]
static CARP_WALL: Array<u64, 1> = Array::new();

#[btf_map]
static CARP_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's working space. To be asked for once a frame.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = CARP_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: XDP runs to its end on one CPU, so this CPU's slot has no other user; the slot lives as long as the program.
    Some(unsafe { &mut *scratch })
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
    fn peer(&self, source: &SourceKey) -> Option<&Policy> {
        // SAFETY: as CARP_VHOSTS: an advert that is judged while the agent changes the entry is judged by the one or the other.
        unsafe { CARP_PEERS.get(source) }
    }

    #[inline(always)]
    fn sent(&self, key: &VhostKey) -> Option<&Sent> {
        // SAFETY: this program never changes CARP_SENT; a torn read while the agent writes can at worst
        // let an echo through, which the engine survives.
        unsafe { CARP_SENT.get(key) }
    }

    #[inline(always)]
    fn objection(&self, source: &SourceKey, counter: u64, said: Said, has_peers: bool) -> Option<Reason> {
        object(source, counter, said, has_peers)
    }
}

/// A function of its own, for what it needs of the stack.
#[inline(never)]
fn object(source: &SourceKey, counter: u64, said: Said, has_peers: bool) -> Option<Reason> {
    objection(source, counter, said, has_peers, &Maps)
}

impl Seals for Maps {
    #[inline(always)]
    fn seal_key(&self, id: &SealId) -> Option<&SealKey> {
        // SAFETY: as CARP_VHOSTS: by a mix of two keys, an advert is refused.
        unsafe { CARP_SEALS.get(id) }
    }

    #[inline(always)]
    fn sequence(&self, source: &SourceKey) -> Option<Sequence> {
        // SAFETY: copied at once; if another CPU is changing it, `advance` sees that.
        unsafe { CARP_SEQUENCES.get(source) }.copied()
    }

    #[inline(always)]
    fn advance(&self, source: &SourceKey, next: Sequence) -> bool {
        let Some(slot) = CARP_SEQUENCES.get_ptr_mut(source) else {
            return CARP_SEQUENCES.insert(source, next, u64::from(BPF_NOEXIST)).is_ok();
        };
        // SAFETY: the slot is memory of a map; a single load of eight bytes.
        let mut last = unsafe { (*slot).last };
        // Once more if another advert of the same source, on another CPU, came between and was an earlier one.
        for _ in 0..2 {
            if last >= next.last {
                return false;
            }
            let mut was = last;
            // SAFETY: the slot begins with `last`, aligned to its eight bytes. (`core` has no exchange for this target.)
            unsafe {
                asm!(
                    "r0 = cmpxchg_64({slot} + 0, r0, {next})",
                    slot = in(reg) slot,
                    next = in(reg) next.last,
                    inout("r0") was,
                    options(nostack)
                );
            }
            if was == last {
                // SAFETY: single stores of eight bytes. Another CPU that comes between takes the new sequence to have
                // arrived when the one before did: after a silence it may find its own advert stale, and the next is good.
                unsafe {
                    (*slot).arrival = next.arrival;
                    (*slot).counter = next.counter;
                }
                return true;
            }
            last = was;
        }
        false
    }

    #[inline(always)]
    fn note_apart(&self, source: &SourceKey, apart: Apart) {
        // It can fail for want of memory; the next advert tries again.
        let _ = CARP_APART.insert(source, apart, 0);
    }

    #[inline(always)]
    fn clocks(&self) -> Clocks {
        let boot = now();
        let ahead = CARP_WALL.get(0).copied().unwrap_or(0);
        Clocks { boot, wall: boot.wrapping_add(ahead) }
    }

    #[inline(always)]
    fn may_look(&self, row: u32, counter: u64) -> bool {
        may_look(row, counter)
    }

    #[inline(always)]
    fn note_counter(&self, row: u32, counter: u64) {
        let Some(newest) = CARP_NEWEST.get_ptr_mut(row) else { return };
        // SAFETY: the slot of an array lives as long as the program; single loads and stores of eight bytes. Of two CPUs' at once
        // the smaller one may stay: then some more are looked at.
        unsafe { *newest = (*newest).max(counter) };
    }

    #[inline(always)]
    fn goes_on(&self, source: &SourceKey, row: u32, counter: u64, sequence: u64, window: u64) -> Option<Reason> {
        sequence_goes_on(source, row, counter, sequence, window)
    }
}

/// As [`object`].
#[inline(never)]
fn sequence_goes_on(source: &SourceKey, row: u32, counter: u64, sequence: u64, window: u64) -> Option<Reason> {
    goes_on(source, row, counter, sequence, window, &Maps)
}

/// As [`object`].
#[inline(never)]
fn may_look(row: u32, counter: u64) -> bool {
    if CARP_NEWEST.get(row).is_none_or(|newest| counter > *newest) {
        return true;
    }
    let Some(budget) = CARP_BUDGET.get_ptr_mut(0) else { return true };
    // SAFETY: XDP runs to its end on one CPU, so this CPU's slot has no other user; it lives as long as the program.
    unsafe { (*budget).take(now()) }
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

/// The last advert of this source.
#[inline(always)]
pub(crate) fn last_heard(source: &SourceKey) -> Option<&'static LastHeard> {
    // SAFETY: the slot is memory of a map for as long as the program runs. If another CPU hears the same source meanwhile, or
    // another source gets the slot, what is read is of two adverts: of which one is remembered in any case.
    unsafe { CARP_HEARD.get(source) }
}

/// Remembers the last advert of this source.
#[inline(always)]
pub(crate) fn remember(source: &SourceKey, last: &LastHeard) {
    // It can only fail under memory pressure on the element lists; then the event still goes out.
    let _ = CARP_HEARD.insert(source, last, 0);
}

/// Puts an event on the ring; `false` if the ring is full. (Made there: there is too little stack.)
#[inline(always)]
pub(crate) fn send(event: impl FnOnce() -> AdvertEvent) -> bool {
    let Some(mut entry) = CARP_EVENTS.reserve(0) else { return false };
    entry.write(event());
    entry.submit(0);
    true
}

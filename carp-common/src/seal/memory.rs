//! What the kernel program has in maps of seals, in user space.

use alloc::{collections::BTreeMap, vec::Vec};
use core::cell::RefCell;

use zeroize::Zeroize;

use super::{Apart, Budget, Clocks, SealKey, Sequence};
use crate::{
    abi::{MAX_SEQUENCES, SealId, SourceKey, VhostKey},
    verdict::Seals,
};

/// Keys, the last good sequences of all sources, those whose clocks are apart, the largest counters, and what time it is.
#[derive(Default)]
pub struct SealMemory {
    /// When the frame arrived that is judged.
    pub clocks: Clocks,
    keys: BTreeMap<SealId, SealKey>,
    last: RefCell<BTreeMap<SourceKey, Sequence>>,
    apart: RefCell<BTreeMap<SourceKey, Apart>>,
    newest: RefCell<BTreeMap<u32, u64>>,
    budget: RefCell<Budget>,
}

impl SealMemory {
    /// Has adverts of a virtual host be sealed with this key, too.
    pub fn add_key(&mut self, id: SealId, key: SealKey) {
        self.keys.insert(id, key);
    }

    /// Forgets the keys of a virtual host.
    pub fn remove_keys(&mut self, vhost: VhostKey) {
        self.keys.retain(|id, key| {
            let stays = id.vhost() != vhost;
            if !stays {
                key.zeroize();
            }
            stays
        });
    }

    /// Forgets the counters of a row.
    pub fn forget_counters(&mut self, row: u32) {
        self.newest.get_mut().remove(&row);
    }

    /// The sources whose clocks were apart, since this was asked last.
    pub fn take_apart(&mut self) -> Vec<(SourceKey, Apart)> {
        core::mem::take(self.apart.get_mut()).into_iter().collect()
    }

    /// Forgets the sources of these virtual hosts.
    pub fn forget(&mut self, is_one: impl Fn(&VhostKey) -> bool) {
        self.last.get_mut().retain(|source, _| !is_one(&source.vhost()));
        self.apart.get_mut().retain(|source, _| !is_one(&source.vhost()));
    }
}

impl Seals for SealMemory {
    fn seal_key(&self, id: &SealId) -> Option<&SealKey> {
        self.keys.get(id)
    }

    fn sequence(&self, source: &SourceKey) -> Option<Sequence> {
        self.last.borrow().get(source).copied()
    }

    fn advance(&self, source: &SourceKey, next: Sequence) -> bool {
        let mut known = self.last.borrow_mut();
        let is_newer = match known.get(source) {
            Some(last) => last.last < next.last,
            None => known.len() < MAX_SEQUENCES as usize,
        };
        if is_newer {
            known.insert(*source, next);
        }
        is_newer
    }

    fn note_apart(&self, source: &SourceKey, apart: Apart) {
        let mut known = self.apart.borrow_mut();
        if known.len() < MAX_SEQUENCES as usize || known.contains_key(source) {
            known.insert(*source, apart);
        }
    }

    fn may_look(&self, row: u32, counter: u64) -> bool {
        let newest = self.newest.borrow().get(&row).copied().unwrap_or(0);
        counter > newest || self.budget.borrow_mut().take(self.clocks.boot)
    }

    fn note_counter(&self, row: u32, counter: u64) {
        let mut newest = self.newest.borrow_mut();
        let known = newest.entry(row).or_default();
        *known = (*known).max(counter);
    }

    fn clocks(&self) -> Clocks {
        self.clocks
    }
}

impl Drop for SealMemory {
    fn drop(&mut self) {
        self.keys.values_mut().for_each(Zeroize::zeroize);
    }
}

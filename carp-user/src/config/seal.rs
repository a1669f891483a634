//! Sealed adverts, and what peers without a seal may say.

use std::{net::IpAddr, time::Duration};

use carp_common::{
    abi::{Policy, SealCheck},
    seal::{MAX_KEY, MIN_KEY, SealKey, Secret},
};
use serde::Deserialize;

/// What is done about seals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Nothing.
    #[default]
    Off,
    /// Own adverts are sealed.
    Send,
    /// And it is told what is wrong with those of others, which are taken all the same.
    Permissive,
    /// And those of others have to be.
    Enforce,
}

impl Mode {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Send => "send",
            Self::Permissive => "permissive",
            Self::Enforce => "enforce",
        }
    }

    /// What the datapath does with the adverts of others.
    pub(crate) const fn check(self) -> SealCheck {
        match self {
            Self::Off | Self::Send => SealCheck::Off,
            Self::Permissive => SealCheck::Permissive,
            Self::Enforce => SealCheck::Enforce,
        }
    }
}

/// By what it is told that a sealed advert is not an old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Freshness {
    /// At the first contact by the wall clock, and then by the time that has passed.
    #[default]
    Clock,
    /// Only by the sequence's rising, for servers without synchronised clocks.
    Rising,
}

/// A key that adverts are sealed with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its id, 1 to 255.
    pub(crate) id: u8,
    /// The key.
    pub(crate) secret: Secret,
}

/// See the file's keys of the same names.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    /// What is done.
    pub(crate) mode: Mode,
    /// The keys of which any may be used; [`MAX_SEAL_KEYS`](carp_common::abi::MAX_SEAL_KEYS) at most, with different ids.
    pub(crate) keys: Vec<Key>,
    /// The id of the key that own adverts are sealed with; the first unless given.
    pub(crate) seal_with: Option<u8>,
    /// How old adverts are told.
    pub(crate) freshness: Freshness,
    /// By how much sequence and clock may be apart, unless it is the default.
    pub(crate) window: Option<Duration>,
}

/// The shortest window unless one is given.
const WINDOW: Duration = Duration::from_secs(5);

impl Seal {
    /// The key that own adverts are sealed with, if they are.
    pub(crate) fn sending(&self) -> Option<&Key> {
        match self.seal_with {
            Some(id) => self.key(id),
            None => self.keys.first().filter(|_| self.mode != Mode::Off),
        }
    }

    /// The key with this id, if own adverts can be sealed with it.
    pub(crate) fn key(&self, id: u8) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id).filter(|_| self.mode != Mode::Off)
    }

    /// By how much a sequence and the time may be apart where adverts come every `interval`, in nanoseconds; 0: by anything.
    pub(crate) fn window(&self, interval: Duration) -> u64 {
        let window = self.window.unwrap_or_else(|| WINDOW.max(interval * 3));
        match self.freshness {
            Freshness::Clock => u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
            Freshness::Rising => 0,
        }
    }

    /// What the datapath is to know of the keys; to be wiped.
    pub(crate) fn prepared(&self) -> Vec<(u8, SealKey)> {
        let keys = self.keys.iter().filter(|_| self.mode.check() != SealCheck::Off);
        keys.map(|key| (key.id, SealKey::new(&key.secret))).collect()
    }
}

/// What one server may say in adverts without a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerPolicy {
    /// Its source address.
    pub(crate) source: IpAddr,
    /// What it may say.
    pub(crate) policy: Policy,
}

/// The key in these bytes.
pub(crate) fn secret(text: &[u8]) -> anyhow::Result<Secret> {
    Secret::new(text).ok_or_else(|| {
        anyhow::anyhow!(
            "the key has {} bytes; it needs {MIN_KEY} to {MAX_KEY}: `carpctl key new` makes one",
            text.len()
        )
    })
}

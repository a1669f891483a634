//! Captured frames as a file that other programs read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::capture::Frame;

/// Writes a classic pcap file (draft-ietf-opsawg-pcap) of Ethernet frames; its times are nanoseconds since boot.
pub fn write_pcap(path: &Path, frames: &[Frame]) -> Result<()> {
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    const VERSION: u32 = 2 | 4 << 16;
    const LONGEST: u32 = 65_536;
    const ETHERNET: u32 = 1;
    let header = [NANOSECONDS, VERSION, 0, 0, LONGEST, ETHERNET];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for frame in frames {
        let at = frame.at.as_nanos();
        let length = frame.bytes.len() as u64;
        for word in [at / 1_000_000_000, at % 1_000_000_000, length, length] {
            let word = u32::try_from(word).context("too much for a pcap file")?;
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&frame.bytes);
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

//! Captured frames as files that other programs read or have written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

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

/// The path of a capture of `tests/vectors`.
pub fn vector(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file)
}

/// Reads the frames of a classic little-endian pcap file of Ethernet frames.
pub fn read_pcap(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    frames_of(&bytes).with_context(|| format!("{} is no complete pcap file", path.display()))
}

/// After a header of 24 bytes, each frame has one of 16.
fn frames_of(capture: &[u8]) -> Result<Vec<Vec<u8>>> {
    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const ETHERNET: u32 = 1;
    let word = |at: usize| {
        let bytes = capture.get(at..).and_then(|rest| rest.first_chunk()).context("it ends within a header")?;
        anyhow::Ok(u32::from_le_bytes(*bytes))
    };
    ensure!((word(0)?, word(20)?) == (MICROSECONDS, ETHERNET), "not a little-endian one of Ethernet frames");
    let mut frames = vec![];
    let mut at = 24;
    while at < capture.len() {
        let length = word(at + 8)? as usize;
        frames.push(capture.get(at + 16..at + 16 + length).context("it ends within a frame")?.to_vec());
        at += 16 + length;
    }
    Ok(frames)
}

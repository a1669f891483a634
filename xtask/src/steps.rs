//! Steps of a longer command: each says what it is and how long it took.

use std::time::Instant;

use anyhow::Result;

/// Does one step.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("carp: {name}");
    let start = Instant::now();
    let done = work()?;
    eprintln!("carp: {name}: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}

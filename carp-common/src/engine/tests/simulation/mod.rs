//! Whole groups, two to eight hosts: whatever befalls them, one master is left.
//!
//! | file | what is there |
//! |---|---|
//! | [`world`] | the hosts: engines, with clocks, agents and kernels around them |
//! | [`watch`] | what has to hold at every moment |
//! | [`plan`] | what is to happen, drawn by chance |
//! | [`run`] | one plan, and what has to hold in the end |
//! | [`exhaustive`] | all that can happen, for a while |
//! | [`pair`] | two hosts, whose bounds are tighter |
//!
//! # How long it may take
//! From when all hosts run, all adverts arrive within `d`, and no demotion changes any more. Let `I` be the longest advert
//! interval, `S` the longest that a host can be silent as a backup: its dead time and a tie's 250 ms, or the hold of one that has
//! stepped down; `P` the longest preemption delay, `n` the number of hosts.
//!
//! 1. There is a master after `S`: by then the timer of some backup has ended, unless it was started again, which only a master does.
//! 2. Each master is heard once in `I + d`. Who is worse yields to it; who is a backup and has to take over from it (it preempts, or
//!    is demoted less) does so then, `P` later at the most. Either way the next master is a better one: after `n` such steps, the
//!    last.
//! 3. If some are equals, their adverts may cross, and all of them yield: then it begins anew. Their next tries are apart by spans
//!    of up to 250 ms, and cross again if two are closer than `d`, 3 ms at the most. Of eight equals the first two are with a chance
//!    below one in eleven; eight times in a row, one in 200 million.
//!
//! So it takes `S + P + n (I + d)`, with equals eight times `S + 2 (I + d)` more, and 1 % for clocks that differ. (A minute more where
//! send errors have demoted a host: they are forgotten by the first advert that it hears after that.)

mod exhaustive;
mod pair;
mod plan;
mod run;
mod watch;
mod world;

use std::{
    env, format, println,
    string::{String, ToString},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    vec::Vec,
};

use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use self::{plan::plans, run::Run};

/// How many plans the test run tries.
const PLANS: u64 = 100_000;
const MOST_FAULTS: usize = 24;
/// A number of plans, instead of [`PLANS`].
const COUNT: &str = "CARP_PLANS";
/// The seed of the first of them.
const SEED: &str = "CARP_SEED";

#[test]
fn whatever_befalls_a_group_one_master_is_left() {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first: u64 = number(SEED).unwrap_or(0);
    let count = number(COUNT).unwrap_or(if env::var_os(SEED).is_some() { 1 } else { PLANS });
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<_> = thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return None;
                }
                if let Err(failure) = try_plan(seed) {
                    next.store(first + count, Ordering::Relaxed);
                    return Some(failure);
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("a worker panics never")).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    println!("{count} plans");
}

/// Runs the plan of this seed; if something does not hold, looks for the smallest plan of which that is true, and tells what
/// happens in it.
fn try_plan(seed: u64) -> Result<(), String> {
    let config =
        ProptestConfig { cases: 1, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let strategy = plans(MOST_FAULTS);
    let outcome = runner.run(&strategy, |plan| Run::new(plan, false).finish().map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(_, plan)) => {
            let mut run = Run::new(plan.clone(), true);
            let why = run.finish().expect_err("the same plan fails again");
            Err(format!("seed {seed} ({SEED}={seed} repeats it): {why}\n{plan}\n{}", run.trace().join("\n")))
        }
        Err(error) => Err(error.to_string()),
    }
}

//! All that can befall two and three hosts, not only what a seed comes across: time goes on in steps, and before each step the
//! network and the hosts do anything of [`faults`] and [`cuts`]. What happens within a step happens at its own time.
//!
//! From every state that is reached, all faults end, and one master has to be left within the bound of [`Run`].

use std::{
    collections::HashSet,
    eprintln,
    hash::{BuildHasher, RandomState},
    println,
    string::String,
    vec,
    vec::Vec,
};

use super::{
    plan::{Fault, Host, Plan, Weather},
    run::Run,
};
use crate::engine::tests::*;

/// Half an advert interval.
const STEP: Duration = Duration::from_millis(500);
const DELAY: Duration = Duration::from_millis(1);

/// Hosts that are told apart by their number, and start at the same time.
fn group(settings: &[(u8, bool)]) -> Plan {
    let host = |(number, (advskew, preempt)): (usize, &(u8, bool))| Host {
        config: Config {
            preempt: *preempt,
            source: IpAddr::from([10, 77, 0, 1 + number as u8]),
            ..config(1, *advskew)
        },
        drift: 0,
        is_fenced: true,
        start: Duration::ZERO,
    };
    Plan {
        hosts: settings.iter().enumerate().map(host).collect(),
        weather: Weather::default(),
        delay: DELAY,
        vip_span: DELAY,
        faults: vec![],
    }
}

/// What may happen to the hosts before a step.
fn faults(hosts: usize) -> Vec<Fault> {
    let one = |at| {
        [
            Fault::Hang(at, STEP * 3 / 2),
            Fault::Hang(at, STEP * 15 / 2),
            Fault::Kill(at, STEP * 3 / 2),
            Fault::PowerOff(at, STEP * 3 / 2),
            Fault::Stop(at, STEP * 3 / 2),
            Fault::StepDown(at),
        ]
    };
    (0..hosts).flat_map(one).collect()
}

/// Which adverts may be lost in a step: none, all of one direction, all from or to one host, all.
fn cuts(hosts: usize) -> Vec<Vec<(usize, usize)>> {
    let links = || (0..hosts).flat_map(|from| (0..hosts).filter(move |to| *to != from).map(move |to| (from, to)));
    let mut cuts: HashSet<Vec<_>> = links().map(|link| vec![link]).collect();
    cuts.extend((0..hosts).map(|host| links().filter(|(from, to)| *from == host || *to == host).collect()));
    cuts.extend([vec![], links().collect()]);
    cuts.into_iter().collect()
}

/// Explores so many steps with so many faults of hosts; returns how many different states were found.
fn explore(plan: &Plan, steps: u32, most_faults: u32) -> Result<usize, String> {
    let hosts = plan.hosts.len();
    let (faults, cuts) = (faults(hosts), cuts(hosts));
    let hasher = RandomState::new();
    let mut seen = HashSet::new();
    let mut frontier = vec![(Run::new(plan.clone(), false), most_faults)];
    for _ in 0..steps {
        let mut next = vec![];
        for (run, left) in frontier {
            let may_be = faults.iter().copied().map(Some).filter(|_| left > 0).chain([None]);
            for (fault, cut) in may_be.flat_map(|fault| cuts.iter().map(move |cut| (fault, cut))) {
                let mut run = run.clone();
                run.cut(cut);
                if let Some(fault) = fault {
                    run.suffer(fault);
                }
                run.run_for(STEP)?;
                let left = left - u32::from(fault.is_some());
                if !seen.insert(hasher.hash_one((&run, left))) {
                    continue;
                }
                let mut end = run.clone();
                end.mend();
                end.settle()?;
                next.push((run, left));
            }
        }
        eprintln!("{} states", seen.len());
        frontier = next;
    }
    Ok(seen.len())
}

fn explore_all(groups: &[&[(u8, bool)]], steps: u32, most_faults: u32) {
    for settings in groups {
        let states = explore(&group(settings), steps, most_faults);
        let states = states.unwrap_or_else(|why| panic!("advskew, preempt {settings:?}: {why}"));
        println!("advskew, preempt {settings:?}: {states} states in {steps} steps with up to {most_faults} faults");
    }
}

#[test]
fn two_hosts_whatever_happens() {
    explore_all(&[&[(0, false), (0, false)], &[(0, true), (100, false)]], 12, 2);
}

#[test]
fn three_hosts_whatever_happens() {
    explore_all(&[&[(0, true), (0, true), (100, false)]], 9, 1);
}

/// The watch sees what it is there for: with leases of the right length nothing is wrong with these, and with longer ones there
/// are two owners.
#[test]
fn leases_that_are_too_long_are_objected_to() {
    let groups = [[(0, true), (100, false)], [(0, false), (0, false)]];
    let faults = [Fault::Hang(0, STEP * 15), Fault::Kill(0, STEP * 15)];
    for (fault, settings) in faults.into_iter().flat_map(|fault| groups.map(|group| (fault, group))) {
        let outcome = |percent| {
            let mut run = Run::new(group(&settings), false).with_leases(percent);
            // The first of two equals is MASTER after a tie, too.
            run.run_for(STEP * 20)?;
            run.suffer(fault);
            run.run_for(STEP * 20)?;
            run.mend();
            run.settle()
        };
        assert_eq!(outcome(100), Ok(()), "{fault:?} {settings:?}");
        let why = outcome(115).expect_err("somebody objects");
        assert!(why.contains("both serve the VIPs"), "{fault:?} {settings:?}: {why}");
    }
}

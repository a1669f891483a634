//! What an agent may tell the state machine.

#[path = "../../../carp-common/src/engine/tests/witness.rs"]
#[allow(dead_code, reason = "the state machine's own tests use more of it")]
mod witness;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
// The shared file finds these here.
use carp_common::abi::Family;
use carp_common::engine::{
    Action, Advbase, Advskew, Announcements, Cause, Config, DeadRatio, Demotion, Engine, HeardAdvert, Input, Lease,
    LinkFault, Profile, State, Transition,
};
use carp_common::time::Time;
use witness::{Host, Op, Witness};

/// When it begins: late enough that nothing saturates at zero.
const START: Time = Time::from_nanos(1_000_000_000_000);
/// Who is heard.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// Configures an engine, and has an agent tell it things: one that keeps its word, before a witness, or one that has lost its
/// mind, with which it does not panic.
pub fn engine(input: &[u8]) {
    // Where the input ends, so does all else.
    let _ = play(&mut Unstructured::new(input));
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let is_sane = u.ratio(3, 4)?;
    let config = config(u)?;
    if is_sane {
        let mut witness = Witness::new(config);
        witness.run(Op::Input(Input::LinkUp));
        while !u.is_empty() {
            witness.run(sane(u)?);
        }
        return Ok(());
    }
    let mut host = Host::new(config);
    while !u.is_empty() {
        rave(&mut host, u)?;
    }
    Ok(())
}

fn config(u: &mut Unstructured<'_>) -> Result<Config> {
    let [v4, v6, both]: [&[Family]; 3] = [&[Family::V4], &[Family::V6], &[Family::V4, Family::V6]];
    let ratio = |u: &mut Unstructured<'_>| Ok(DeadRatio::new(u.int_in_range(1..=255)?).expect("in range"));
    Ok(Config {
        advbase: Advbase::new(*u.choose(&[0, 1, 1, 2, 255])?).expect("in range"),
        advskew: advskew(u)?,
        dead_ratio: ratio(u)?,
        peer_dead_ratio: ratio(u)?,
        peer_advskew: if u.arbitrary()? { Some(advskew(u)?) } else { None },
        preempt: u.arbitrary()?,
        families: u.choose(&[v4, v6, both])?,
        any_family: u.arbitrary()?,
        source: IpAddr::from(<[u8; 4]>::arbitrary(u)?),
        announcements: Announcements { repeat: u.arbitrary()?, refresh: u.arbitrary()? },
        bow_out_last: u.arbitrary()?,
        profile: *u.choose(&[Profile::OpenBsd, Profile::FreeBsd])?,
        preempt_delay: span(u)?,
        doubt: span(u)?,
    })
}

fn advskew(u: &mut Unstructured<'_>) -> Result<Advskew> {
    Ok(Advskew::new(u.int_in_range(0..=254)?).expect("in range"))
}

/// Nothing, some milliseconds, or some seconds.
fn span(u: &mut Unstructured<'_>) -> Result<Duration> {
    let unit = *u.choose(&[0, 100_000, 100_000_000])?;
    Ok(Duration::from_nanos(u64::from(u.arbitrary::<u8>()?) * unit))
}

fn sane(u: &mut Unstructured<'_>) -> Result<Op> {
    let input = match u.int_in_range(0..=18)? {
        0 => {
            let close = (*u.choose(&[0, 1, 2])?, *u.choose(&[0, 99, 100, 101, 254])?, *u.choose(&[0, 1, 240, 241])?);
            let any = u.arbitrary()?;
            let fields = *u.choose(&[close, (255, 255, 0), any])?;
            return Ok(Op::Hear { family: family(u)?, fields, lag: span(u)? });
        }
        1 => return Ok(Op::Sleep(span(u)?)),
        2 => return Ok(Op::Wait(span(u)?)),
        3 => return Ok(Op::Timeout),
        4 => return Ok(Op::Sent),
        5 => return Ok(Op::VipsDone),
        6 => Input::LinkUp,
        7 => Input::LinkDown(*u.choose(&[LinkFault::NoCarrier, LinkFault::NoAddress, LinkFault::NotReady])?),
        8 => Input::MacChanged,
        9 => Input::Deaf,
        10 => Input::Doubtful(START.after(span(u)?)),
        11 => Input::Fence(u.arbitrary()?),
        12 => Input::Resume { until: START.after(span(u)?) },
        13 => Input::AdvertFailed,
        14 => Input::StepDown,
        15 => Input::Demote(*u.choose(&[0, 1, 240, 254])?),
        16 => Input::Maintenance(u.arbitrary()?),
        17 => Input::Tracked { own: u.arbitrary()?, group: u.arbitrary()? },
        _ => *u.choose(&[Input::VipsFailed, Input::Shutdown])?,
    };
    Ok(Op::Input(input))
}

fn family(u: &mut Unstructured<'_>) -> Result<Family> {
    Ok(*u.choose(&[Family::V4, Family::V6])?)
}

/// Anything, at any time but before now.
fn rave(host: &mut Host, u: &mut Unstructured<'_>) -> Result<()> {
    let input = match u.int_in_range(0..=5)? {
        0 => {
            let [advbase, advskew, demote] = u.arbitrary()?;
            let arrival = Time::from_nanos(u.arbitrary()?);
            Input::Advert(HeardAdvert { family: family(u)?, source: PEER, advbase, advskew, demote, arrival })
        }
        1 => {
            let sent = Input::AdvertSent(Time::from_nanos(u.arbitrary()?));
            *u.choose(&[Input::VipsTaken, Input::VipsReleased, sent])?
        }
        2 => {
            host.now = host.now.after(Duration::from_nanos(u.arbitrary()?));
            return Ok(());
        }
        3 => {
            host.handle_timeout();
            return Ok(());
        }
        4 => {
            let config = config(u)?;
            host.engine.reconfigure(config, host.now);
            return Ok(());
        }
        _ => match sane(u)? {
            Op::Input(input) => input,
            _ => return Ok(()),
        },
    };
    host.handle(input);
    Ok(())
}

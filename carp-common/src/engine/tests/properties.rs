//! What holds after any sequence of inputs, in any order, with any values; only time moves forward.

use std::vec;

use proptest::{prelude::*, sample::select};

use super::{
    witness::{Op, Witness},
    *,
};

fn fields() -> impl Strategy<Value = (u8, u8, u8)> {
    // Close to the own values, bow-outs, and anything.
    prop_oneof![
        4 => (0..4u8, select(vec![0u8, 99, 100, 101, 254]), select(vec![0u8, 0, 0, 1, 240, 241])),
        1 => Just((255, 255, 0)),
        2 => any::<(u8, u8, u8)>(),
    ]
}

/// By how much something demotes.
fn parts() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(100), Just(240), any::<u8>()]
}

fn profiles() -> impl Strategy<Value = Profile> {
    select(vec![Profile::OpenBsd, Profile::FreeBsd])
}

fn short() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0u64), 0..5_000_000u64, 0..5_000_000_000u64].prop_map(Duration::from_nanos)
}

/// What an agent that keeps its word does.
fn op() -> impl Strategy<Value = Op> {
    use LinkFault::{InterfaceDown, NoAddress, NoCarrier, NoInterface};
    let fault = select(vec![NoInterface, InterfaceDown, NoCarrier, NoAddress]);
    prop_oneof![
        6 => (select(BOTH), fields(), short()).prop_map(|(family, fields, lag)| Op::Hear { family, fields, lag }),
        6 => short().prop_map(Op::Sleep),
        3 => short().prop_map(Op::Wait),
        2 => Just(Op::Timeout),
        4 => Just(Op::VipsDone),
        2 => Just(Op::Input(Input::LinkUp)),
        1 => fault.prop_map(|fault| Op::Input(Input::LinkDown(fault))),
        1 => Just(Op::Input(Input::MacChanged)),
        1 => Just(Op::Input(Input::Deaf)),
        1 => short().prop_map(|span| Op::Input(Input::Doubtful(START.after(span)))),
        4 => Just(Op::Sent),
        1 => any::<bool>().prop_map(|enforced| Op::Input(Input::Fence(enforced))),
        1 => short().prop_map(|span| Op::Input(Input::Resume { until: START.after(span) })),
        2 => Just(Op::Input(Input::AdvertFailed)),
        1 => Just(Op::Input(Input::StepDown)),
        1 => select(vec![0, 1, 240]).prop_map(|demotion| Op::Input(Input::Demote(demotion))),
        1 => any::<bool>().prop_map(|on| Op::Input(Input::Maintenance(on))),
        1 => Just(Op::Input(Input::VipsFailed)),
        2 => (parts(), parts()).prop_map(|(own, group)| Op::Input(Input::Tracked { own, group })),
    ]
}

/// What an agent that has lost its mind does as well.
fn wild_op() -> impl Strategy<Value = Op> {
    let any_time = any::<u64>().prop_map(Time::from_nanos);
    let advert = (select(BOTH), any::<IpAddr>(), any::<[u8; 3]>(), any_time).prop_map(
        |(family, source, [advbase, advskew, demote], arrival)| {
            Op::Input(Input::Advert(HeardAdvert { family, source, advbase, advskew, demote, arrival }))
        },
    );
    prop_oneof![
        4 => op(),
        1 => advert,
        1 => Just(Op::Input(Input::VipsTaken)),
        1 => Just(Op::Input(Input::VipsReleased)),
        1 => any::<u64>().prop_map(|nanos| Op::Wait(Duration::from_nanos(nanos))),
    ]
}

fn configs() -> impl Strategy<Value = Config> {
    let advbase = prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()];
    let families = (select(vec![&BOTH[..1], &BOTH[1..], BOTH]), any::<bool>());
    let preempts = (any::<bool>(), short());
    (advbase, 0..=254u8, 1..=255u8, preempts, families, any::<IpAddr>(), any::<[u8; 2]>(), profiles()).prop_map(
        |(
            advbase,
            advskew,
            ratio,
            (preempt, preempt_delay),
            (families, any_family),
            source,
            [repeat, refresh],
            profile,
        )| Config {
            dead_ratio: DeadRatio::new(ratio).unwrap(),
            preempt,
            families,
            any_family,
            source,
            announcements: Announcements { repeat, refresh },
            profile,
            preempt_delay,
            ..config(advbase, advskew)
        },
    )
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn no_sequence_of_inputs_breaks_a_promise(
        config in configs(),
        ops in prop::collection::vec(op(), 1..120),
        stop in any::<bool>(),
        ops_after in prop::collection::vec(op(), 1..20),
    ) {
        let mut witness = Witness::new(config);
        witness.run(Op::Input(Input::LinkUp));
        ops.into_iter().for_each(|op| witness.run(op));
        if stop {
            witness.run(Op::Input(Input::Shutdown));
        }
        ops_after.into_iter().for_each(|op| witness.run(op));
    }

    #[test]
    fn no_input_makes_the_engine_panic(
        config in configs(),
        ops in prop::collection::vec(wild_op(), 1..120),
        stop_at in 0..200usize,
    ) {
        let mut host = Host::new(config);
        for (at, op) in ops.into_iter().enumerate() {
            match op {
                Op::Input(input) => host.engine.handle(input, host.now),
                Op::Hear { family, fields: (advbase, advskew, demote), lag } => {
                    let arrival = host.now.after(lag);
                    let advert = HeardAdvert { family, source: PEER, advbase, advskew, demote, arrival };
                    host.engine.handle(Input::Advert(advert), host.now);
                }
                Op::Wait(span) | Op::Sleep(span) => host.now = host.now.after(span),
                Op::Timeout => host.engine.handle_timeout(host.now),
                Op::Sent => host.engine.handle(Input::AdvertSent(host.now), host.now),
                Op::VipsDone => host.engine.handle(Input::VipsTaken, host.now),
            }
            if at == stop_at {
                host.engine.handle(Input::Shutdown, host.now);
            }
            host.actions();
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_engine(config in configs(), ops in prop::collection::vec(op(), 1..60)) {
        let [mut one, mut other] = [Witness::new(config.clone()), Witness::new(config)];
        for op in ops {
            one.run(op);
            other.run(op);
        }
        prop_assert_eq!(one.host.engine, other.host.engine);
    }
}

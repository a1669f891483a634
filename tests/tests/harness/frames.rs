//! Sniffing and sending, multicast and IPv6.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use carp_tests::{BootTime, Capture, ETH0, Filter, Flood, FloodPlan, Host, Lab, LabOptions, eventually, send_frame};

use crate::{LONG, MILLISECOND, capture_arp, is_said, say, saying};

#[test]
fn a_capture_keeps_the_bytes_the_direction_and_the_time() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let [at_a, at_b] = [capture_arp(&a)?, capture_arp(&b)?];
    let before = BootTime::now();
    say(&a, 1)?;
    let after = BootTime::now();
    let sent = at_a.wait_for("what a said", LONG, |frame| is_said(&frame.bytes, 1))?;
    let arrived = at_b.wait_for("what a said", LONG, |frame| is_said(&frame.bytes, 1))?;
    assert_eq!(sent.bytes, saying(&a, 1).to_frame());
    assert_eq!(arrived.bytes, sent.bytes);
    assert!(sent.outgoing && !arrived.outgoing);
    assert!(before <= sent.at && sent.at <= after + MILLISECOND, "{before} {} {after}", sent.at);
    assert!(before <= arrived.at);
    assert_eq!((at_a.dropped(), at_b.dropped()), (0, 0));
    Ok(())
}

#[test]
fn a_filter_lets_only_its_protocol_through() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let everything = Capture::start(b.ns(), ETH0, Filter::Everything)?;
    let carp = Capture::start(b.ns(), ETH0, Filter::Carp)?;
    let [carp4, udp4, carp6, udp6] = [ipv4_frame(&a, 112), ipv4_frame(&a, 17), ipv6_frame(&a, 112), ipv6_frame(&a, 17)];
    for frame in [&udp4, &carp4, &udp6, &carp6] {
        send_frame(a.ns(), ETH0, frame)?;
    }
    say(&a, 1)?;
    everything.wait_for("the last frame", LONG, |frame| is_said(&frame.bytes, 1))?;
    carp.wait_for("the last of protocol 112", LONG, |frame| frame.bytes == carp6)?;
    let captured: Vec<_> = carp.stop()?.into_iter().map(|frame| frame.bytes).collect();
    assert_eq!(captured, [carp4, carp6]);
    let all = everything.stop()?;
    assert!(all.iter().any(|frame| frame.bytes == udp4) && all.iter().any(|frame| frame.bytes == udp6));
    Ok(())
}

#[test]
fn a_wait_for_a_frame_in_vain_says_for_which() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.host("a")?;
    let error = capture_arp(&a)?.wait_for("a word", MILLISECOND, |_| false).unwrap_err().to_string();
    assert!(error.contains("a word") && error.contains("1ms"), "{error}");
    Ok(())
}

#[test]
fn a_flood_sends_its_frames_in_turn_and_stops_by_itself() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let at_b = Capture::start(b.ns(), ETH0, Filter::Carp)?;
    let frames = vec![ipv4_frame(&a, 112), ipv6_frame(&a, 112)];
    let plan = FloodPlan { frames: frames.clone(), rate: Some(1000), duration: Duration::from_millis(200) };
    let sent = Flood::start(a.ns(), ETH0, plan)?.wait()?;
    assert!((1..=250).contains(&sent), "{sent} frames in 200 ms at 1000 a second");
    let mut arrived = 0;
    at_b.wait_for("the last frame", LONG, |_| {
        arrived += 1;
        arrived == sent
    })?;
    let captured = at_b.stop()?;
    assert!(captured.iter().zip(frames.iter().cycle()).all(|(frame, sent)| frame.bytes == *sent));
    Ok(())
}

#[test]
fn a_flood_without_a_rate_is_stopped_by_its_handle() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let at_b = Capture::start(b.ns(), ETH0, Filter::Carp)?;
    let plan = FloodPlan { frames: vec![ipv4_frame(&a, 112)], rate: None, duration: LONG };
    let flood = Flood::start(a.ns(), ETH0, plan)?;
    let mut arrived = 0;
    at_b.wait_for("the thousandth frame", LONG, |_| {
        arrived += 1;
        arrived == 1000
    })?;
    assert!(flood.stop()? >= 1000);
    Ok(())
}

#[test]
fn a_plain_switch_floods_multicast() -> Result<()> {
    let lab = Lab::new()?;
    let [a, member, stranger] = lab.hosts(["a", "member", "stranger"])?;
    let _membership = join(&member)?;
    let at_stranger = Capture::start(stranger.ns(), ETH0, Filter::Everything)?;
    multicast(&a, 1)?;
    at_stranger.wait_for("multicast", LONG, |frame| is_multicast(&frame.bytes, 1))?;
    Ok(())
}

#[test]
fn a_snooping_switch_brings_multicast_to_members_only() -> Result<()> {
    let lab = Lab::with(LabOptions { mcast_snooping: true, ..LabOptions::default() })?;
    let [a, member, stranger] = lab.hosts(["a", "member", "stranger"])?;
    let _membership = join(&member)?;
    let at_member = Capture::start(member.ns(), ETH0, Filter::Everything)?;
    let at_stranger = Capture::start(stranger.ns(), ETH0, Filter::Everything)?;
    // Until the switch knows its members, it floods, or leaves them out.
    let mut round = 0;
    eventually("multicast reaches the member only", LONG, || {
        round += 1;
        multicast(&a, round)?;
        say(&a, round)?;
        let heard = |capture: &Capture| {
            capture.wait_for("broadcast", LONG, |frame| is_said(&frame.bytes, round))?;
            Ok::<_, anyhow::Error>(capture.frames().iter().any(|frame| is_multicast(&frame.bytes, round)))
        };
        Ok(heard(&at_member)? && !heard(&at_stranger)?)
    })
}

#[test]
fn a_lab_with_ipv6_is_usable_at_once() -> Result<()> {
    let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x00ff, 0xfe77, 1);
    assert!(a.has_address(a.ip6())? && a.has_address(link_local)?, "{:?}", a.addresses()?);
    assert!(!a.ns().ip("addr show tentative")?.contains("inet6"));
    let receiver = b.ns().run(|| Ok(UdpSocket::bind((b.ip6(), 7777))?))?;
    receiver.set_read_timeout(Some(LONG))?;
    let sender = a.ns().run(|| Ok(UdpSocket::bind((a.ip6(), 0))?))?;
    sender.send_to(b"hello", (b.ip6(), 7777))?;
    let (length, from) = receiver.recv_from(&mut [0; 16])?;
    assert_eq!((length, from.ip()), (5, a.ip6().into()));
    Ok(())
}

/// An administratively scoped group: the range 224.0.0.x is never snooped.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);

fn join(host: &Host) -> Result<UdpSocket> {
    host.ns().run(|| {
        let socket = UdpSocket::bind((GROUP, 7777))?;
        socket.join_multicast_v4(&GROUP, &host.ip())?;
        Ok(socket)
    })
}

fn multicast(host: &Host, word: u8) -> Result<()> {
    let socket = host.ns().run(|| Ok(UdpSocket::bind((host.ip(), 0))?))?;
    socket.send_to(&[b'!', word, b'!'], (GROUP, 7777))?;
    Ok(())
}

fn is_multicast(frame: &[u8], word: u8) -> bool {
    frame.get(30..34) == Some(&GROUP.octets()) && frame.get(42..45) == Some(&[b'!', word, b'!'])
}

/// A broadcast IPv4 frame of this protocol; beyond that, nonsense.
fn ipv4_frame(from: &Host, protocol: u8) -> Vec<u8> {
    let mut frame = ethernet(from, [0x08, 0x00]);
    frame.resize(70, 0);
    frame[14] = 0x45;
    frame[23] = protocol;
    frame
}

/// A broadcast IPv6 frame with this next header; beyond that, nonsense.
fn ipv6_frame(from: &Host, protocol: u8) -> Vec<u8> {
    let mut frame = ethernet(from, [0x86, 0xdd]);
    frame.resize(90, 0);
    frame[14] = 0x60;
    frame[20] = protocol;
    frame
}

fn ethernet(from: &Host, kind: [u8; 2]) -> Vec<u8> {
    [&[0xff; 6], &from.mac().0[..], &kind].concat()
}

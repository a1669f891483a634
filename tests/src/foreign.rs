//! BPF programs that are none of carpd's: in the way of it, or to compare with; and none where carpd's was.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::host::Host;
use crate::netns::{Netns, output_of};
use crate::tools::tool;

/// Where it is attached, as in `XDP_FLAGS_*`.
#[derive(Clone, Copy)]
pub enum Mode {
    /// In the network stack.
    Generic = 2,
    /// In the driver.
    Native = 4,
}

/// Attached as long as this lives.
pub struct Foreign {
    _link: OwnedFd,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const TYPE_SCHED_CLS: u32 = 3;
const TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
/// Drops ARP: `r2 = data; r3 = data_end; r4 = r2 + 14; if r4 > r3 goto +2; r5 = *(u16 *)(r2 + 12);
/// if r5 == ETH_P_ARP goto +2; r0 = XDP_PASS; exit; r0 = XDP_DROP; exit`.
const NO_ARP: [u64; 11] = [
    0x0000_0000_0000_1261,
    0x0000_0000_0004_1361,
    0x0000_0000_0000_24bf,
    0x0000_000e_0000_0407,
    0x0000_0000_0002_342d,
    0x0000_0000_000c_2569,
    0x0000_0608_0002_0515,
    0x0000_0002_0000_00b7,
    0x0000_0000_0000_0095,
    0x0000_0001_0000_00b7,
    0x0000_0000_0000_0095,
];

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The beginning of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
struct TestRun {
    program: u32,
    return_value: u32,
    size: u32,
    size_out: u32,
    frame: u64,
    frame_out: u64,
    repeat: u32,
    nanos: u32,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program named `bystander` to an interface of the host.
pub fn attach(host: &Host, interface: &str, mode: Mode) -> Result<Foreign> {
    attach_program(host.ns(), interface, mode, &PASS)
}

/// Has a switch forward no ARP that comes in by this port.
pub fn drop_arp(switch: &Netns, port: &str) -> Result<Foreign> {
    attach_program(switch, port, Mode::Generic, &NO_ARP)
}

/// A program that does nothing, and is attached nowhere.
pub struct Empty(OwnedFd);

impl Empty {
    /// As XDP has it, and as a classifier of tc.
    pub fn load_both() -> Result<[Self; 2]> {
        Ok([Self(load_program(TYPE_XDP, &PASS)?), Self(load_program(TYPE_SCHED_CLS, &PASS)?)])
    }

    /// How long it takes for a frame on average, by BPF_PROG_TEST_RUN: nothing but what that takes itself.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let mut run = TestRun {
            program: self.0.as_raw_fd().try_into()?,
            return_value: 0,
            size: frame.len().try_into()?,
            size_out: 0,
            frame: frame.as_ptr() as u64,
            frame_out: 0,
            repeat,
            nanos: 0,
        };
        bpf(PROG_TEST_RUN, &mut run).context("running a program")?;
        Ok(Duration::from_nanos(run.nanos.into()))
    }
}

fn attach_program(ns: &Netns, interface: &str, mode: Mode, code: &[u64]) -> Result<Foreign> {
    let program = load_program(TYPE_XDP, code)?;
    let link = ns.run(|| {
        let mut link = LinkCreate {
            program: program.as_raw_fd().try_into()?,
            ifindex: if_nametoindex(interface).context("looking for the interface")?,
            attach_type: ATTACH_XDP,
            flags: mode as u32,
        };
        bpf_descriptor(LINK_CREATE, &mut link).context("attaching a program")
    })?;
    Ok(Foreign { _link: link })
}

fn load_program(kind: u32, code: &[u64]) -> Result<OwnedFd> {
    let mut load = ProgLoad {
        kind,
        instructions: code.len().try_into()?,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"bystander\0\0\0\0\0\0\0",
    };
    bpf_descriptor(PROG_LOAD, &mut load).context("loading a program")
}

/// Detaches the program that is attached to the host's eth0, over its owner's head.
pub fn detach(host: &Host) -> Result<()> {
    let program = host.xdp_program()?.context("no program")?;
    let links = output_of(Command::new(tool("bpftool")?).args(["link", "show"]))?;
    // 12: xdp  prog 34
    let is_its = |line: &&str| line.split_once("xdp  prog ").is_some_and(|(_, id)| id.trim_end() == program);
    let link = links.lines().find(is_its).and_then(|line| line.split(':').next()).context("no link")?;
    output_of(Command::new(tool("bpftool")?).args(["link", "detach", "id", link]))?;
    Ok(())
}

/// The system call, for commands that return a descriptor.
fn bpf_descriptor<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?.try_into().map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes as many bytes as it is told; what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    Ok(Errno::result(result)?)
}

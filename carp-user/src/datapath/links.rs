//! The programs' places on interfaces: one link each, pinned where there are pins, so that it outlives the agent.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::bpf;

/// Where on an interface a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// In the network stack.
    Generic,
    /// On the way out, before all others of its kind, which could let a frame pass for good.
    Egress,
}

impl Hook {
    /// `enum bpf_attach_type`, and flags: XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, BPF_F_BEFORE.
    const fn attributes(self) -> (u32, u32) {
        match self {
            Self::Native => (37, 1 << 2),
            Self::Generic => (37, 1 << 1),
            Self::Egress => (47, 1 << 3),
        }
    }
}

/// A program's place on an interface. If it is not pinned, the program is detached when this is dropped.
pub(super) struct Link {
    fd: Arc<OwnedFd>,
    /// Where it is to be pinned.
    pin: Option<PathBuf>,
}

impl Link {
    /// Attaches a program.
    ///
    /// # Errors
    /// EBUSY or EEXIST: another XDP program is there. Else, that this hook does not work here.
    pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        let (attach_type, flags) = hook.attributes();
        Ok(Self { fd: Arc::new(bpf::attach(program, ifindex, attach_type, flags)?), pin: None })
    }

    /// Takes a pinned one over, which from now on runs this program instead of its former.
    ///
    /// # Errors
    /// Nothing is pinned there, or it is attached no more, or not to this interface.
    pub(super) fn take_over(path: &Path, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<Self> {
        let fd = bpf::open(path)?;
        if bpf::ifindex(fd.as_fd())? != ifindex {
            return Err(io::Error::other("it is not attached there any more"));
        }
        bpf::replace(fd.as_fd(), program)?;
        Ok(Self { fd: Arc::new(fd), pin: Some(path.to_owned()) })
    }

    /// Pins it, in the place of whatever is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn pin(&mut self, path: PathBuf) -> io::Result<()> {
        fs::remove_file(&path).ok();
        let pinned = bpf::pin(self.fd.as_fd(), &path);
        self.pin = Some(path);
        pinned
    }

    /// Whether nobody has detached the program. The kernel waits for whatever else changes a device on the machine.
    pub(super) fn is_attached(&self) -> bool {
        is_attached(&self.fd)
    }

    /// What another thread can ask for that.
    pub(super) fn watched(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Where it should be pinned, and is not.
    pub(super) fn lost_pin(&self) -> Option<PathBuf> {
        self.pin.clone().filter(|pin| !pin.exists())
    }

    /// Detaches the program, also if it is pinned.
    pub(super) fn detach(self) {
        if let Some(pin) = &self.pin {
            // Somebody else may have.
            fs::remove_file(pin).ok();
        }
        // Another thread may have it, too, for a moment.
        bpf::detach(self.fd.as_fd()).ok();
    }
}

/// The same, of a link of which only this is known.
pub(super) fn is_attached(link: &OwnedFd) -> bool {
    bpf::ifindex(link.as_fd()).is_ok_and(|ifindex| ifindex != 0)
}

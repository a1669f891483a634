//! bpf(2) as far as aya does not lead: links that can be asked where they are, and pins of what has a descriptor.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{errno::Errno, libc};

/// The commands, of `enum bpf_cmd`.
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// The beginnings of `union bpf_attr` for these.
#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct LinkCreate {
    program: i32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    /// For tcx: no neighbour, and no certain revision of the list.
    rest: [u64; 2],
}

#[repr(C)]
struct LinkUpdate {
    link: i32,
    program: i32,
    flags: u32,
    old_program: u32,
}

/// The beginning of `struct bpf_link_info`, for links of interfaces.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Attaches a program to an interface by a link, which lasts as long as something refers to it.
///
/// # Errors
/// What the kernel says: EBUSY or EEXIST if another XDP program is there.
pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate { program: program.as_raw_fd(), ifindex, attach_type, flags, rest: [0; 2] };
    bpf(LINK_CREATE, &mut attributes).and_then(owned)
}

/// Has a link run another program from now on, without a moment between the two.
///
/// # Errors
/// What the kernel says: ENOLINK if it is attached no more.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate { link: link.as_raw_fd(), program: program.as_raw_fd(), flags: 0, old_program: 0 };
    bpf(LINK_UPDATE, &mut attributes).map(drop)
}

/// Detaches what a link attaches, whoever has it.
///
/// # Errors
/// What the kernel says: EOPNOTSUPP before 5.9.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate { link: link.as_raw_fd(), program: 0, flags: 0, old_program: 0 };
    bpf(LINK_DETACH, &mut attributes).map(drop)
}

/// The interface that a link is attached to; 0 if it was detached, or the interface is gone.
///
/// # Errors
/// It is no link.
pub(super) fn ifindex(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let mut attributes = InfoByFd {
        fd: link.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info.ifindex)
}

/// Pins a map, program or link: it lasts as long as the file does.
///
/// # Errors
/// What the kernel says: EPERM where there is no bpffs, EEXIST if there is such a file.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = object.as_raw_fd().cast_unsigned();
    bpf(OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
}

/// Opens what is pinned.
///
/// # Errors
/// What the kernel says: ENOENT if nothing is there.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(OBJ_GET, &mut Object { path: path.as_ptr() as u64, ..Object::default() }).and_then(owned)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes as many bytes as it is told, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    Ok(Errno::result(result)?)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.try_into().map_err(io::Error::other)?) })
}

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

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    code: [u64; 2],
    load_time: u64,
    user: u32,
    map_count: u32,
    maps: u64,
}

/// Most maps of one program that are asked for.
const MAPS: usize = 64;

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
    information(link, &mut info)?;
    Ok(info.ifindex)
}

/// The type of a program (`enum bpf_prog_type`), and the ids of the maps that it works with. (aya opens it by its id for that,
/// which takes CAP_SYS_ADMIN.)
///
/// # Errors
/// It is no program.
pub(super) fn program(program: BorrowedFd<'_>) -> io::Result<(u32, Vec<u32>)> {
    let mut maps = vec![0; MAPS];
    let mut info = ProgramInfo { map_count: MAPS as u32, maps: maps.as_mut_ptr() as u64, ..ProgramInfo::default() };
    information(program, &mut info)?;
    maps.truncate(info.map_count as usize);
    Ok((info.kind, maps))
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

/// What the kernel says of an object, as far as `info` goes.
fn information<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attributes = InfoByFd {
        fd: object.as_raw_fd().cast_unsigned(),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes).map(drop)
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

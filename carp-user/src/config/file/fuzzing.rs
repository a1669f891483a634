//! What is asserted of any configuration file.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::OnceLock,
};

use carp_common::abi::{MAX_DIGESTS, MAX_SEAL_KEYS, MAX_VHOSTS};

use super::*;
use crate::config::seal::Mode;

/// The folder of the file has these: a passphrase, which is a key, too, and a program.
const SECRET: &str = "hush-hush-hush-hush";
const FILES: [(&str, &str, u32); 2] = [("secret", SECRET, 0o600), ("check", "", 0o700)];

/// Reads a file, within surroundings as the low bits of its first byte have it. A mistake stands in the text, and tells no
/// secret; what is accepted is valid, and the same again.
pub fn configuration(input: &[u8]) {
    let (Some(first), Ok(text)) = (input.first(), str::from_utf8(input)) else { return };
    let folder = folder();
    let surroundings = Surroundings {
        is_public: first & 3 == 0,
        folder,
        credentials: match first & 3 {
            0 => Credentials::None,
            1 => Credentials::Unknown,
            _ => Credentials::In(folder),
        },
    };
    let read = || parse(Path::new("x.toml"), text, &surroundings);
    match read() {
        Err(mistakes) => {
            assert!(!mistakes.first.is_empty() && mistakes.first.len() <= TOLD);
            mistakes.first.iter().for_each(|mistake| assert_is_in(text, mistake));
            assert_tells_no_secret(text, &mistakes.to_string());
        }
        Ok(read_first) => {
            assert_tells_no_secret(text, &read_first.warnings.join("\n"));
            assert_valid(&read_first);
            let Ok(again) = read() else { panic!("accepted once only") };
            assert!(again.hosts == read_first.hosts, "read otherwise");
        }
    }
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/fuzzing")).to_owned();
        fs::create_dir_all(&folder).expect("a folder");
        for (name, text, mode) in FILES {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(folder.join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
        }
        folder
    })
}

fn assert_is_in(text: &str, mistake: &Mistake) {
    // The end of the text is a place, too.
    let line = text.split('\n').nth(mistake.line - 1);
    let columns = line.map(|line| line.chars().count() + 1);
    assert!(columns.is_some_and(|columns| (1..=columns).contains(&mistake.column)), "{mistake:?} is not in the text");
}

fn assert_tells_no_secret(text: &str, told: &str) {
    assert!(text.contains(SECRET) || !told.contains(SECRET), "a secret is told: {told}");
}

/// What the agent relies on.
fn assert_valid(read: &Configuration) {
    assert!((1..=MAX_VHOSTS as usize).contains(&read.hosts.len()));
    assert!(read.bpffs.as_ref().is_none_or(|path| path.is_absolute()));
    let mut names = HashSet::new();
    let mut vips = HashSet::new();
    for host in &read.hosts {
        let interface = host.interface.as_ref().expect("an interface");
        assert!(names.insert((interface, host.vhid)), "a virtual host twice");
        assert!(!host.vips.is_empty() && host.vips.iter().all(|vip| vips.insert(vip.address)), "a VIP twice, or none");
        assert!(host.group.is_multicast() && host.min_ttl > 0);
        let digests = host.digests();
        assert!((1..=MAX_DIGESTS).contains(&digests.accepted.len()));
        assert!(digests.sent.iter().all(|sent| digests.accepted.contains(sent)), "own adverts would be refused");
        assert!(host.seal.keys.len() <= MAX_SEAL_KEYS as usize);
        assert_eq!(host.seal.sending().is_some(), host.seal.mode != Mode::Off);
    }
    for host in &read.hosts {
        let own = host.sources.iter().chain(&host.peers).chain(host.policies.iter().map(|policy| &policy.source));
        own.for_each(|own| assert!(!vips.contains(own), "a host's own address is a VIP"));
    }
}

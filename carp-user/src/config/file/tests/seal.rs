//! Seals, their keys, and what peers may say.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use carp_common::abi::{Policy, SealCheck};

use super::*;
use crate::config::seal::{Freshness, Mode};

/// A folder with keys, which goes with it.
struct Keys(PathBuf);

impl Keys {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("carp-seal-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (file, key, mode) in [
            ("one", "sixteen bytes ok\nand a second line", 0o600),
            ("two", "another key, which is somewhat longer", 0o640),
            ("short", "fifteen bytes..", 0o600),
            ("long", &"x".repeat(65), 0o600),
            ("public", "everybody can read it", 0o644),
        ] {
            fs::write(folder.join(file), key).unwrap();
            fs::set_permissions(folder.join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        Self(folder)
    }

    fn in_them(&self) -> Surroundings<'_> {
        Surroundings { is_public: false, folder: &self.0, credentials: Credentials::None }
    }

    fn host(&self, more: &str) -> Settings {
        let text = format!("{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\n{more}");
        let parsed = parse(Path::new("x.toml"), &text, &self.in_them()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(parsed.warnings, [""; 0], "{more}");
        parsed.hosts.into_iter().next().unwrap()
    }

    /// What is wrong, without its place.
    fn mistakes(&self, more: &str) -> Vec<String> {
        let text = format!("{DEFAULTS}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\n{more}");
        let mistakes = mistakes_in(&text, &self.in_them()).into_iter();
        mistakes.map(|mistake| mistake.split_once(": ").unwrap().1.to_owned()).collect()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

const TWO: &str = "seal_keys = [{ id = 7, file = \"one\" }, { id = 255, file = \"two\" }]\n";

#[test]
fn nothing_is_sealed_unless_it_is_asked_for() {
    let seal = Keys::new("off").host("").seal;
    assert_eq!((seal.mode, seal.keys.len(), seal.sending().is_none()), (Mode::Off, 0, true));
    assert_eq!(seal.mode.check(), SealCheck::Off);
}

#[test]
fn the_first_key_seals_unless_another_is_named() {
    let keys = Keys::new("first");
    for (mode, check) in
        [("send", SealCheck::Off), ("permissive", SealCheck::Permissive), ("enforce", SealCheck::Enforce)]
    {
        let host = keys.host(&format!("seal = {mode:?}\n{TWO}"));
        let sending = host.seal.sending().unwrap();
        assert_eq!((sending.id, sending.secret.as_bytes()), (7, &b"sixteen bytes ok"[..]));
        assert_eq!(host.seal.mode.check(), check);
        assert_eq!(host.seal.prepared().len(), if check == SealCheck::Off { 0 } else { 2 });
        let other = keys.host(&format!("seal = {mode:?}\nseal_with = 255\n{TWO}"));
        assert_eq!(other.seal.sending().unwrap().id, 255);
    }
}

#[test]
fn the_window_is_five_seconds_or_three_intervals_or_what_is_given_or_none() {
    let keys = Keys::new("window");
    let window = |more: &str| keys.host(&format!("seal = \"enforce\"\n{TWO}{more}")).seal_window();
    let second = 1_000_000_000;
    assert_eq!(window(""), 5 * second);
    assert_eq!(window("advbase = 2\n"), 6 * second);
    assert_eq!(window("advbase = 1\nadvskew = 254\n"), 3 * (256 + 254) * second / 256);
    assert_eq!(window("freshness_window = 3600\n"), 3_600 * second);
    assert_eq!(window("freshness = \"rising\"\n"), 0);
    let host = keys.host(&format!("seal = \"enforce\"\n{TWO}freshness = \"rising\"\n"));
    assert_eq!(host.seal.freshness, Freshness::Rising);
}

#[test]
fn mistakes_about_seals_are_told() {
    let keys = Keys::new("mistakes");
    let refused = "the key has";
    for (more, expected) in [
        ("seal = \"enforce\"\n", vec!["seal: `seal_keys` is missing: [{ id = 1, file = \"FILE\" }]"]),
        ("seal = \"on\"\n", vec!["seal: unknown variant `on`, expected one of `off`, `send`, `permissive`, `enforce`"]),
        ("seal = \"send\"\nseal_keys = 1\n", vec!["seal_keys: is to be a list of tables: [{ ... }]"]),
        ("seal = \"send\"\nseal_keys = [1]\n", vec!["seal_keys: is to be a list of tables: [{ ... }]"]),
        ("seal = \"send\"\nseal_keys = [{ file = \"one\" }]\n", vec!["`id` is missing"]),
        ("seal = \"send\"\nseal_keys = [{ id = 0, file = \"one\" }]\n", vec!["id: 0 is not in 1 to 255"]),
        ("seal = \"send\"\nseal_keys = [{ id = 1 }]\n", vec!["seal_keys: each key has either `file` or `credential`"]),
        (
            "seal = \"send\"\nseal_keys = [{ id = 1, file = \"one\", credential = \"x\" }]\n",
            vec!["seal_keys: each key has either `file` or `credential`"],
        ),
        ("seal = \"send\"\nseal_keys = [{ id = 1, file = \"one\", key = \"x\" }]\n", vec!["unknown key `key`"]),
        (
            "seal = \"send\"\nseal_keys = [{ id = 1, file = \"one\" }, { id = 1, file = \"two\" }]\n",
            vec!["id: 1 is there twice"],
        ),
        (
            "seal = \"send\"\nseal_with = 3\nseal_keys = [{ id = 1, file = \"one\" }]\n",
            vec!["seal_with: there is no key with the id 3 in seal_keys"],
        ),
        (
            "seal = \"send\"\nseal_keys = [{ id = 1, file = \"short\" }]\n",
            vec!["seal_keys: the key has 15 bytes; it needs 16 to 64: `carpctl key new` makes one"],
        ),
        (
            "seal = \"send\"\nseal_keys = [{ id = 1, file = \"long\" }]\n",
            vec!["seal_keys: the key has 65 bytes; it needs 16 to 64: `carpctl key new` makes one"],
        ),
        (
            "seal = \"send\"\nseal_keys = [{ id = 1, file = \"one\" }, { id = 2, file = \"one\" }]\n",
            vec!["seal_keys: 1 and 2 are the same key"],
        ),
        ("freshness_window = 0\n", vec!["freshness_window: 0 is not in 1 to 3600"]),
    ] {
        assert_eq!(keys.mistakes(more), expected, "{more}");
    }
    let public = keys.mistakes("seal = \"send\"\nseal_keys = [{ id = 1, file = \"public\" }]\n");
    assert!(public.len() == 1 && public[0].starts_with("seal_keys: everybody can read "), "{public:?}");
    let missing = keys.mistakes("seal = \"send\"\nseal_keys = [{ id = 1, file = \"none\" }]\n");
    assert!(missing.len() == 1 && missing[0].starts_with("seal_keys: cannot read the secret in "), "{missing:?}");
    assert!(!public[0].contains(refused));
    let five: Vec<_> = (1..=5).map(|id| format!("{{ id = {id}, file = \"one\" }}")).collect();
    let five = keys.mistakes(&format!("seal = \"send\"\nseal_keys = [{}]\n", five.join(", ")));
    assert!(five.contains(&"seal_keys: 5 keys: 4 is the most".to_owned()), "{five:?}");
}

#[test]
fn a_key_may_be_a_credential_which_only_carpd_sees() {
    let keys = Keys::new("credential");
    let text = format!(
        "{DEFAULTS}seal = \"send\"\nseal_keys = [{{ id = 3, credential = \"two\" }}]\n\
         [[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\n"
    );
    let with = |credentials| Surroundings { credentials, ..keys.in_them() };
    let parsed = parse(Path::new("x.toml"), &text, &with(Credentials::In(&keys.0))).unwrap();
    assert_eq!(parsed.hosts[0].seal.sending().unwrap().secret.as_bytes(), b"another key, which is somewhat longer");
    let checked = parse(Path::new("x.toml"), &text, &with(Credentials::Unknown)).unwrap();
    assert_eq!(
        checked.warnings,
        ["x.toml:5:37: warning: seal_keys: two: not looked at, for systemd gives it to carpd only"]
    );
    let another = text.replace("}]", "}, { id = 4, credential = \"one\" }]");
    assert_eq!(parse(Path::new("x.toml"), &another, &with(Credentials::Unknown)).unwrap().warnings.len(), 2);
    let mistakes = mistakes_in(&text, &with(Credentials::None));
    assert_eq!(mistakes, ["5:37: seal_keys: there are no credentials: LoadCredential=two:FILE in the unit"]);
}

#[test]
fn keys_that_are_not_used_are_told() {
    let keys = Keys::new("unused");
    let text = format!("{DEFAULTS}{TWO}[[virtual_host]]\nvhid = 1\naddresses = [\"10.0.0.100\"]\n");
    let warnings = parse(Path::new("x.toml"), &text, &keys.in_them()).unwrap().warnings;
    assert_eq!(
        warnings,
        ["x.toml:4:13: warning: seal_keys: nothing is sealed with them: seal = \"send\", and \"enforce\" in the end"]
    );
}

#[test]
fn a_policy_says_who_is_heard_and_what_each_may_say() {
    let keys = Keys::new("policy");
    let host = keys.host(
        "peers = [\"10.0.0.2\", \"10.0.0.4\"]\npeer_policy = [\
         { source = \"10.0.0.2\", advbase = 1, advskew = [0, 100], demote = 0, bow_out = false }, \
         { source = \"10.0.0.3\" }]\n",
    );
    let strict = Policy { advbase: [1, 1], advskew: [0, 100], demote: 0, bow_out: 0, reserved: [0; 2] };
    let free = Policy { advbase: [0, 255], advskew: [0, 254], ..Policy::ANY };
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        host.heard_in(Family::V4),
        [(address("10.0.0.2"), strict), (address("10.0.0.3"), free), (address("10.0.0.4"), Policy::ANY)]
    );
    assert_eq!(host.heard_in(Family::V6), []);
    assert_eq!(keys.host("").heard_in(Family::V4), []);
}

#[test]
fn mistakes_about_policies_are_told() {
    let keys = Keys::new("policies");
    for (policy, expected) in [
        ("1", "peer_policy: is to be a list of tables: [{ ... }]"),
        ("[{ advbase = 1 }]", "`source` is missing"),
        ("[{ source = \"224.0.0.1\" }]", "source: \"224.0.0.1\" cannot be a host's address"),
        ("[{ source = \"10.0.0.2\" }, { source = \"10.0.0.2\" }]", "source: 10.0.0.2 is there twice"),
        ("[{ source = \"10.0.0.100\" }]", "source: 10.0.0.100 is a virtual address, and not a host's own"),
        ("[{ source = \"10.0.0.2\", skew = 1 }]", "unknown key `skew`"),
        (
            "[{ source = \"10.0.0.2\", advskew = 255 }]",
            "advskew: is to be a number of 0 to 254, or the smallest and the largest",
        ),
        (
            "[{ source = \"10.0.0.2\", advskew = [5, 4] }]",
            "advskew: is to be a number of 0 to 254, or the smallest and the largest",
        ),
        (
            "[{ source = \"10.0.0.2\", advbase = -1 }]",
            "advbase: is to be a number of 0 to 255, or the smallest and the largest",
        ),
        (
            "[{ source = \"10.0.0.2\", advskew = \"low\" }]",
            "advskew: is to be a number of 0 to 254, or the smallest and the largest",
        ),
        ("[{ source = \"10.0.0.2\", demote = 256 }]", "demote: 256 is not in 0 to 255"),
    ] {
        assert_eq!(keys.mistakes(&format!("peer_policy = {policy}\n")), [expected], "{policy}");
    }
}

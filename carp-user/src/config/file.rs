//! The configuration file: any number of virtual hosts. Every mistake in it is told at once, each with its place.
//!
//! ```toml
//! [defaults]                      # for all virtual hosts that do not say otherwise
//! interface = "eth0"
//! passphrase_file = "/etc/carp/passphrase"
//!
//! [[virtual_host]]
//! vhid = 1
//! addresses = ["192.0.2.1/24"]
//!
//! [[virtual_host]]
//! vhid = 2
//! addresses = ["192.0.2.2/24"]
//! advskew = 100
//! ```

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod reader;

use std::{
    collections::HashSet,
    env, fmt,
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use thiserror::Error;
use toml::de::{DeTable, Error as SyntaxError};
use zeroize::Zeroizing;

use self::reader::{Notes, Reader};
use super::Settings;

/// Where it is unless another is named.
pub(crate) const DEFAULT: &str = "/etc/carp/carpd.toml";
/// Far more than 1,024 virtual hosts take.
const MAX_BYTES: u64 = 1 << 20;
/// Mistakes that are told; of more than these, how many.
const TOLD: usize = 20;
/// Where systemd puts what LoadCredential= names.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What is wrong with a configuration file.
#[derive(Debug, Error)]
pub(crate) struct Mistakes {
    path: PathBuf,
    /// The first, in the order of the file.
    first: Vec<Mistake>,
    /// How many there are besides.
    more: usize,
}

/// Something wrong, and where: line and column, from 1.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    line: usize,
    column: usize,
    what: String,
}

impl Mistake {
    fn told(&self, path: &Path) -> String {
        format!("{}:{}:{}: {}", path.display(), self.line, self.column, self.what)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.first.iter().map(|mistake| mistake.told(&self.path)).collect();
        if self.more > 0 {
            lines.push(format!("{}: and {} more mistakes", self.path.display(), self.more));
        }
        f.write_str(&lines.join("\n"))
    }
}

/// What stands in a file.
#[derive(Default)]
pub(crate) struct Configuration {
    /// The virtual hosts.
    pub(crate) hosts: Vec<Settings>,
    /// Whether to run in real time.
    pub(crate) realtime: bool,
    /// Where what outlives the process is to be pinned.
    pub(crate) bpffs: Option<PathBuf>,
    /// What may be wrong, for the administrator.
    pub(crate) warnings: Vec<String>,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or [`Mistakes`].
pub(crate) fn read(path: &Path) -> Result<Configuration> {
    read_with(path, Credentials::None)
}

/// Reads a file only to check it, outside of carpd's unit, too: not all virtual hosts have their real passphrases then.
///
/// # Errors
/// As with [`read`].
pub(crate) fn check(path: &Path) -> Result<Configuration> {
    read_with(path, Credentials::Unknown)
}

fn read_with(path: &Path, without_credentials: Credentials<'_>) -> Result<Configuration> {
    let cannot_read = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let is_public = is_public(&file.metadata().with_context(cannot_read)?);
    // Wiped when dropped, and never moved. What the toml crate copies of it is not wiped: a passphrase that is written
    // with escapes, and all of the text when something in it is no TOML.
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize + 1));
    file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(cannot_read)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "{}: larger than {MAX_BYTES} bytes: no configuration", path.display());
    let credentials = env::var_os(CREDENTIALS).map(PathBuf::from);
    let surroundings = Surroundings {
        is_public,
        folder: path.parent().unwrap_or(path),
        credentials: credentials.as_deref().map_or(without_credentials, Credentials::In),
    };
    Ok(parse(path, &text, &surroundings)?)
}

/// Whether everybody can read, write or run a file.
fn is_public(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o007 != 0
}

/// What counts beside the text.
struct Surroundings<'a> {
    /// Whether everybody can read the file.
    is_public: bool,
    /// The folder of the file, where relative paths in it begin.
    folder: &'a Path,
    /// What systemd's LoadCredential= has loaded.
    credentials: Credentials<'a>,
}

/// What systemd has loaded for carpd.
#[derive(Clone, Copy)]
enum Credentials<'a> {
    /// In this folder.
    In(&'a Path),
    /// Nothing.
    None,
    /// Something perhaps: this is not carpd's unit.
    Unknown,
}

fn parse(path: &Path, text: &str, surroundings: &Surroundings<'_>) -> Result<Configuration, Mistakes> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::new(surroundings, !errors.is_empty());
    let configuration = reader.file(root.get_ref());
    let [mut mistakes, warnings] = reader.notes();
    add_errors(&mut mistakes, text, &errors);
    if mistakes.is_empty() {
        let warning = |(at, what)| mistake(text, at, format!("warning: {what}")).told(path);
        return Ok(Configuration { warnings: warnings.into_iter().map(warning).collect(), ..configuration });
    }
    let more = mistakes.len().saturating_sub(TOLD);
    let first = mistakes.into_iter().take(TOLD).map(|(at, what)| mistake(text, at, what)).collect();
    Err(Mistakes { path: path.to_owned(), first, more })
}

/// Adds what is no TOML. What else seems wrong in such a line is left out, for who knows what it was to be.
fn add_errors(mistakes: &mut Notes, text: &str, errors: &[SyntaxError]) {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |at: usize| ends.partition_point(|end| *end < at);
    let errors = errors.iter().map(|error| (error.span().unwrap_or_default().start, error.message().to_owned()));
    let errors: Notes = errors.collect();
    let broken: HashSet<usize> = errors.iter().map(|(at, _)| line(*at)).collect();
    mistakes.retain(|(at, _)| !broken.contains(&line(*at)));
    mistakes.extend(errors);
}

fn mistake(text: &str, at: usize, what: String) -> Mistake {
    let before = text.get(..at).unwrap_or(text);
    let line_at = before.rfind('\n').map_or(0, |newline| newline + 1);
    Mistake { line: before.matches('\n').count() + 1, column: before[line_at..].chars().count() + 1, what }
}

#[cfg(test)]
mod tests;

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

mod reader;

use std::{
    env, fmt,
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use thiserror::Error;
use toml::de::DeTable;

use self::reader::Reader;
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

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (number, Mistake { line, column, what }) in self.first.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{path}:{line}:{column}: {what}")?;
        }
        if self.more > 0 { write!(f, "\n{path}: and {} more mistakes", self.more) } else { Ok(()) }
    }
}

/// Reads the virtual hosts of a file.
///
/// # Errors
/// The file cannot be read, or [`Mistakes`].
pub(crate) fn read(path: &Path) -> Result<Vec<Settings>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let is_public = is_public(&file.metadata().with_context(cannot_read)?);
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(cannot_read)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "{}: larger than {MAX_BYTES} bytes: no configuration", path.display());
    let credentials = env::var_os(CREDENTIALS).map(PathBuf::from);
    let surroundings = Surroundings { is_public, credentials: credentials.as_deref() };
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
    /// The folder of systemd's credentials.
    credentials: Option<&'a Path>,
}

fn parse(path: &Path, text: &str, surroundings: &Surroundings<'_>) -> Result<Vec<Settings>, Mistakes> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::new(surroundings);
    for error in errors {
        reader.note(error.span().unwrap_or_default(), error.message());
    }
    let hosts = reader.file(root.get_ref());
    let mistakes = reader.mistakes();
    if mistakes.is_empty() {
        return Ok(hosts);
    }
    let more = mistakes.len().saturating_sub(TOLD);
    let first = mistakes.into_iter().take(TOLD).map(|(at, what)| mistake(text, at, what)).collect();
    Err(Mistakes { path: path.to_owned(), first, more })
}

fn mistake(text: &str, at: usize, what: String) -> Mistake {
    let before = text.get(..at).unwrap_or(text);
    let line_at = before.rfind('\n').map_or(0, |newline| newline + 1);
    Mistake { line: before.matches('\n').count() + 1, column: before[line_at..].chars().count() + 1, what }
}

#[cfg(test)]
mod tests;

//! Figures: their spread, tables of them, and the one document that all benchmarks write into.

use std::{
    fmt::{self, Display},
    fs, io, panic,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::usage::MachineTime;
use crate::{agent::carpd_path, netns::output_of, tools::tool};

/// The document that all benchmarks write into, each its part.
const DOCUMENT: &str = "bench.json";

/// What every benchmark takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The short form for CI: few repetitions, short floods
    #[arg(long)]
    pub short: bool,
    /// Where bench.json and the plots go
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    pub out: PathBuf,
    /// Begin bench.json anew: no part of it stays
    #[arg(long)]
    fresh: bool,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The one value or, in the short form, the other.
    pub fn or_short<T>(&self, long: T, short: T) -> T {
        if self.short { short } else { long }
    }

    /// Begins a benchmark's part of the document.
    pub fn report(&self, name: &'static str) -> Result<Report> {
        fs::create_dir_all(&self.out).with_context(|| format!("creating {}", self.out.display()))?;
        if self.fresh {
            remove(&self.out.join(DOCUMENT))?;
        }
        let (begun, machine_time) = (Instant::now(), MachineTime::now()?);
        Ok(Report { name, folder: self.out.clone(), short: self.short, begun, machine_time })
    }
}

/// Where a benchmark's figures and plots go.
pub struct Report {
    name: &'static str,
    folder: PathBuf,
    short: bool,
    begun: Instant,
    machine_time: MachineTime,
}

impl Report {
    /// A file of this name for a plot.
    pub fn plot(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("svg")
    }

    /// Puts the part into the document, whose other parts stay if they are of the same machine and programs. Tells how much of
    /// the machine others had meanwhile.
    pub fn write(self, settings: impl Serialize, figures: impl Serialize) -> Result<()> {
        let path = self.folder.join(DOCUMENT);
        let machine = machine()?;
        let mut parts = parts_of(&path, &machine);
        let stolen = MachineTime::now()?.stolen_since(self.machine_time);
        println!("\nOf the CPU time that was wanted meanwhile, the machine's host gave {stolen:.1} % to others.");
        let part = json!({
            "at": Timestamp::now().to_string(),
            "took_seconds": self.begun.elapsed().as_secs(),
            "stolen_percent": stolen,
            "short": self.short,
            "settings": settings,
            "figures": figures,
        });
        parts.insert(self.name.to_owned(), part);
        let text = serde_json::to_string_pretty(&json!({ "machine": machine, "parts": parts }))?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn parts_of(document: &Path, machine: &Value) -> Map<String, Value> {
    let read = || {
        let mut document: Value = serde_json::from_slice(&fs::read(document).ok()?).ok()?;
        let Value::Object(parts) = document["parts"].take() else { return None };
        (document["machine"] == *machine).then_some(parts)
    };
    read().unwrap_or_default()
}

/// What the figures depend on.
fn machine() -> Result<Value> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let line = |text: &str, name: &str| {
        let found = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once([':', '=']));
        found.map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    let version = |name: &str| {
        let path = if name == "carpd" { carpd_path() } else { tool(name) }.ok()?;
        // ucarp knows no such option, and says its version with its help.
        let option = if name == "ucarp" { "--help" } else { "--version" };
        let output = Command::new(path).arg(option).output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
        text.split("\n\n").next().map(|first| first.replace('\n', ", "))
    };
    Ok(json!({
        "cpu": line(&read("/proc/cpuinfo")?, "model name"),
        "cpus": thread::available_parallelism()?.get(),
        "memory": line(&read("/proc/meminfo")?, "MemTotal"),
        "virtual_machine": output_of(Command::new("systemd-detect-virt").arg("--vm")).ok().map(|text| text.trim().to_owned()),
        "kernel": read("/proc/sys/kernel/osrelease")?.trim(),
        "distribution": line(&read("/etc/os-release")?, "PRETTY_NAME"),
        "carpd": version("carpd"),
        "carpd_sha256": carpd_path().ok().map(|path| sha256(&path)).transpose()?,
        "ucarp": version("ucarp"),
        "keepalived": version("keepalived"),
    }))
}

/// What tells one build from another.
fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What several measurements of the same have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct Spread {
    pub count: usize,
    pub min: f64,
    pub median: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// The spread of these, which are sorted; `None` if there are none.
pub fn spread(sorted: &[f64]) -> Option<Spread> {
    let last = sorted.len().checked_sub(1)?;
    let at = |part: f64| sorted[(last as f64 * part).round() as usize];
    Some(Spread {
        count: sorted.len(),
        min: at(0.0),
        median: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        p99_9: at(0.999),
        max: at(1.0),
    })
}

/// Sorts measurements.
pub fn sort(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// A span in milliseconds.
pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// A table in Markdown, its columns aligned.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With these headings.
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&cell| cell.to_owned()).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.0[0].len())
            .map(|column| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3))
            .collect();
        let line = |f: &mut fmt::Formatter<'_>, row: &[String]| {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")
        };
        line(f, &self.0[0])?;
        let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        line(f, &rule)?;
        self.0[1..].iter().try_for_each(|row| line(f, row))
    }
}

/// What a figure is to be.
pub struct Goal {
    what: String,
    measured: f64,
    at_most: f64,
}

impl Goal {
    /// No more than this.
    pub fn at_most(what: &str, measured: f64, at_most: f64) -> Self {
        Self { what: what.to_owned(), measured, at_most }
    }

    /// Which of them are reached.
    pub fn table(goals: &[Self]) -> Table {
        let mut table = Table::new(&["carpd's goals", "at most", "measured", ""]);
        for Self { what, measured, at_most } in goals {
            let reached = if measured <= at_most { "reached" } else { "missed" };
            table.row(vec![what.clone(), round(*at_most), round(*measured), reached.to_owned()]);
        }
        table
    }
}

/// No more digits than it needs.
fn round(value: f64) -> String {
    ((value * 100.0).round() / 100.0).to_string()
}

/// Does so many things at a time; what became of each, in their order.
pub fn side_by_side<T: Sync, R: Send>(
    jobs: &[T],
    width: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let mut done = vec![];
    for group in jobs.chunks(width) {
        let results: Vec<Result<R>> = thread::scope(|scope| {
            let threads: Vec<_> = group.iter().map(|job| scope.spawn(|| work(job))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
            };
            threads.into_iter().map(join).collect()
        });
        done.extend(results.into_iter().collect::<Result<Vec<_>>>()?);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn the_spread_of_many_and_of_none() {
        let many = spread(&sort((0..=1000).rev().map(f64::from).collect())).unwrap();
        let expected =
            Spread { count: 1001, min: 0.0, median: 500.0, p95: 950.0, p99: 990.0, p99_9: 999.0, max: 1000.0 };
        assert_eq!(many, expected);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["what", "n"]);
        table.row(vec!["a".to_owned(), "1,000".to_owned()]);
        assert_eq!(table.to_string(), "| what | n     |\n| ---- | ----- |\n| a    | 1,000 |\n");
    }

    #[test]
    fn parts_of_another_machine_go() {
        let folder = Folder::new("figures").unwrap();
        let document = folder.path().join(DOCUMENT);
        let (one, other) = (json!({ "cpu": "one" }), json!({ "cpu": "other" }));
        assert!(parts_of(&document, &one).is_empty());
        fs::write(&document, json!({ "machine": one, "parts": { "xdp": 1 } }).to_string()).unwrap();
        assert_eq!(parts_of(&document, &one).keys().collect::<Vec<_>>(), ["xdp"]);
        assert!(parts_of(&document, &other).is_empty());
    }

    #[test]
    fn a_document_is_begun_anew_also_where_there_is_none() {
        let folder = Folder::new("figures").unwrap();
        let document = folder.path().join(DOCUMENT);
        fs::write(&document, "{}").unwrap();
        remove(&document).unwrap();
        assert!(!document.exists());
        remove(&document).unwrap();
        // A folder is no file.
        remove(folder.path()).unwrap_err();
    }

    #[test]
    fn one_build_is_told_from_another() {
        let folder = Folder::new("figures").unwrap();
        let path = folder.path().join("carpd");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-4's example.
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn jobs_that_are_done_side_by_side_stay_in_order() {
        assert_eq!(side_by_side(&[1, 2, 3], 2, |number| Ok(number * 2)).unwrap(), [2, 4, 6]);
        side_by_side(&[1, 2], 2, |number| if *number == 2 { anyhow::bail!("two") } else { Ok(()) }).unwrap_err();
    }
}

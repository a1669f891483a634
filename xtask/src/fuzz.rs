//! `cargo xtask fuzz`

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::cache::Cache;
use xtask::{crates, process, workspace};

use crate::build::target_dir;
use crate::steps::step;

const CARGO_FUZZ: &str = "0.13.2";
/// Its folder in the cache.
const FOLDER: &str = "cargo-fuzz-0.13.2";

/// How often it is said how far a target has come.
const AGAIN: Duration = Duration::from_secs(60);
/// An input that takes longer, in seconds, is a finding.
const SLOWEST: u32 = 10;
/// So is one that takes more memory, in megabytes.
const LARGEST: u32 = 1024;
/// Longest input, in bytes.
const LONGEST: u32 = 8192;

/// Longest input that is kept, in bytes: hundreds of them are to stay small.
const KEPT: u64 = 256;

/// What `cargo xtask fuzz` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which targets of fuzz/fuzz_targets; all of them, unless given
    targets: Vec<String>,
    /// For how long each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// Add to fuzz/corpus what reaches code that nothing there does
    #[arg(long)]
    keep: bool,
}

/// Runs the targets one after the other, on one core, and says what came of it.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    let all = targets()?;
    let chosen = if options.targets.is_empty() { &all } else { &options.targets };
    if let Some(unknown) = chosen.iter().find(|target| !all.contains(target)) {
        bail!("there is no target {unknown}, but {}", all.join(", "));
    }
    let fuzzer = Fuzzer { program: find_or_fetch()?, target_dir: target_dir()?.join("fuzz") };
    step("the targets build", || process::run(&mut fuzzer.command("build"))).context(
        "without its targets there is no fuzzing: besides cargo, libFuzzer takes a C++ compiler (g++ or clang)",
    )?;
    let mut summary = vec![];
    let mut findings = vec![];
    for target in chosen {
        let run =
            step(&format!("fuzzing {target} for {} min", options.minutes), || fuzzer.fuzz(target, options.minutes))?;
        if options.keep {
            step(&format!("what is new for fuzz/corpus/{target}"), || fuzzer.keep(target))?;
        }
        summary.push(format!("{target:15}{}", run.told()));
        findings.extend(run.failed.then_some(target.as_str()));
    }
    summary.iter().for_each(|line| println!("{line}"));
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}: inputs that fail are in fuzz/artifacts; CONTRIBUTING.md says what then", findings.join(", "))
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let folder = workspace().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| {
        let path = entry?.path();
        let name = path.file_stem().context("a target without a name")?;
        Ok(name.to_string_lossy().into_owned())
    });
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn find_or_fetch() -> Result<PathBuf> {
    let folder = Cache::of_user()?.find_or_make(FOLDER, |folder| {
        eprintln!("carp: installing cargo-fuzz {CARGO_FUZZ} into the cache, in a minute");
        crates::install("cargo-fuzz", CARGO_FUZZ, folder)
    });
    let folder = folder.with_context(|| {
        format!(
            "cargo-fuzz runs the targets; `cargo install cargo-fuzz --locked --version {CARGO_FUZZ}` must be possible"
        )
    })?;
    Ok(folder.join("bin/cargo-fuzz"))
}

/// cargo-fuzz, and where it builds.
struct Fuzzer {
    program: PathBuf,
    target_dir: PathBuf,
}

/// What a run came to, in libFuzzer's words.
#[derive(Default)]
struct Run {
    /// Its last line about how far it has come: `#12 DONE cov: 3 ft: 4 corp: 5/6b lim: 7 exec/s: 8 rss: 9Mb`.
    status: String,
    failed: bool,
}

impl Run {
    /// Executions, what they reached, and whether there was a finding.
    fn told(&self) -> String {
        let words: Vec<&str> = self.status.split_whitespace().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name);
            at.and_then(|at| words.get(at + 1)).copied().unwrap_or("?")
        };
        let executions = words.first().map_or("?", |word| word.trim_start_matches('#'));
        let found = if self.failed { "A FINDING" } else { "no finding" };
        let (edges, features, inputs) = (after("cov:"), after("ft:"), after("corp:"));
        format!("{executions} executions, {edges} edges, {features} features, {inputs} inputs: {found}")
    }
}

/// Whether this line says how far a run has come: it begins with the number of executions.
fn is_status(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Tells how far cargo-fuzz has come with a target, until it has ended.
fn follow(child: &mut Child, target: &str) -> Result<Run> {
    let mut lines = BufReader::new(child.stderr.take().context("cargo-fuzz has no stderr")?);
    let mut run = Run::default();
    let mut told = Instant::now();
    let mut line = vec![];
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if !is_status(&text) {
            // Nor what libFuzzer would like to have as a dictionary.
            if !text.starts_with("######") && !text.contains(" # Uses: ") {
                eprintln!("{text}");
            }
            continue;
        }
        if told.elapsed() >= AGAIN {
            eprintln!("carp: {target}: {text}");
            told = Instant::now();
        }
        run.status = text;
    }
    run.failed = !child.wait().context("cannot wait for cargo-fuzz")?.success();
    Ok(run)
}

impl Fuzzer {
    fn fuzz(&self, target: &str, minutes: u32) -> Result<Run> {
        let [growing, committed] = self.corpora(target)?;
        let mut command = self.run(target, [&growing, &committed]);
        command.args([format!("-max_total_time={}", 60 * minutes), format!("-max_len={LONGEST}")]);
        command.args([format!("-timeout={SLOWEST}"), format!("-rss_limit_mb={LARGEST}")]);
        let mut child = command.stderr(Stdio::piped()).spawn().context("cannot run cargo-fuzz")?;
        follow(&mut child, target).inspect_err(|_| {
            // Nobody reads what it says any more. It may have ended already.
            child.kill().ok();
            child.wait().ok();
        })
    }

    /// Adds to the corpus, of what is short among what was found, as few inputs as reach all that these reach.
    fn keep(&self, target: &str) -> Result<()> {
        let [growing, committed] = self.corpora(target)?;
        let short = tempfile::tempdir().context("cannot create a folder")?;
        for entry in fs::read_dir(&growing).with_context(|| format!("cannot read {}", growing.display()))? {
            let entry = entry?;
            if entry.metadata()?.len() <= KEPT {
                fs::copy(entry.path(), short.path().join(entry.file_name()))?;
            }
        }
        // Not those that only go round a loop more often: thousands, which tell the tests nothing.
        let options = ["-merge=1", "-set_cover_merge=1", "-use_counters=0"];
        process::run(self.run(target, [&committed, short.path()]).args(options))
    }

    /// What was found so far, in cargo's target folder, and what is worth keeping of it.
    fn corpora(&self, target: &str) -> Result<[PathBuf; 2]> {
        let growing = self.target_dir.join("corpus").join(target);
        fs::create_dir_all(&growing).with_context(|| format!("cannot create {}", growing.display()))?;
        Ok([growing, Path::new("fuzz/corpus").join(target)])
    }

    /// Runs a target on these corpora, of which the first one grows; libFuzzer's options follow.
    fn run(&self, target: &str, corpora: [&Path; 2]) -> Command {
        let mut command = self.command("run");
        command.arg(target).args(corpora).arg("--");
        command
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = process::apart(Command::new(&self.program));
        // Without a sanitizer, a stable compiler will do; and there is next to no unsafe code in what is run.
        command.args([subcommand, "--sanitizer=none", "--target-dir"]).arg(&self.target_dir).current_dir(workspace());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_came_to_is_read_from_its_last_status() {
        let status = "#2779297\tDONE   cov: 457 ft: 550 corp: 142/7806b lim: 8192 exec/s: 67787 rss: 28Mb".to_owned();
        assert!(is_status(&status) && !is_status("###### Recommended dictionary. ######"));
        let told = Run { status, failed: false }.told();
        assert_eq!(told, "2779297 executions, 457 edges, 550 features, 142/7806b inputs: no finding");
        assert!(Run { status: String::new(), failed: true }.told().ends_with("A FINDING"));
    }

    #[test]
    fn the_targets_are_those_that_there_are_programs_of() {
        assert!(targets().unwrap().contains(&"wire".to_owned()));
    }
}

//! docs/claims.md says which tests and benchmarks show what the README promises: they are there.

#![forbid(unsafe_code)]

use std::fs;

/// From the workspace's folder, as all files that it names.
const PAGE: &str = "docs/claims.md";

fn read(path: &str) -> String {
    fs::read_to_string(xtask::workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether a file has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    source.split_once(&format!("fn {name}(")).is_some_and(|(before, _)| {
        let before = before.trim_end();
        before.strip_suffix("async").unwrap_or(before).trim_end().ends_with("test]")
    })
}

#[test]
fn every_test_and_every_benchmark_that_the_page_names_is_there() {
    let page = read(PAGE);
    // Below each claim a list: files with their tests, and commands.
    let shown_by = page.lines().filter(|line| line.starts_with("  - ") || line.starts_with("    "));
    let (mut file, mut source, mut tests) = ("", String::new(), 0);
    for word in shown_by.flat_map(|line| line.split('`').skip(1).step_by(2)) {
        if let Some(command) = word.strip_prefix("cargo xtask ") {
            read(&format!("tests/benches/{}.rs", command.trim_start_matches("bench ")));
        } else if word.ends_with(".rs") {
            (file, source) = (word, read(word));
        } else {
            assert!(has_test(&source, word), "{PAGE}: {file} has no test {word}");
            tests += 1;
        }
    }
    assert!(tests > 100, "{tests} tests are not all that the page names");
}

//! `cargo xtask mutants`: puts small faults into a crate one at a time (cargo-mutants) and counts those that its tests, its models or the
//! tests of whole clients find.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::loom;
use crate::machine::{self, Stopwatch};
use crate::out;

/// The crates that are mutated, the core of the limits first.
const PACKAGES: [&str; 7] = [
    "tinkers-limits",
    "tinkers-dispatch",
    "tinkers-futures",
    "tinkers-registry",
    "tinkers-session",
    "tinkers-sampling",
    "tinkers-training",
];

/// The crates of which a score below [`TARGET`] is a failure.
const HELD: [&str; 4] = [
    "tinkers-limits",
    "tinkers-dispatch",
    "tinkers-futures",
    "tinkers-registry",
];
/// Per cent.
const TARGET: f64 = 95.0;

/// The crates whose own tests drive too little of them: tests of whole clients count, too.
const WITH_CLIENTS: [&str; 3] = ["tinkers-session", "tinkers-sampling", "tinkers-training"];

/// The version that is installed where there is none.
const VERSION: &str = "27.1.0";

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    packages: Vec<String>,
    /// `k/n`, as cargo-mutants takes it.
    shard: Option<String>,
    changed: bool,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--changed" => options.changed = true,
                "--shard" => {
                    let shard = rest.next().ok_or("--shard needs a part, such as 0/4")?;
                    options.shard = Some(shard.clone());
                }
                name if PACKAGES.contains(&name) => options.packages.push(name.to_owned()),
                other => {
                    return Err(format!(
                        "`{other}` is no option and no crate that is mutated; expected --shard k/n, --changed or one of {}",
                        PACKAGES.join(", ")
                    ));
                }
            }
        }
        if options.packages.is_empty() {
            options.packages = PACKAGES.map(str::to_owned).to_vec();
        }
        Ok(options)
    }
}

/// How the mutants of one crate fared.
#[derive(Debug, Default, PartialEq, Eq)]
struct Score {
    by_tests: usize,
    by_models: usize,
    timed_out: usize,
    survivors: Vec<String>,
}

impl Score {
    fn found(&self) -> usize {
        self.by_tests + self.by_models + self.timed_out
    }

    /// Per cent of the mutants that compile; 100 where there are none.
    fn percent(&self) -> f64 {
        let all = self.found() + self.survivors.len();
        if all == 0 {
            return 100.0;
        }
        self.found() as f64 / all as f64 * 100.0
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::read(arguments)?;
    install()?;
    let directory = machine::root().join("target/mutants");
    std::fs::create_dir_all(&directory)
        .map_err(|cause| format!("cannot create {}: {cause}", directory.display()))?;
    let diff = match options.changed {
        true => Some(changes(&directory)?),
        false => None,
    };
    let mut low = Vec::new();
    for package in &options.packages {
        let began = Stopwatch::start();
        let score = measure(package, &options, diff.as_deref(), &directory.join(package))?;
        out::line(&format!(
            "{package:<18} {:>5.1} %  {} found by tests, {} by models alone, {} ran out of time, {} survived; {:.0} s",
            score.percent(),
            score.by_tests,
            score.by_models,
            score.timed_out,
            score.survivors.len(),
            began.seconds()
        ));
        for survivor in &score.survivors {
            out::line(&format!("    survived: {survivor}"));
        }
        if HELD.contains(&package.as_str()) && score.percent() < TARGET {
            low.push(package.as_str());
        }
    }
    if low.is_empty() {
        return Ok(());
    }
    Err(format!("below {TARGET} %: {}", low.join(", ")))
}

/// Runs the mutants of one crate over its tests, and those that survive over its models.
fn measure(
    package: &str,
    options: &Options,
    diff: Option<&Path>,
    output: &Path,
) -> Result<Score, String> {
    let mut call = mutants(package, output, "tests");
    if let Some(shard) = &options.shard {
        call.args(["--shard", shard]);
    }
    if let Some(diff) = diff {
        call.arg("--in-diff").arg(diff);
    }
    if WITH_CLIENTS.contains(&package) {
        call.args(["--test-package", &format!("{package},tinkers-e2e")]);
    }
    let run = Run::finish(call, &output.join("tests"))?;
    let mut score = Score {
        by_tests: run.lines("caught")?.len(),
        by_models: 0,
        timed_out: run.lines("timeout")?.len(),
        survivors: run.lines("missed")?,
    };
    let targets = loom::targets_of(package)?;
    if score.survivors.is_empty() || targets.is_empty() {
        return Ok(score);
    }
    let mut call = mutants(package, output, "models");
    call.env("RUSTFLAGS", "--cfg tinkers_loom")
        .env("LOOM_MAX_PREEMPTIONS", "2");
    for survivor in &score.survivors {
        call.args(["--re", &exactly(survivor)]);
    }
    call.args(["--timeout", "300", "--", "--release"]);
    call.args(loom::selection(&targets));
    let run = Run::finish(call, &output.join("models"))?;
    let missed = run.lines("missed")?;
    score.by_models = score.survivors.len() - missed.len();
    score.survivors = missed;
    Ok(score)
}

fn mutants(package: &str, output: &Path, pass: &str) -> std::process::Command {
    let mut call = machine::cargo(&["mutants", "--package", package, "--no-shuffle"]);
    call.args(["--colors", "never", "--annotations", "none"]);
    call.arg("--output").arg(output.join(pass));
    call
}

/// What a finished run of cargo-mutants left behind.
struct Run(PathBuf);

impl Run {
    fn finish(mut call: std::process::Command, output: &Path) -> Result<Self, String> {
        let status = call
            .status()
            .map_err(|cause| format!("cargo mutants could not be started: {cause}"))?;
        // 2: some survived; 3: some ran out of time. Both are results.
        match status.code() {
            Some(0 | 2 | 3) => Ok(Self(output.join("mutants.out"))),
            _ => Err(format!("cargo mutants ended with {status}")),
        }
    }

    /// The names in one of its lists.
    fn lines(&self, list: &str) -> Result<Vec<String>, String> {
        let path = self.0.join(format!("{list}.txt"));
        let text = std::fs::read_to_string(&path)
            .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// A pattern that the name of one mutant alone matches. Its line may stand elsewhere by then, but within one run it does not.
fn exactly(name: &str) -> String {
    let mut pattern = String::from("^");
    for letter in name.chars() {
        // What else is punctuation stands for itself, and some of it would not with a backslash.
        if r"\.+*?()|[]{}^$".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('$');
    pattern
}

/// The changes since the last tag or, without one, since the commit before, as a file.
fn changes(directory: &Path) -> Result<PathBuf, String> {
    let base = machine::variable("MUTANTS_BASE").unwrap_or_else(|| "HEAD~1".to_owned());
    let output = std::process::Command::new("git")
        .args(["diff", &base])
        .current_dir(machine::root())
        .output()
        .map_err(|cause| format!("git could not be started: {cause}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git diff {base} failed: {}", said.trim()));
    }
    let path = directory.join("changes.diff");
    std::fs::write(&path, output.stdout)
        .map_err(|cause| format!("cannot write {}: {cause}", path.display()))?;
    Ok(path)
}

fn install() -> Result<(), String> {
    let has_it = machine::cargo(&["mutants", "--version"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_it {
        return Ok(());
    }
    let mut package = String::from("cargo-mutants@");
    let _written = write!(package, "{VERSION}");
    let status = machine::cargo(&["install", "--quiet", "--locked", &package])
        .status()
        .map_err(|cause| format!("cargo could not be started: {cause}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{package} cannot be installed here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Options, String> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        Options::read(&arguments)
    }

    #[test]
    fn all_crates_are_mutated_unless_some_are_named() {
        assert_eq!(read(&[]).unwrap().packages, PACKAGES);
        let options = read(&["tinkers-limits", "--shard", "1/4", "--changed"]).unwrap();
        assert_eq!(options.packages, ["tinkers-limits"]);
        assert_eq!(options.shard.as_deref(), Some("1/4"));
        assert!(options.changed);
        assert!(read(&["--shard"]).unwrap_err().contains("0/4"));
        assert!(
            read(&["tinkers-wire"])
                .unwrap_err()
                .contains("tinkers-wire")
        );
    }

    #[test]
    fn score_counts_what_compiles() {
        let mut score = Score {
            by_tests: 90,
            by_models: 5,
            timed_out: 1,
            survivors: vec!["a".to_owned(); 4],
        };
        assert_eq!(score.percent(), 96.0);
        score.survivors.clear();
        assert_eq!(score.percent(), 100.0);
        assert_eq!(Score::default().percent(), 100.0);
    }

    #[test]
    fn names_become_patterns_that_match_themselves() {
        let name = "src/gate.rs:12:5: replace < with == in Gate::enter -> Option(u8)";
        assert_eq!(
            exactly(name),
            r"^src/gate\.rs:12:5: replace < with == in Gate::enter -> Option\(u8\)$"
        );
    }
}

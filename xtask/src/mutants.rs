//! `cargo xtask mutants`: mutation testing with cargo-mutants. Counts the mutants that are caught
//! by unit tests, by loom models, and by the tests of whole clients.

mod copy;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{self, Stopwatch};
use crate::loom;
use crate::{out, tools};

/// The crates whose code is mutated.
const PACKAGES: [&str; 7] = [
    "tinkers-limits",
    "tinkers-dispatch",
    "tinkers-futures",
    "tinkers-registry",
    "tinkers-session",
    "tinkers-sampling",
    "tinkers-training",
];

/// The crates for which the command fails if the tests catch less than [`TARGET_PERCENT`] of the
/// mutants.
const ENFORCED: [&str; 4] = [
    "tinkers-limits",
    "tinkers-dispatch",
    "tinkers-futures",
    "tinkers-registry",
];
/// The minimum percentage of mutants that tests must catch.
const TARGET_PERCENT: f64 = 95.0;

/// The crates whose surviving mutants are also tested with the end-to-end tests of the package
/// `tinkers-e2e`.
const WITH_CLIENTS: [&str; 3] = ["tinkers-session", "tinkers-sampling", "tinkers-training"];

/// The version of cargo-mutants to install if it is not installed.
const VERSION: &str = "27.1.0";

/// The test targets that are slow to build or to run, each with its crate. They run only on mutants
/// that all other tests have missed.
const SLOW: [(&str, &str); 6] = [
    ("tinkers-dispatch", "threads"),
    ("tinkers-futures", "outcomes"),
    ("tinkers-limits", "conservation"),
    ("tinkers-limits", "contention"),
    ("tinkers-limits", "reference"),
    ("tinkers-registry", "stress"),
];

/// The test targets that never run on mutants, each with its crate, because they take minutes in a
/// debug build.
const SKIPPED: [(&str, &str); 1] = [("tinkers-limits", "goodput")];

/// The time limit of the quick tests of a mutant, in seconds. A mutant that exceeds it counts as
/// caught.
const TEST_SECONDS: &str = "30";
/// The time limit of the tests of whole clients on one mutant, in seconds. They take about 20 s.
const CLIENT_SECONDS: &str = "120";
/// The time limit of the slow tests and of the loom models of a mutant, in seconds.
const SLOW_SECONDS: &str = "600";
/// The value of `LOOM_MAX_PREEMPTIONS` with which the loom models of a mutant run. Two preemptions
/// reveal nearly all bugs, and each further preemption multiplies the run time.
const MAX_PREEMPTIONS: &str = "2";

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    packages: Vec<String>,
    /// The part of the mutants to test (`--shard`), in the form `k/n` that cargo-mutants expects.
    shard: Option<String>,
    changed: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
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

/// The results of mutation testing for one crate: the numbers of caught mutants, and the names of
/// the surviving mutants, which no test has caught.
#[derive(Debug, Default, PartialEq, Eq)]
struct Score {
    caught_by_tests: usize,
    caught_by_models: usize,
    timed_out: usize,
    survivors: Vec<String>,
}

impl Score {
    /// Runs a cargo-mutants command on the surviving mutants only. Removes the mutants that the
    /// command catches or that time out from the survivors, and returns the number of removed
    /// mutants.
    fn retain_survivors(&mut self, mut command: Command, output: &Path) -> Result<usize, String> {
        for survivor in &self.survivors {
            command.args(["--re", &exact_pattern(survivor)]);
        }
        let results = MutantsOutput::run(command, output)?;
        let caught = [results.lines("caught")?, results.lines("timeout")?].concat();
        self.survivors.retain(|survivor| !caught.contains(survivor));
        Ok(caught.len())
    }

    fn caught(&self) -> usize {
        self.caught_by_tests + self.caught_by_models + self.timed_out
    }

    /// Returns the percentage of mutants that were caught. Returns 100 if there are no mutants.
    fn percent(&self) -> f64 {
        let all = self.caught() + self.survivors.len();
        if all == 0 {
            return 100.0;
        }
        self.caught() as f64 / all as f64 * 100.0
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let directory = environment::root().join("target/mutants");
    std::fs::create_dir_all(&directory)
        .map_err(|cause| format!("cannot create {}: {cause}", directory.display()))?;
    let diff = match options.changed {
        true => Some(write_diff(&directory)?),
        false => None,
    };
    let mut low = Vec::new();
    for package in &options.packages {
        let watch = Stopwatch::start();
        let score = measure(package, &options, diff.as_deref(), &directory)?;
        out::line(&format!(
            "{package:<18} {:>5.1} %  {} caught by tests, {} only by models, {} timed out, {} survived; {:.0} s",
            score.percent(),
            score.caught_by_tests,
            score.caught_by_models,
            score.timed_out,
            score.survivors.len(),
            watch.seconds()
        ));
        for survivor in &score.survivors {
            out::line(&format!("    survived: {survivor}"));
        }
        if ENFORCED.contains(&package.as_str()) && score.percent() < TARGET_PERCENT {
            low.push(package.as_str());
        }
    }
    if low.is_empty() {
        return Ok(());
    }
    Err(format!("below {TARGET_PERCENT} %: {}", low.join(", ")))
}

/// Runs the quick tests of a crate on its mutants. Then runs the slow tests, the tests of whole
/// clients and the loom models, each on the mutants that have survived all tests before.
fn measure(
    package: &str,
    options: &Options,
    diff: Option<&Path>,
    directory: &Path,
) -> Result<Score, String> {
    let output = directory.join(package);
    // All runs use the same copy, because surviving mutants are identified by their line numbers.
    copy::refresh(&environment::root(), &directory.join("tree"))?;
    let Targets { quick, slow, loom } = Targets::of(package)?;
    let mut command = mutants_command(package, directory, &output.join("tests"))?;
    // Doctests and examples are not run. They take longer than all other tests, and catch hardly
    // any mutants.
    command.args(["--all-features", "--cargo-arg=--lib"]);
    command.args(["--timeout", TEST_SECONDS]).args(quick);
    // Builds take most of the time.
    command.arg(format!(
        "--cargo-arg=--config=profile.dev.package.{package}.opt-level=0"
    ));
    if let Some(shard) = &options.shard {
        command.args(["--sharding", "round-robin", "--shard", shard]);
    }
    if let Some(diff) = diff {
        command.arg("--in-diff").arg(diff);
    }
    let results = MutantsOutput::run(command, &output.join("tests"))?;
    let mut score = Score {
        caught_by_tests: results.lines("caught")?.len(),
        caught_by_models: 0,
        timed_out: results.lines("timeout")?.len(),
        survivors: results.lines("missed")?,
    };
    if !score.survivors.is_empty() && !slow.is_empty() {
        let mut command = mutants_command(package, directory, &output.join("slow"))?;
        command
            .args(["--all-features", "--timeout", SLOW_SECONDS])
            .args(slow);
        score.caught_by_tests += score.retain_survivors(command, &output.join("slow"))?;
    }
    if !score.survivors.is_empty() && WITH_CLIENTS.contains(&package) {
        let mut command = mutants_command(package, directory, &output.join("clients"))?;
        command
            .args(["--timeout", CLIENT_SECONDS, "--cargo-arg=--tests"])
            .args(["--test-package", "tinkers-e2e"]);
        score.caught_by_tests += score.retain_survivors(command, &output.join("clients"))?;
    }
    if !score.survivors.is_empty() && !loom.is_empty() {
        let mut command = mutants_command(package, directory, &output.join("models"))?;
        command
            .env("RUSTFLAGS", "--cfg tinkers_loom")
            .env("CARGO_TARGET_DIR", directory.join("build-loom"))
            .env("LOOM_MAX_PREEMPTIONS", MAX_PREEMPTIONS)
            .args(["--timeout", SLOW_SECONDS, "--cargo-arg=--release"])
            .args(loom);
        score.caught_by_models = score.retain_survivors(command, &output.join("models"))?;
    }
    Ok(score)
}

/// The test targets to run on the mutants of a crate, as options of cargo-mutants. The quick
/// targets run first, then the slow targets, then the loom models.
#[derive(Debug, Default)]
struct Targets {
    quick: Vec<String>,
    slow: Vec<String>,
    loom: Vec<String>,
}

impl Targets {
    fn of(package: &str) -> Result<Self, String> {
        let models = loom::targets_of(package)?;
        let directory = environment::root()
            .join("crates")
            .join(package)
            .join("tests");
        let mut targets = Self::default();
        // The directory does not have to exist.
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".rs") else {
                continue;
            };
            if SKIPPED.contains(&(package, name)) {
                continue;
            }
            let kind = if models.iter().any(|model| model == name) {
                &mut targets.loom
            } else if SLOW.contains(&(package, name)) {
                &mut targets.slow
            } else {
                &mut targets.quick
            };
            kind.push(format!("--cargo-arg=--test={name}"));
        }
        if models.iter().any(|model| model == loom::IN_LIBRARY) {
            let selected = ["--cargo-arg=--lib", "--", loom::IN_LIBRARY];
            targets.loom.extend(selected.map(str::to_owned));
        }
        Ok(targets)
    }
}

/// Returns the command that runs cargo-mutants on the copy of the repository. Later runs use the
/// same copy and the same target directory.
fn mutants_command(package: &str, directory: &Path, output: &Path) -> Result<Command, String> {
    std::fs::create_dir_all(output)
        .map_err(|cause| format!("cannot create {}: {cause}", output.display()))?;
    let mut command = Command::new(tools::installed("cargo-mutants", VERSION)?);
    command
        .args(["mutants", "--package", package, "--no-shuffle"])
        .args(["--colors", "never", "--annotations", "none", "--no-times"])
        .args(["--exclude", "**/*_tests.rs", "--exclude", "**/tests.rs"])
        // The cells that replace arc-swap in loom models are not code of the crate.
        .args(["--exclude-re", "loom_cells::"])
        // Debug output that nothing depends on. The crates that hide secrets in it are not mutated.
        .args(["--exclude-re", "impl .*Debug for"])
        .args(["--exclude-re", "tests::"])
        // The first build includes all dependencies of the tests.
        .args(["--build-timeout", "1800"])
        .arg("--in-place")
        .arg("--dir")
        .arg(directory.join("tree"))
        .arg("--output")
        .arg(output)
        .env("CARGO_TARGET_DIR", directory.join("build"))
        // A case that failed for one mutant must not be replayed for the next.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
        .stdin(std::process::Stdio::null());
    Ok(command)
}

/// The output directory of cargo-mutants, which lists the mutants by their result.
struct MutantsOutput(PathBuf);

impl MutantsOutput {
    fn run(mut command: Command, output: &Path) -> Result<Self, String> {
        let status = command
            .status()
            .map_err(|cause| format!("cannot run cargo mutants: {cause}"))?;
        // The status 2 means that mutants survived, and 3 that mutants timed out.
        match status.code() {
            Some(0 | 2 | 3) => Ok(Self(output.join("mutants.out"))),
            _ => Err(format!("cargo mutants failed: {status}")),
        }
    }

    /// Returns the names of the mutants in one of the list files that cargo-mutants writes, such as
    /// `caught`.
    fn lines(&self, list: &str) -> Result<Vec<String>, String> {
        let path = self.0.join(format!("{list}.txt"));
        let text = std::fs::read_to_string(&path)
            .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Returns a regular expression that matches only the mutant with this name.
fn exact_pattern(name: &str) -> String {
    let mut pattern = String::from("^");
    for letter in name.chars() {
        // Other punctuation must not be escaped, because some escape sequences have a meaning.
        if r"\.+*?()|[]{}^$".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('$');
    pattern
}

/// Writes the changes since a base commit to a file, so that only changed code is mutated, and
/// returns the path of the file. The base commit is `MUTANTS_BASE`, or the previous commit by
/// default.
fn write_diff(directory: &Path) -> Result<PathBuf, String> {
    let base = environment::variable("MUTANTS_BASE").unwrap_or_else(|| "HEAD~1".to_owned());
    let output = std::process::Command::new("git")
        .args(["diff", &base])
        .current_dir(environment::root())
        .output()
        .map_err(|cause| format!("cannot run git: {cause}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git diff {base} failed: {}", stderr.trim()));
    }
    let path = directory.join("changes.diff");
    std::fs::write(&path, output.stdout)
        .map_err(|cause| format!("cannot write {}: {cause}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn mutation_testing_covers_all_crates_by_default() {
        assert_eq!(parse(&[]).unwrap().packages, PACKAGES);
        let options = parse(&["tinkers-limits", "--shard", "1/4", "--changed"]).unwrap();
        assert_eq!(options.packages, ["tinkers-limits"]);
        assert_eq!(options.shard.as_deref(), Some("1/4"));
        assert!(options.changed);
        assert!(parse(&["--shard"]).unwrap_err().contains("0/4"));
        assert!(
            parse(&["tinkers-wire"])
                .unwrap_err()
                .contains("tinkers-wire")
        );
    }

    #[test]
    fn mutation_score_is_the_percentage_of_caught_mutants() {
        let mut score = Score {
            caught_by_tests: 90,
            caught_by_models: 5,
            timed_out: 1,
            survivors: vec!["a".to_owned(); 4],
        };
        assert_eq!(score.percent(), 96.0);
        score.survivors.clear();
        assert_eq!(score.percent(), 100.0);
        assert_eq!(Score::default().percent(), 100.0);
    }

    #[test]
    fn mutant_name_pattern_escapes_special_characters() {
        let name = "src/gate.rs:12:5: replace < with == in Gate::enter -> Option(u8)";
        assert_eq!(
            exact_pattern(name),
            r"^src/gate\.rs:12:5: replace < with == in Gate::enter -> Option\(u8\)$"
        );
    }
}

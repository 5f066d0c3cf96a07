//! `cargo xtask mutants`: mutates a crate with cargo-mutants, one fault at a time, and counts the mutants that its tests, its loom models
//! or the tests of whole clients kill.

mod copy;

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Test targets that take long to build or to run: they run on the mutants that all other tests of the crate let live.
const SLOW: [(&str, &str); 6] = [
    ("tinkers-dispatch", "threads"),
    ("tinkers-futures", "outcomes"),
    ("tinkers-limits", "conservation"),
    ("tinkers-limits", "contention"),
    ("tinkers-limits", "reference"),
    ("tinkers-registry", "stress"),
];

/// Test targets that run on no mutant: simulated hours take minutes in a debug build.
const SKIPPED: [(&str, &str); 1] = [("tinkers-limits", "goodput")];

/// A mutant whose quick tests run for longer than this is killed: it loops or waits for ever.
const TEST_SECONDS: &str = "60";
/// The same for slow tests and loom models.
const SLOW_SECONDS: &str = "600";
/// Switches of threads that a model may force: nearly all faults show with two, and each more takes several times as long.
const PREEMPTIONS: &str = "2";

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
    /// Runs `call` on the survivors alone, and keeps those that it does not kill. Returns how many it killed.
    fn keep_survivors(&mut self, mut call: Command, output: &Path) -> Result<usize, String> {
        for survivor in &self.survivors {
            call.args(["--re", &exactly(survivor)]);
        }
        let run = Run::finish(call, output)?;
        let killed = [run.lines("caught")?, run.lines("timeout")?].concat();
        self.survivors.retain(|survivor| !killed.contains(survivor));
        Ok(killed.len())
    }

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
        let score = measure(package, &options, diff.as_deref(), &directory)?;
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

/// Runs the quick tests of one crate on each of its mutants, the slow ones on those that survive, and its loom models on the rest.
fn measure(
    package: &str,
    options: &Options,
    diff: Option<&Path>,
    directory: &Path,
) -> Result<Score, String> {
    let output = directory.join(package);
    // Once for all passes: a survivor is known by its line.
    copy::refresh(&machine::root(), &directory.join("tree"))?;
    let Targets { quick, slow, loom } = Targets::of(package)?;
    let mut call = mutants(package, directory, &output.join("tests"))?;
    // Doctests and examples are not built: they take longer than all other tests and find next to nothing more.
    call.args(["--all-features", "--cargo-arg=--lib"]);
    call.args(["--timeout", TEST_SECONDS]).args(quick);
    // Most of the time goes into building.
    call.arg(format!(
        "--cargo-arg=--config=profile.dev.package.{package}.opt-level=0"
    ));
    if let Some(shard) = &options.shard {
        call.args(["--sharding", "round-robin", "--shard", shard]);
    }
    if let Some(diff) = diff {
        call.arg("--in-diff").arg(diff);
    }
    if WITH_CLIENTS.contains(&package) {
        call.args(["--test-package", &format!("{package},tinkers-e2e")]);
        call.arg("--cargo-arg=--tests");
    }
    let run = Run::finish(call, &output.join("tests"))?;
    let mut score = Score {
        by_tests: run.lines("caught")?.len(),
        by_models: 0,
        timed_out: run.lines("timeout")?.len(),
        survivors: run.lines("missed")?,
    };
    if !score.survivors.is_empty() && !slow.is_empty() {
        let mut call = mutants(package, directory, &output.join("slow"))?;
        call.args(["--all-features", "--timeout", SLOW_SECONDS])
            .args(slow);
        score.by_tests += score.keep_survivors(call, &output.join("slow"))?;
    }
    if !score.survivors.is_empty() && !loom.is_empty() {
        let mut call = mutants(package, directory, &output.join("models"))?;
        call.env("RUSTFLAGS", "--cfg tinkers_loom")
            .env("CARGO_TARGET_DIR", directory.join("build-loom"))
            .env("LOOM_MAX_PREEMPTIONS", PREEMPTIONS)
            .args(["--timeout", SLOW_SECONDS, "--cargo-arg=--release"])
            .args(loom);
        score.by_models = score.keep_survivors(call, &output.join("models"))?;
    }
    Ok(score)
}

/// The test targets of a crate, as options of cargo-mutants.
#[derive(Debug, Default)]
struct Targets {
    quick: Vec<String>,
    slow: Vec<String>,
    loom: Vec<String>,
}

impl Targets {
    fn of(package: &str) -> Result<Self, String> {
        let models = loom::targets_of(package)?;
        let directory = machine::root().join("crates").join(package).join("tests");
        let mut targets = Self::default();
        // A crate may have no such directory.
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

/// A call of cargo-mutants on the copy of the repository. Both the copy and what is built of it stay, so a run builds no dependency
/// twice.
fn mutants(package: &str, directory: &Path, output: &Path) -> Result<Command, String> {
    std::fs::create_dir_all(output)
        .map_err(|cause| format!("cannot create {}: {cause}", output.display()))?;
    let mut call = Command::new(program());
    call.args(["mutants", "--package", package, "--no-shuffle"])
        .args(["--colors", "never", "--annotations", "none", "--no-times"])
        .args(["--exclude", "**/*_tests.rs", "--exclude", "**/tests.rs"])
        // What stands for arc-swap in the models is no code of the crate.
        .args(["--exclude-re", "modelled::"])
        .args(["--build-timeout", "600"])
        .arg("--in-place")
        .arg("--dir")
        .arg(directory.join("tree"))
        .arg("--output")
        .arg(output)
        .env("CARGO_TARGET_DIR", directory.join("build"))
        // Failed cases of an earlier mutant are no cases of the next one.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
        .stdin(std::process::Stdio::null());
    Ok(call)
}

/// What a finished run of cargo-mutants left behind.
struct Run(PathBuf);

impl Run {
    fn finish(mut call: Command, output: &Path) -> Result<Self, String> {
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

fn program() -> PathBuf {
    let name = format!("cargo-mutants{}", std::env::consts::EXE_SUFFIX);
    machine::root().join("target/tools/bin").join(name)
}

fn install() -> Result<(), String> {
    if program().exists() {
        return Ok(());
    }
    let package = format!("cargo-mutants@{VERSION}");
    let tools = machine::root().join("target/tools");
    let status = machine::cargo(&["install", "--quiet", "--locked", &package])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .status()
        .map_err(|cause| format!("cargo could not be started: {cause}"))?;
    if !status.success() {
        return Err(format!(
            "cannot install {package}: cargo ended with {status}"
        ));
    }
    // What it was built from takes more room than everything else in there.
    std::fs::remove_dir_all(tools.join("build"))
        .map_err(|cause| format!("cannot delete the build of {package}: {cause}"))
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

//! `cargo xtask loom`: runs the models of every crate that has some, in a target directory of their own.

use std::path::Path;
use std::process::Stdio;

use crate::machine::{self, Stopwatch};
use crate::metadata::{self, Package};
use crate::out;

/// Switches of threads that a model may force, unless `LOOM_MAX_PREEMPTIONS` says otherwise. Nearly all faults show with
/// two; without a bound three threads take hours.
const PREEMPTIONS: &str = "3";

/// The module of a crate's library that holds models which need private items.
pub(crate) const IN_LIBRARY: &str = "loom_models";

/// The models of one crate.
#[derive(Debug, PartialEq, Eq)]
struct Models {
    package: String,
    /// The names of its test targets, sorted.
    targets: Vec<String>,
}

/// What a run printed about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    interleavings: u64,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let workspace = metadata::workspace()?;
    let all = models(&workspace.packages, &machine::root());
    let chosen = choose(all, arguments)?;
    let target = workspace.target.join("loom");
    let mut failed = Vec::new();
    for models in &chosen {
        let began = Stopwatch::start();
        let result = check(models, &target);
        let (mark, text) = match &result {
            Ok(tally) => ("ok    ", tally.to_string()),
            Err(_) => ("FAILED", String::new()),
        };
        let Models { package, .. } = models;
        out::line(&format!(
            "{mark} {package:<20} {:>7.1} s  {text}",
            began.seconds()
        ));
        if let Err(why) = result {
            out::error(&why);
            failed.push(package.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("models failed: {}", failed.join(", ")))
}

/// The crates that have models: a test target `loom`, several that start with `loom_`, or the module [`IN_LIBRARY`].
fn models(packages: &[Package], root: &Path) -> Vec<Models> {
    let of = |package: &Package| {
        let tests = root.join(&package.directory).join("tests");
        let entries = std::fs::read_dir(tests).into_iter().flatten();
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut targets: Vec<String> = names.filter_map(|name| target(&name)).collect();
        targets.sort();
        if (root
            .join(&package.directory)
            .join("src")
            .join(IN_LIBRARY)
            .with_extension("rs"))
        .is_file()
        {
            targets.push(IN_LIBRARY.to_owned());
        }
        (!targets.is_empty()).then(|| Models {
            package: package.name.clone(),
            targets,
        })
    };
    packages.iter().filter_map(of).collect()
}

/// The test targets of a crate that hold its models.
pub(crate) fn targets_of(package: &str) -> Result<Vec<String>, String> {
    let workspace = metadata::workspace()?;
    let all = models(&workspace.packages, &machine::root());
    let own = all.into_iter().find(|models| models.package == package);
    Ok(own.map(|models| models.targets).unwrap_or_default())
}

/// The arguments of `cargo test` that select these targets.
fn selection(targets: &[String]) -> Vec<String> {
    let mut arguments = Vec::new();
    for name in targets {
        match name == IN_LIBRARY {
            true => arguments.extend(["--lib".to_owned(), name.clone()]),
            false => arguments.extend(["--test".to_owned(), name.clone()]),
        }
    }
    arguments
}

fn target(file: &str) -> Option<String> {
    let name = file.strip_suffix(".rs")?;
    (name == "loom" || name.starts_with("loom_")).then(|| name.to_owned())
}

/// Those that `names` asks for; all, where it asks for none.
fn choose(all: Vec<Models>, names: &[String]) -> Result<Vec<Models>, String> {
    for name in names {
        if !all.iter().any(|models| models.package == *name) {
            let known: Vec<&str> = all.iter().map(|models| models.package.as_str()).collect();
            return Err(format!(
                "`{name}` has no models; those that have: {}",
                known.join(", ")
            ));
        }
    }
    if all.is_empty() {
        return Err("no crate has models".to_owned());
    }
    let is_wanted = |models: &Models| names.is_empty() || names.contains(&models.package);
    Ok(all.into_iter().filter(is_wanted).collect())
}

fn check(models: &Models, target: &Path) -> Result<Tally, String> {
    let mut call = machine::cargo(&["test", "--release", "--package", &models.package]);
    call.args(selection(&models.targets));
    call.arg("--target-dir")
        .arg(target)
        .args(["--", "--show-output"]);
    let flags = machine::variable("RUSTFLAGS").unwrap_or_default();
    call.env(
        "RUSTFLAGS",
        format!("{flags} --cfg tinkers_loom").trim_start(),
    );
    if machine::variable("LOOM_MAX_PREEMPTIONS").is_none() {
        call.env("LOOM_MAX_PREEMPTIONS", PREEMPTIONS);
    }
    let output = call
        .stderr(Stdio::piped())
        .output()
        .map_err(|cause| format!("cargo could not be started: {cause}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} ended with {}\n{said}{complaints}",
            models.package, output.status
        ));
    }
    let tally = Tally::read(&said);
    if tally.passed == 0 {
        // A file whose models are all compiled out would pass too.
        return Err(format!("{} ran no model\n{said}", models.package));
    }
    Ok(tally)
}

impl Tally {
    /// Reads the summaries of the test harness, and the lines `model NAME: N interleavings` where a test prints such.
    fn read(said: &str) -> Self {
        let mut tally = Self::default();
        for line in said.lines() {
            if let Some(rest) = line.strip_prefix("test result: ok. ") {
                tally.passed += number(rest.split(' ').next());
            } else if let Some(rest) = line.strip_suffix(" interleavings")
                && rest.starts_with("model ")
            {
                tally.interleavings += number(rest.rsplit(' ').next());
            }
        }
        tally
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} models", self.passed)?;
        if self.interleavings > 0 {
            write!(f, ", {} interleavings", self.interleavings)?;
        }
        Ok(())
    }
}

fn number(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> Vec<Models> {
        let one = |name: &&str| Models {
            package: (*name).to_owned(),
            targets: vec!["loom".to_owned()],
        };
        names.iter().map(one).collect()
    }

    #[test]
    fn models_are_found_by_the_names_of_their_files() {
        assert_eq!(target("loom.rs").as_deref(), Some("loom"));
        assert_eq!(target("loom_gate.rs").as_deref(), Some("loom_gate"));
        assert_eq!(target("bloom.rs"), None);
        assert_eq!(target("looms.rs"), None);
        assert_eq!(target("loom"), None);
        let workspace = metadata::workspace().unwrap();
        let found = models(&workspace.packages, &machine::root());
        let registry = found
            .iter()
            .find(|models| models.package == "tinkers-registry");
        assert_eq!(registry.unwrap().targets, ["loom"]);
        assert!(found.iter().all(|models| models.package != "tinkers-wire"));
    }

    #[test]
    fn a_crate_without_models_is_an_error_and_no_name_means_all() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(some(&["a", "b"]), &names)
        };
        assert_eq!(names(&[]), Ok(some(&["a", "b"])));
        assert_eq!(names(&["b"]), Ok(some(&["b"])));
        assert!(names(&["b", "c"]).unwrap_err().contains("`c`"));
        assert!(choose(Vec::new(), &[]).is_err());
    }

    #[test]
    fn what_ran_is_counted() {
        let said = "model two that ask: 120 interleavings\nmodel b: 3 interleavings\n\
            test result: ok. 2 passed; 0 failed; 0 ignored\n\ntest result: ok. 1 passed; 0 failed\n";
        let tally = Tally::read(said);
        assert_eq!(tally.to_string(), "3 models, 123 interleavings");
        assert_eq!(
            Tally::read("test result: FAILED. 2 passed").to_string(),
            "0 models"
        );
    }
}

//! `cargo xtask loom`: runs the loom models of the workspace. The models are built in a separate
//! target directory.

use std::path::Path;
use std::process::Stdio;

use crate::environment::{self, Stopwatch};
use crate::metadata::{self, Package};
use crate::out;

/// The default of `LOOM_MAX_PREEMPTIONS`, the maximum number of preemptions in an interleaving that
/// loom explores. Nearly all bugs need at most two. Without a maximum, models with three threads
/// take hours.
const MAX_PREEMPTIONS: &str = "3";

/// The name of the library module that contains the loom models that use private items of the
/// library.
pub(crate) const IN_LIBRARY: &str = "loom_models";

/// The test targets of one crate that contain loom models. A loom model is a test that explores the
/// interleavings of its threads.
#[derive(Debug, PartialEq, Eq)]
struct Models {
    package: String,
    /// The names of the test targets with models, in alphabetical order.
    targets: Vec<String>,
}

/// The summary of a run of loom models: the numbers of passed models and of explored interleavings.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u64,
    interleavings: u64,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let workspace = metadata::workspace()?;
    let all = models(&workspace.packages, &environment::root());
    let chosen = choose(all, arguments)?;
    let target = workspace.target.join("loom");
    let mut failed = Vec::new();
    for models in &chosen {
        let watch = Stopwatch::start();
        let result = check(models, &target);
        let (mark, text) = match &result {
            Ok(summary) => ("ok    ", summary.to_string()),
            Err(_) => ("FAILED", String::new()),
        };
        let Models { package, .. } = models;
        out::line(&format!(
            "{mark} {package:<20} {:>7.1} s  {text}",
            watch.seconds()
        ));
        if let Err(message) = result {
            out::error(&message);
            failed.push(package.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("models failed: {}", failed.join(", ")))
}

/// Finds the crates that have loom models. Models are in test targets named `loom` or `loom_*`, or
/// in the library module [`IN_LIBRARY`]. `root` is the root directory of the workspace.
fn models(packages: &[Package], root: &Path) -> Vec<Models> {
    let models_of = |package: &Package| {
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
    packages.iter().filter_map(models_of).collect()
}

/// Returns the test targets of a crate that contain loom models.
pub(crate) fn targets_of(package: &str) -> Result<Vec<String>, String> {
    let workspace = metadata::workspace()?;
    let all = models(&workspace.packages, &environment::root());
    let own = all.into_iter().find(|models| models.package == package);
    Ok(own.map(|models| models.targets).unwrap_or_default())
}

/// Returns the arguments of `cargo test` that select the given test targets.
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

/// Selects the loom models of the crates in `names`, or all models if `names` is empty.
fn choose(all: Vec<Models>, names: &[String]) -> Result<Vec<Models>, String> {
    for name in names {
        if !all.iter().any(|models| models.package == *name) {
            let known: Vec<&str> = all.iter().map(|models| models.package.as_str()).collect();
            return Err(format!(
                "`{name}` has no models; crates with models: {}",
                known.join(", ")
            ));
        }
    }
    if all.is_empty() {
        return Err("no crate has models".to_owned());
    }
    let is_selected = |models: &Models| names.is_empty() || names.contains(&models.package);
    Ok(all.into_iter().filter(is_selected).collect())
}

fn check(models: &Models, target: &Path) -> Result<Summary, String> {
    let mut command = environment::cargo(&["test", "--release", "--package", &models.package]);
    command.args(selection(&models.targets));
    command
        .arg("--target-dir")
        .arg(target)
        .args(["--", "--show-output"]);
    let flags = environment::variable("RUSTFLAGS").unwrap_or_default();
    command.env(
        "RUSTFLAGS",
        format!("{flags} --cfg tinkers_loom").trim_start(),
    );
    if environment::variable("LOOM_MAX_PREEMPTIONS").is_none() {
        command.env("LOOM_MAX_PREEMPTIONS", MAX_PREEMPTIONS);
    }
    let output = command
        .stderr(Stdio::piped())
        .output()
        .map_err(|cause| format!("cannot run cargo: {cause}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} failed: {}\n{stdout}{stderr}",
            models.package, output.status
        ));
    }
    let summary = Summary::parse(&stdout);
    if summary.passed == 0 {
        // If the cfg is missing, no model is compiled, and the empty test target passes.
        return Err(format!("{} ran no models\n{stdout}", models.package));
    }
    Ok(summary)
}

impl Summary {
    /// Parses the output of a run of loom models: the summary of the test harness, and the lines
    /// `model NAME: N interleavings` that the models print.
    fn parse(stdout: &str) -> Self {
        let mut summary = Self::default();
        for line in stdout.lines() {
            if let Some(rest) = line.strip_prefix("test result: ok. ") {
                summary.passed += number(rest.split(' ').next());
            } else if let Some(rest) = line.strip_suffix(" interleavings")
                && rest.starts_with("model ")
            {
                summary.interleavings += number(rest.rsplit(' ').next());
            }
        }
        summary
    }
}

impl std::fmt::Display for Summary {
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

    fn models_named(names: &[&str]) -> Vec<Models> {
        let models = |name: &&str| Models {
            package: (*name).to_owned(),
            targets: vec!["loom".to_owned()],
        };
        names.iter().map(models).collect()
    }

    #[test]
    fn loom_models_are_found_by_file_name() {
        assert_eq!(target("loom.rs").as_deref(), Some("loom"));
        assert_eq!(target("loom_gate.rs").as_deref(), Some("loom_gate"));
        assert_eq!(target("bloom.rs"), None);
        assert_eq!(target("looms.rs"), None);
        assert_eq!(target("loom"), None);
        let workspace = metadata::workspace().unwrap();
        let found = models(&workspace.packages, &environment::root());
        let registry = found
            .iter()
            .find(|models| models.package == "tinkers-registry");
        assert_eq!(registry.unwrap().targets, ["loom"]);
        assert!(found.iter().all(|models| models.package != "tinkers-wire"));
    }

    #[test]
    fn loom_runs_all_crates_with_models_by_default() {
        let choose_named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(models_named(&["a", "b"]), &names)
        };
        assert_eq!(choose_named(&[]), Ok(models_named(&["a", "b"])));
        assert_eq!(choose_named(&["b"]), Ok(models_named(&["b"])));
        assert!(choose_named(&["b", "c"]).unwrap_err().contains("`c`"));
        assert!(choose(Vec::new(), &[]).is_err());
    }

    #[test]
    fn passed_loom_models_and_interleavings_are_counted() {
        let stdout = "model a: 120 interleavings\nmodel b: 3 interleavings\n\
            test result: ok. 2 passed; 0 failed; 0 ignored\n\ntest result: ok. 1 passed; 0 failed\n";
        let summary = Summary::parse(stdout);
        assert_eq!(summary.to_string(), "3 models, 123 interleavings");
        assert_eq!(
            Summary::parse("test result: FAILED. 2 passed").to_string(),
            "0 models"
        );
    }
}

//! Counts the crates that users have to compile, and checks the counts against a budget.

use std::collections::BTreeSet;

use crate::{environment, out};

/// A limit on the number of crates in a dependency tree, including the crates of the workspace. The
/// options of `cargo tree` in `selection` select the tree.
///
/// Raise a maximum only if the commit message gives the reason: each crate costs every user build
/// time and review.
struct Budget {
    name: &'static str,
    selection: &'static [&'static str],
    max: usize,
}

const BUDGETS: [Budget; 3] = [
    Budget {
        name: "tinkers",
        selection: &["-p", "tinkers"],
        max: 105,
    },
    Budget {
        name: "tinkers with the feature local",
        selection: &["-p", "tinkers", "--features", "local"],
        max: 148,
    },
    Budget {
        name: "tinkers-cli",
        selection: &["-p", "tinkers-cli"],
        // With CSV, shell completions and patterns of names, for the management commands.
        max: 224,
    },
];

/// The target triple for which crates are counted. It is fixed, so that the numbers of crates are
/// the same on every machine.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Counts the crates in each dependency tree for which there is a budget (a maximum number of
/// crates), and prints the numbers.
///
/// # Errors
/// Fails if a tree has more crates than its budget allows.
pub(crate) fn check() -> Result<(), String> {
    let mut over = Vec::new();
    for Budget {
        name,
        selection,
        max,
    } in BUDGETS
    {
        let count = count(&tree(selection)?);
        out::line(&format!("    {name}: {count} crates, at most {max}"));
        if count > max {
            over.push(format!("{name} has {count} crates, more than {max}"));
        }
    }
    match over.is_empty() {
        true => Ok(()),
        false => Err(over.join("; ")),
    }
}

/// Returns the output of `cargo tree` for the options in `selection`. The output has one crate per
/// line.
fn tree(selection: &[&str]) -> Result<String, String> {
    let output = environment::cargo(&["tree", "--locked", "--target", TARGET])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(selection)
        .output()
        .map_err(|cause| format!("cannot run cargo tree: {cause}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo tree failed: {}", stderr.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Counts the crates in the output of `cargo tree`. Different versions of a crate count separately.
/// Lines that end in ` (*)` repeat a crate and do not count.
fn count(tree: &str) -> usize {
    let crates: BTreeSet<&str> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    crates.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_crates_in_cargo_tree_are_counted_once() {
        let tree = "tinkers v0.1.0 (dir)\nbase64 v0.22.1\nbase64 v0.23.1\nbase64 v0.22.1 (*)\n\n";
        assert_eq!(count(tree), 3);
    }
}

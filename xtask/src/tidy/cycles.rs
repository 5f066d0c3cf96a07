//! The rule against import cycles: two files of a crate must not use each other's items, neither
//! directly nor through other files.
//!
//! A module and its parent may use each other, because a `mod.rs` combines the files of its
//! directory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Violation;
use super::files::File;
use super::modules::Modules;
use crate::metadata::Package;

type Uses<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Finds the import cycles of all crates under `crates/`: files that import each other, directly or
/// through other files.
pub(crate) fn violations(packages: &[Package], files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in packages {
        if !package.directory.starts_with("crates/") {
            continue;
        }
        let modules = Modules::read(&package.directory, files);
        found.extend(cycles(&modules.uses()).into_iter().map(|cycle| {
            let text = format!(
                "has an import cycle: {}; move what these files share into a file below them",
                cycle.join(" -> ")
            );
            Violation::new(&package.name, text)
        }));
    }
    found
}

/// Finds the groups of files that all use each other, directly or indirectly. Returns one shortest
/// cycle of each group. The last file of a returned cycle is the same as the first.
fn cycles<'a>(uses: &Uses<'a>) -> Vec<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for file in uses.keys() {
        if seen.contains(file) {
            continue;
        }
        let from_here = reachable(uses, file);
        let is_back = |other: &&&str| reachable(uses, other).contains(*file);
        let group: BTreeSet<&str> = from_here.iter().filter(is_back).copied().collect();
        let shortest = group.iter().filter_map(|file| shortest_cycle(uses, file));
        found.extend(shortest.min_by_key(Vec::len));
        seen.extend(group);
    }
    found
}

/// Returns all files whose items the file `from` uses, directly or through other files.
fn reachable<'a>(uses: &Uses<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&'a str> = uses.get(from).into_iter().flatten().copied().collect();
    while let Some(file) = waiting.pop() {
        if found.insert(file) {
            waiting.extend(uses.get(file).into_iter().flatten());
        }
    }
    found
}

/// Returns the shortest chain of files, each of which uses the next one, from `file` back to
/// `file`. Returns `None` if there is no such chain.
fn shortest_cycle<'a>(uses: &Uses<'a>, file: &'a str) -> Option<Vec<&'a str>> {
    let mut waiting = VecDeque::from([vec![file]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = waiting.pop_front() {
        for next in uses.get(way.last()?).into_iter().flatten() {
            let mut longer = way.clone();
            longer.push(next);
            if *next == file {
                return Some(longer);
            }
            if seen.insert(*next) {
                waiting.push_back(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the import cycles that are found in a crate with these files, given as pairs of path
    /// and text.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File::new(&format!("crates/a/src/{path}"), text))
            .collect();
        let modules = Modules::read("crates/a", &files);
        let cycles = cycles(&modules.uses()).into_iter().map(|cycle| {
            let short = cycle
                .iter()
                .map(|path| path.trim_start_matches("crates/a/src/"));
            short.collect::<Vec<_>>().join(" ")
        });
        cycles.collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::A;\n");

    #[test]
    fn imports_in_one_direction_are_no_import_cycle() {
        let b = "use crate::A; pub struct B; fn f() { crate::c::g() }";
        let files = [
            ROOT,
            ("a.rs", "pub struct A;"),
            ("b.rs", b),
            ("c.rs", "pub fn g() {}"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn import_cycle_of_three_files_is_found_in_every_form_of_use() {
        for (in_a, in_b) in [
            ("use crate::b::B;", "use crate::c::{self, C as D};"),
            (
                "use super::{b::B as _};",
                "pub(crate) fn f(c: crate::c::C) {}",
            ),
            ("fn f() { use crate::b::*; }", "impl super::c::C {}"),
            (
                "mod inner { use super::super::b::B; }",
                "macro_rules! m { () => { $crate::c::C } }",
            ),
        ] {
            let a = format!("{in_a} pub struct A;");
            let b = format!("{in_b} pub struct B;");
            // The name `crate::A` leads to the file that defines `A`.
            let c = "use std::fmt; use crate::A; pub struct C;";
            let files = [ROOT, ("a.rs", &a), ("b.rs", &b), ("c.rs", c)];
            assert_eq!(found(&files), ["a.rs b.rs c.rs a.rs"], "{in_a} {in_b}");
        }
    }

    #[test]
    fn tests_comments_and_re_exports_are_not_counted_as_uses() {
        let a = "//! [`crate::b::B`]\npub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }";
        let c = "pub(crate) use crate::b::B;\n#[cfg(test)]\nuse crate::b::{B as D};\n#[cfg(test)] mod t;";
        let files = [
            ROOT,
            ("a.rs", a),
            (
                "b.rs",
                "use crate::{A, c::B as C}; use crate::c; pub struct B;",
            ),
            ("c.rs", c),
            ("c/t.rs", "use crate::b::B;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn parent_and_child_modules_may_use_each_other_but_siblings_may_not() {
        let parent = "mod x; mod y; use x::X; pub struct P; use y::Y;";
        let x = "use super::P; pub struct X;";
        let files = |y| {
            [
                ("lib.rs", "mod p;"),
                ("p/mod.rs", parent),
                ("p/x.rs", x),
                ("p/y.rs", y),
            ]
        };
        assert_eq!(found(&files("use super::{P, X}; pub struct Y;")), [""; 0]);
        let both = [
            ("lib.rs", "mod p;"),
            ("p/mod.rs", parent),
            // A child module sees the private imports of its parent.
            ("p/x.rs", "use super::Y; pub struct X;"),
            ("p/y.rs", "use super::X; pub struct Y;"),
        ];
        assert_eq!(found(&both), ["p/x.rs p/y.rs p/x.rs"]);
    }

    #[test]
    fn shortest_import_cycle_of_each_group_of_files_is_reported() {
        let uses = Uses::from([
            ("a", BTreeSet::from(["b"])),
            ("b", BTreeSet::from(["c"])),
            ("c", BTreeSet::from(["a", "b"])),
            ("d", BTreeSet::from(["a", "e"])),
            ("e", BTreeSet::from(["d"])),
        ]);
        assert_eq!(cycles(&uses), [vec!["b", "c", "b"], vec!["d", "e", "d"]]);
    }
}

//! Checks the licences, sources and bans of external packages against `deny.toml`, without
//! cargo-deny.
//!
//! [`super::deny`] runs cargo-deny, which also checks advisories.

use std::collections::BTreeMap;

use crate::{environment, metadata};

/// The registry from which all external packages must come.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The rules of `deny.toml` that this module checks without cargo-deny.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    /// The licences that are allowed for all packages.
    allowed: Vec<String>,
    /// Package names, each with a further licence that is allowed only for this package.
    exceptions: Vec<(String, String)>,
    /// The names of packages that must not be in the lock file.
    banned: Vec<String>,
}

/// Checks all external packages in the lock file against the rules of `deny.toml`.
pub(crate) fn check() -> Result<(), String> {
    let path = environment::root().join("deny.toml");
    let text = std::fs::read_to_string(&path)
        .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    let found = violations(&rules(&text)?, &metadata::external_packages()?);
    if found.is_empty() {
        return Ok(());
    }
    Err(found.join("\n"))
}

fn violations(rules: &Rules, packages: &BTreeMap<String, (String, String)>) -> Vec<String> {
    let mut found = Vec::new();
    for (package, (licence, source)) in packages {
        let name = package.split(' ').next().unwrap_or_default();
        let is_allowed = |licence: &str| {
            rules.allowed.iter().any(|allowed| allowed == licence)
                || rules
                    .exceptions
                    .iter()
                    .any(|(package, exception)| package == name && exception == licence)
        };
        if !is_satisfied(licence, &is_allowed) {
            found.push(format!(
                "{package}: licence `{licence}` is not allowed by deny.toml"
            ));
        }
        if source != REGISTRY {
            found.push(format!(
                "{package}: comes from {source}, not from crates.io"
            ));
        }
        if rules.banned.iter().any(|banned| banned == name) {
            found.push(format!("{package}: is banned by deny.toml"));
        }
    }
    found
}

/// Returns whether the licences for which `is_allowed` returns `true` satisfy an SPDX licence
/// expression.
fn is_satisfied(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    // Old packages write a slash instead of OR.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let is_met = parse_or(&words, &mut at, is_allowed);
    is_met == Some(true) && at == words.len()
}

fn parse_or(words: &[&str], at: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut is_met = parse_and(words, at, is_allowed)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        is_met |= parse_and(words, at, is_allowed)?;
    }
    Some(is_met)
}

fn parse_and(words: &[&str], at: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut is_met = parse_licence(words, at, is_allowed)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        is_met &= parse_licence(words, at, is_allowed)?;
    }
    Some(is_met)
}

fn parse_licence(
    words: &[&str],
    at: &mut usize,
    is_allowed: &dyn Fn(&str) -> bool,
) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let is_met = parse_or(words, at, is_allowed)?;
        *at += 1;
        return (words.get(*at - 1) == Some(&")")).then_some(is_met);
    }
    if words.get(*at) != Some(&"WITH") {
        return Some(is_allowed(word));
    }
    let exception = *words.get(*at + 1)?;
    *at += 2;
    // An exception only grants additional permissions.
    Some(is_allowed(word) || is_allowed(&format!("{word} WITH {exception}")))
}

/// Parses the lists and one-line tables of `deny.toml` that this module needs.
fn rules(text: &str) -> Result<Rules, String> {
    let mut rules = Rules::default();
    let mut section = "";
    let mut list = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') && line.ends_with(']') {
            section = line;
            continue;
        }
        if !line.starts_with('{')
            && let Some((key, value)) = line.split_once(" = [")
        {
            list = if value.contains(']') { "" } else { key };
            if !value.starts_with(']') && list.is_empty() {
                return Err(format!(
                    "deny.toml: write the list `{key}` with one entry per line"
                ));
            }
            continue;
        }
        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        match (section, list, strings.as_slice()) {
            ("[licenses]", "allow", [licence, ..]) => rules.allowed.push((*licence).to_owned()),
            ("[licenses]", "exceptions", [licence, package, ..]) => {
                rules
                    .exceptions
                    .push(((*package).to_owned(), (*licence).to_owned()));
            }
            ("[bans]", "deny", [package, ..]) => rules.banned.push((*package).to_owned()),
            _ => {}
        }
        if line == "]" {
            list = "";
        }
    }
    if rules.allowed.is_empty() || rules.banned.is_empty() {
        return Err("deny.toml: expected a list of allowed licences and a list of bans".to_owned());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[licenses]\n# why\nallow = [\n  \"MIT\",\n  \"Apache-2.0\", # why\n]\n\
        exceptions = [\n  { allow = [\"MPL-2.0\"], crate = \"odd\" },\n]\n\
        [bans]\nskip = []\ndeny = [\n  { crate = \"openssl\" },\n]\n[sources]\nallow-git = []\n";

    fn found(package: &str, licence: &str, source: &str) -> Vec<String> {
        let entry = (package.to_owned(), (licence.to_owned(), source.to_owned()));
        violations(&rules(DENY).unwrap(), &BTreeMap::from([entry]))
    }

    #[test]
    fn deny_toml_rules_are_parsed() {
        let rules = rules(DENY).unwrap();
        assert_eq!(rules.allowed, ["MIT", "Apache-2.0"]);
        assert_eq!(rules.exceptions, [("odd".to_owned(), "MPL-2.0".to_owned())]);
        assert_eq!(rules.banned, ["openssl"]);
    }

    #[test]
    fn incomplete_deny_toml_is_an_error() {
        assert!(rules("").is_err());
        assert!(rules("[licenses]\nallow = [\"MIT\"]\n").is_err());
    }

    #[test]
    fn allowed_licences_satisfy_licence_expressions() {
        for licence in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(
                found("a 1.0.0", licence, REGISTRY),
                Vec::<String>::new(),
                "{licence}"
            );
        }
        assert_eq!(
            found("odd 1.0.0", "MPL-2.0", REGISTRY),
            Vec::<String>::new()
        );
    }

    #[test]
    fn licences_that_are_not_allowed_are_violations() {
        for licence in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT",
            "MIT OR",
            "MIT Apache-2.0",
            "MPL-2.0",
        ] {
            assert_eq!(found("a 1.0.0", licence, REGISTRY).len(), 1, "{licence}");
        }
    }

    #[test]
    fn packages_of_other_registries_and_banned_packages_are_violations() {
        assert_eq!(
            found("a 1.0.0", "MIT", "git+https://example.com/a").len(),
            1
        );
        assert_eq!(found("openssl 0.10.0", "MIT", REGISTRY).len(), 1);
    }

    #[test]
    fn lock_file_satisfies_deny_toml() {
        assert_eq!(check(), Ok(()));
    }
}

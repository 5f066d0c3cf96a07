//! What the project takes from outside, held to `deny.toml` without any tool: licences, sources and bans.
//!
//! cargo-deny reads the same file and checks more, advisories above all; see [`super::deny`].

use std::collections::BTreeMap;

use crate::{machine, metadata};

/// The one place that packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `deny.toml` says, as far as it is checked here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    /// Licences that may be relied on.
    allowed: Vec<String>,
    /// Licences beyond those that one package alone may have.
    exceptions: Vec<(String, String)>,
    /// Packages that may not be in the lock file.
    banned: Vec<String>,
}

/// Checks every package that the lock file names.
pub(crate) fn check() -> Result<(), String> {
    let path = machine::root().join("deny.toml");
    let text = std::fs::read_to_string(&path)
        .map_err(|cause| format!("{} cannot be read: {cause}", path.display()))?;
    let found = violations(&rules(&text)?, &metadata::outside()?);
    if found.is_empty() {
        return Ok(());
    }
    Err(found.join("\n"))
}

fn violations(rules: &Rules, packages: &BTreeMap<String, (String, String)>) -> Vec<String> {
    let mut found = Vec::new();
    for (package, (licence, source)) in packages {
        let name = package.split(' ').next().unwrap_or_default();
        let is_allowed = |one: &str| {
            rules.allowed.iter().any(|allowed| allowed == one)
                || rules
                    .exceptions
                    .iter()
                    .any(|(of, extra)| of == name && extra == one)
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

/// Whether a licence expression can be met with the allowed licences alone.
fn is_satisfied(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    // Some packages still write the slash of old for OR.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, is_allowed);
    met == Some(true) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = both(words, at, is_allowed)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, is_allowed)?;
    }
    Some(met)
}

fn both(words: &[&str], at: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = single(words, at, is_allowed)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= single(words, at, is_allowed)?;
    }
    Some(met)
}

fn single(words: &[&str], at: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let met = either(words, at, is_allowed)?;
        *at += 1;
        return (words.get(*at - 1) == Some(&")")).then_some(met);
    }
    if words.get(*at) != Some(&"WITH") {
        return Some(is_allowed(word));
    }
    let exception = *words.get(*at + 1)?;
    *at += 2;
    // An exception only ever grants more than the licence does.
    Some(is_allowed(word) || is_allowed(&format!("{word} WITH {exception}")))
}

/// Reads the parts of `deny.toml` that are checked here: plain lists and one-line tables, as the file writes them.
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
                    "deny.toml: write the list `{key}` with one entry a line"
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
        return Err("deny.toml: found no allowed licences or no bans".to_owned());
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
    fn the_file_is_read() {
        let rules = rules(DENY).unwrap();
        assert_eq!(rules.allowed, ["MIT", "Apache-2.0"]);
        assert_eq!(rules.exceptions, [("odd".to_owned(), "MPL-2.0".to_owned())]);
        assert_eq!(rules.banned, ["openssl"]);
    }

    #[test]
    fn a_file_that_says_nothing_is_refused() {
        assert!(rules("").is_err());
        assert!(rules("[licenses]\nallow = [\"MIT\"]\n").is_err());
    }

    #[test]
    fn allowed_licences_pass_in_any_expression() {
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
    fn other_licences_are_refused() {
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
    fn other_sources_and_banned_packages_are_refused() {
        assert_eq!(
            found("a 1.0.0", "MIT", "git+https://example.com/a").len(),
            1
        );
        assert_eq!(found("openssl 0.10.0", "MIT", REGISTRY).len(), 1);
    }

    #[test]
    fn what_the_lock_file_names_keeps_to_our_own_deny_toml() {
        assert_eq!(check(), Ok(()));
    }
}

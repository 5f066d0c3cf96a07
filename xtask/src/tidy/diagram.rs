//! The rule that the crate graph in docs/ARCHITECTURE.md matches the crate table.
//!
//! The diagram is a fenced block marked `crate-graph` with one crate per line, such as `tier 1
//! tinkers-core -> tinkers-wire`. A line that starts with spaces continues the line before it. A
//! crate without dependencies has no arrow.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::completeness::ARCHITECTURE;
use super::files::File;
use super::table::TABLE;

const FENCE: &str = "```text crate-graph";

/// A crate graph: for each crate, its tier (layer) in the architecture and the crates on which it
/// may depend.
type Graph = BTreeMap<String, (u8, BTreeSet<String>)>;

/// Finds the differences between the dependency diagram in the architecture document and the crate
/// table, which lists the allowed dependencies.
pub(crate) fn violations(files: &[File]) -> Vec<Violation> {
    let violation = |what: String| Violation::new(ARCHITECTURE, what);
    let Some(file) = files.iter().find(|file| file.path == ARCHITECTURE) else {
        return vec![violation("is missing".to_owned())];
    };
    let diagram = match parse(&file.text) {
        Ok(diagram) => diagram,
        Err(what) => return vec![violation(what)],
    };
    let table = table_graph();
    let mut found = Vec::new();
    for (name, row) in &table {
        match diagram.get(name) {
            None => found.push(violation(format!("the crate graph has no line for {name}"))),
            Some(line) if line != row => {
                found.push(violation(format!(
                    "the crate graph has {name} as {line:?}, expected {row:?}"
                )));
            }
            Some(_) => {}
        }
    }
    let extra = diagram.keys().filter(|name| !table.contains_key(*name));
    found.extend(extra.map(|name| {
        violation(format!(
            "the crate graph has {name}, which is not in the crate table"
        ))
    }));
    found
}

fn table_graph() -> Graph {
    let row = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    TABLE
        .iter()
        .map(|entry| (entry.name.to_owned(), (entry.tier, row(entry.inside))))
        .collect()
}

fn parse(document: &str) -> Result<Graph, String> {
    let mut lines = document.lines().skip_while(|line| *line != FENCE);
    if lines.next().is_none() {
        return Err(format!("has no block that starts with {FENCE}"));
    }
    let mut joined: Vec<String> = Vec::new();
    for line in lines.take_while(|line| !line.starts_with("```")) {
        match joined.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line),
            _ => joined.push(line.to_owned()),
        }
    }
    let rows = joined.iter().filter(|line| !line.trim().is_empty());
    let mut graph = Graph::new();
    for line in rows {
        let (name, row) = row(line)
            .ok_or_else(|| format!("cannot parse the line `{line}` of the crate graph"))?;
        if graph.insert(name.clone(), row).is_some() {
            return Err(format!("the crate graph has {name} twice"));
        }
    }
    Ok(graph)
}

fn row(line: &str) -> Option<(String, (u8, BTreeSet<String>))> {
    let (head, tail) = line.split_once("->").unwrap_or((line, ""));
    let mut words = head.split_whitespace();
    if words.next() != Some("tier") {
        return None;
    }
    let tier = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    if words.next().is_some() {
        return None;
    }
    let inside = tail
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    Some((name, (tier, inside.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        let mut text = format!("# Title\n\n{FENCE}\n");
        for entry in TABLE {
            text.push_str(&format!("tier {}  {}", entry.tier, entry.name));
            if let Some((first, others)) = entry.inside.split_first() {
                text.push_str(&format!(" -> {first}"));
                for name in others {
                    text.push_str(&format!(",\n    {name}"));
                }
            }
            text.push('\n');
        }
        text + "```\n"
    }

    fn found(text: &str) -> Vec<String> {
        violations(&[File::new(ARCHITECTURE, text)])
            .iter()
            .map(|violation| violation.what.clone())
            .collect()
    }

    #[test]
    fn crate_graph_that_matches_the_crate_table_has_no_violations() {
        assert_eq!(found(&document()), Vec::<String>::new());
    }

    #[test]
    fn missing_document_or_graph_block_is_a_violation() {
        assert_eq!(violations(&[]).len(), 1);
        assert!(found("# Title\n")[0].contains("no block"));
    }

    #[test]
    fn crate_graph_with_a_different_tier_or_dependency_is_a_violation() {
        let tier = document().replace("tier 1  tinkers-core", "tier 2  tinkers-core");
        assert!(found(&tier)[0].contains("has tinkers-core as"));
        let row = "tinkers-core -> tinkers-wire,\n    tinkers-limits\n";
        let edge = document().replace(row, "tinkers-core -> tinkers-wire\n");
        assert!(found(&edge)[0].contains("has tinkers-core as"));
        let more = row.replace("limits", "limits, tinkers-registry");
        let more = document().replace(row, &more);
        assert!(found(&more)[0].contains("has tinkers-core as"));
    }

    #[test]
    fn missing_duplicate_and_unknown_crates_in_the_graph_are_violations() {
        let missing = document().replace("tier 0  tinkers-limits\n", "");
        assert_eq!(
            found(&missing),
            ["the crate graph has no line for tinkers-limits"]
        );
        let line = "tier 0  tinkers-limits\n";
        assert!(found(&document().replace(line, &line.repeat(2)))[0].contains("twice"));
        let extra = document().replace(line, "tier 0  tinkers-limits\ntier 0  tinkers-extra\n");
        assert!(found(&extra)[0].contains("tinkers-extra"));
        assert!(found(&document().replace(line, "limits are below\n"))[0].contains("cannot parse"));
    }
}

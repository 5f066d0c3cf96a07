//! The rule that docs/ARCHITECTURE.md draws the graph that the table holds.
//!
//! The drawing is a fenced block marked `crate-graph`, one crate a line: `tier 1  tinkers-core -> tinkers-wire`. A line
//! that begins with spaces goes on with the one before it; a crate that names no other has no arrow.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::completeness::ARCHITECTURE;
use super::files::File;
use super::table::TABLE;

const OPENS: &str = "```text crate-graph";

/// A tier and the crates that may be named, by the name of the crate.
type Graph = BTreeMap<String, (u8, BTreeSet<String>)>;

/// Where the drawing and the table differ.
pub(crate) fn violations(files: &[File]) -> Vec<Violation> {
    let wrong = |what: String| Violation::new(ARCHITECTURE, what);
    let Some(file) = files.iter().find(|file| file.path == ARCHITECTURE) else {
        return vec![wrong("is missing".to_owned())];
    };
    let drawn = match parse(&file.text) {
        Ok(drawn) => drawn,
        Err(what) => return vec![wrong(what)],
    };
    let held = held();
    let mut found = Vec::new();
    for (name, row) in &held {
        match drawn.get(name) {
            None => found.push(wrong(format!("the drawing lacks {name}"))),
            Some(line) if line != row => {
                found.push(wrong(format!(
                    "draws {name} as {line:?}, the table says {row:?}"
                )));
            }
            Some(_) => {}
        }
    }
    let extra = drawn.keys().filter(|name| !held.contains_key(*name));
    found.extend(extra.map(|name| wrong(format!("draws {name}, which has no row in the table"))));
    found
}

fn held() -> Graph {
    let row = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    TABLE
        .iter()
        .map(|entry| (entry.name.to_owned(), (entry.tier, row(entry.inside))))
        .collect()
}

fn parse(document: &str) -> Result<Graph, String> {
    let mut lines = document.lines().skip_while(|line| *line != OPENS);
    if lines.next().is_none() {
        return Err(format!("has no block that opens with {OPENS}"));
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
        let (name, row) = row(line).ok_or_else(|| format!("cannot read the line `{line}`"))?;
        if graph.insert(name.clone(), row).is_some() {
            return Err(format!("draws {name} twice"));
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

    fn drawing() -> String {
        let mut text = format!("# Title\n\n{OPENS}\n");
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
            .map(|one| one.what.clone())
            .collect()
    }

    #[test]
    fn the_same_graph_passes() {
        assert_eq!(found(&drawing()), Vec::<String>::new());
    }

    #[test]
    fn a_missing_document_or_block_is_refused() {
        assert_eq!(violations(&[]).len(), 1);
        assert!(found("# Title\n")[0].contains("no block"));
    }

    #[test]
    fn another_tier_or_another_edge_is_refused() {
        let tier = drawing().replace("tier 1  tinkers-core", "tier 2  tinkers-core");
        assert!(found(&tier)[0].contains("draws tinkers-core"));
        let edge = drawing().replace("tinkers-core -> tinkers-wire\n", "tinkers-core\n");
        assert!(found(&edge)[0].contains("draws tinkers-core"));
        let more = drawing().replace(
            "tinkers-core -> tinkers-wire\n",
            "tinkers-core -> tinkers-wire, tinkers-limits\n",
        );
        assert!(found(&more)[0].contains("draws tinkers-core"));
    }

    #[test]
    fn a_missing_a_second_and_a_made_up_crate_are_refused() {
        let missing = drawing().replace("tier 0  tinkers-limits\n", "");
        assert_eq!(found(&missing), ["the drawing lacks tinkers-limits"]);
        let line = "tier 0  tinkers-limits\n";
        assert!(found(&drawing().replace(line, &line.repeat(2)))[0].contains("twice"));
        let extra = drawing().replace(line, "tier 0  tinkers-limits\ntier 0  tinkers-extra\n");
        assert!(found(&extra)[0].contains("tinkers-extra"));
        assert!(found(&drawing().replace(line, "limits are below\n"))[0].contains("cannot read"));
    }
}

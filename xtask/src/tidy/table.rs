//! The crate graph of this project as a table: the tier of each crate and the crates inside that it may name.
//!
//! docs/ARCHITECTURE.md draws the same graph for readers; [`super::drawing`] refuses a difference between the two.

/// One crate of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) tier: u8,
    /// What its normal and build dependencies may be, among the crates of the workspace.
    pub(crate) inside: &'static [&'static str],
}

/// The facade: the one library that no other library may name, not even in its tests.
pub(crate) const FACADE: &str = "tinkers";

/// Crates in the table that need not exist yet.
pub(crate) const PLANNED: &[&str] = &["tinkers-rest"];

/// The graph, highest tier first.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "tinkers-cli",
        tier: 5,
        inside: &["tinkers", "tinkers-local", "tinkers-engine"],
    },
    Entry {
        name: FACADE,
        tier: 4,
        inside: &[
            "tinkers-sampling",
            "tinkers-training",
            "tinkers-rest",
            "tinkers-session",
            "tinkers-engine",
            "tinkers-transport",
            "tinkers-dispatch",
            "tinkers-futures",
            "tinkers-local",
            "tinkers-core",
            "tinkers-wire",
            "tinkers-limits",
        ],
    },
    Entry {
        name: "tinkers-sampling",
        tier: 3,
        inside: &["tinkers-core", "tinkers-wire", "tinkers-futures"],
    },
    Entry {
        name: "tinkers-training",
        tier: 3,
        inside: &["tinkers-core", "tinkers-wire", "tinkers-futures"],
    },
    Entry {
        name: "tinkers-rest",
        tier: 3,
        inside: &["tinkers-core", "tinkers-wire"],
    },
    Entry {
        name: "tinkers-session",
        tier: 3,
        inside: &[
            "tinkers-core",
            "tinkers-wire",
            "tinkers-registry",
            "tinkers-dispatch",
            "tinkers-futures",
        ],
    },
    Entry {
        name: "tinkers-engine",
        tier: 3,
        inside: &["tinkers-core", "tinkers-wire", "tinkers-local"],
    },
    Entry {
        name: "tinkers-transport",
        tier: 2,
        inside: &["tinkers-core", "tinkers-wire"],
    },
    Entry {
        name: "tinkers-dispatch",
        tier: 2,
        inside: &["tinkers-core", "tinkers-limits"],
    },
    Entry {
        name: "tinkers-futures",
        tier: 2,
        inside: &["tinkers-core", "tinkers-wire"],
    },
    Entry {
        name: "tinkers-local",
        tier: 2,
        inside: &["tinkers-core", "tinkers-wire"],
    },
    Entry {
        name: "tinkers-core",
        tier: 1,
        inside: &["tinkers-wire"],
    },
    Entry {
        name: "tinkers-wire",
        tier: 0,
        inside: &[],
    },
    Entry {
        name: "tinkers-limits",
        tier: 0,
        inside: &[],
    },
    Entry {
        name: "tinkers-registry",
        tier: 0,
        inside: &[],
    },
];

/// The row of a crate.
pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_itself_points_downwards_only() {
        for row in TABLE {
            for name in row.inside {
                let below = entry(name).unwrap_or_else(|| panic!("{name} has no row"));
                assert!(below.tier < row.tier, "{} may not name {name}", row.name);
            }
        }
    }

    #[test]
    fn no_crate_has_two_rows() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(
                TABLE[index + 1..]
                    .iter()
                    .all(|other| other.name != row.name)
            );
        }
    }
}

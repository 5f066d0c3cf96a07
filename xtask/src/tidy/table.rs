//! The crate table: the tier of each crate, and its allowed dependencies in the workspace.
//!
//! docs/ARCHITECTURE.md shows the same graph to readers. [`super::diagram`] checks that both match.

/// A row of the crate table, which lists the allowed dependencies of a crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) tier: u8,
    /// The workspace crates that the crate may use as normal and build dependencies.
    pub(crate) inside: &'static [&'static str],
}

/// The name of the facade crate, which re-exports the public API. No other library may depend on
/// it, not even as a dev-dependency.
pub(crate) const FACADE: &str = "tinkers";

/// The rows of the crate table, from the highest tier of the architecture to the lowest.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        name: "tinkers-cli",
        tier: 6,
        inside: &["tinkers", "tinkers-local", "tinkers-engine"],
    },
    Entry {
        name: FACADE,
        tier: 5,
        inside: &[
            "tinkers-sampling",
            "tinkers-training",
            "tinkers-rest",
            "tinkers-session",
            "tinkers-auth",
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
        tier: 4,
        inside: &[
            "tinkers-core",
            "tinkers-wire",
            "tinkers-futures",
            "tinkers-sampling",
        ],
    },
    Entry {
        name: "tinkers-rest",
        tier: 3,
        inside: &[
            "tinkers-core",
            "tinkers-wire",
            "tinkers-auth",
            "tinkers-futures",
        ],
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
            "tinkers-auth",
        ],
    },
    Entry {
        name: "tinkers-engine",
        tier: 3,
        inside: &["tinkers-core", "tinkers-wire", "tinkers-local"],
    },
    Entry {
        name: "tinkers-auth",
        tier: 2,
        inside: &["tinkers-core", "tinkers-wire"],
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
        inside: &["tinkers-wire", "tinkers-limits"],
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

/// Returns the row of a crate in the crate table, or `None` if it has none.
pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crate_dependencies_are_in_lower_tiers() {
        for row in TABLE {
            for name in row.inside {
                let dependency = entry(name).unwrap_or_else(|| panic!("{name} has no row"));
                assert!(
                    dependency.tier < row.tier,
                    "{} must not depend on {name}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn each_crate_has_one_row_in_the_crate_table() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(
                TABLE[index + 1..]
                    .iter()
                    .all(|other| other.name != row.name)
            );
        }
    }
}

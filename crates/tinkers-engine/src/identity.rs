//! The identity of a base model: its names, which the user chooses, and its fingerprint, which is computed from its contents.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::config::ModelConfig;
use crate::text::Text;
use crate::weights::Weights;

/// Names of directories that commonly contain models. Therefore they are not taken for the name of an organisation on a model hub.
const CONTAINERS: [&str; 16] = [
    "base_models",
    "cache",
    "checkpoints",
    "data",
    "downloads",
    "home",
    "hub",
    "huggingface",
    "llm",
    "mnt",
    "model",
    "models",
    "snapshots",
    "temp",
    "tmp",
    "weights",
];

/// The names of a base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The name under which the server lists the model.
    pub(crate) name: String,
    /// Other names that requests may use for the model.
    pub(crate) aliases: Vec<String>,
}

impl Names {
    /// Creates the names of a model without aliases.
    pub(crate) fn only(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            aliases: Vec::new(),
        }
    }

    /// Derives the names of the model in `dir` from the given path, without following links. Returns `None` for the root directory.
    ///
    /// In the cache of the Hugging Face hub, the names come from the component `models--org--model`. Elsewhere, the name is
    /// `org/model`, the last two components, if `org` can be an organisation on a hub; the last component alone is then an alias. An
    /// organisation consists of letters, digits, `-`, `_` and inner dots, and is neither a top-level directory nor a common name of
    /// model directories, such as `models`. Otherwise the last component is the name.
    pub(crate) fn of_dir(dir: &Path) -> Option<Self> {
        let parts = parts(dir);
        let model = parts.last()?;
        if let [.., repository, snapshots, _] = parts.as_slice()
            && snapshots == "snapshots"
            && let Some(repository) = repository.strip_prefix("models--")
        {
            let name = repository.replace("--", "/");
            let last = name.rsplit('/').next().unwrap_or_default().to_owned();
            return Some(Self {
                aliases: if last == name { Vec::new() } else { vec![last] },
                name,
            });
        }
        Some(match parts.as_slice() {
            [_, .., org, _] if is_organisation(org) => Self {
                name: format!("{org}/{model}"),
                aliases: vec![model.clone()],
            },
            _ => Self::only(model),
        })
    }

    /// Sets the name under which the server lists the model. The previous names become aliases.
    pub(crate) fn listed_as(self, name: &str) -> Self {
        let mut aliases = self.aliases;
        aliases.push(self.name);
        aliases.retain(|alias| alias != name);
        Self {
            name: name.to_owned(),
            aliases,
        }
    }
}

/// Returns the components of the absolute path. Resolves `.` and `..` without reading the file system.
fn parts(dir: &Path) -> Vec<String> {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    let mut parts = Vec::new();
    for component in full.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts
}

fn is_organisation(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    part.starts_with(|c: char| c.is_ascii_alphanumeric())
        && part.chars().all(is_plain)
        && !CONTAINERS.contains(&part.to_ascii_lowercase().as_str())
}

/// Computes the fingerprint of a base model: a SHA-256 in hexadecimal. The hash covers the settings that affect the results, the
/// vocabulary, and the name, the shape and the values of each weight, widened to 32 bits.
///
/// The fingerprint does not depend on the directory, on how weights are divided into files, on whether they are stored in 16 or 32
/// bits, or on the formatting of the JSON files. Runs on the current thread pool.
pub(crate) fn fingerprint(config: &ModelConfig, text: &Text, weights: &Weights) -> String {
    let mut hash = Sha256::new();
    let settings = format!(
        "tinkers-base-1 {} {} {} {} {:08x} {:?} {} ",
        config.model_type,
        config.num_attention_heads,
        config.kv_heads(),
        config.head_width(),
        config.rms_norm_eps.to_bits(),
        config.rope,
        config.tie_word_embeddings,
    );
    hash.update(settings);
    for (id, token) in text.vocabulary() {
        hash.update(id.to_le_bytes());
        hash.update(token.len().to_le_bytes());
        hash.update(token);
    }
    let all: Vec<_> = weights.iter().collect();
    let digests: BTreeMap<&str, [u8; 32]> = all
        .into_par_iter()
        .map(|(name, values)| {
            let mut hash = Sha256::new();
            hash.update(format!("{name} {} {} ", values.rows(), values.cols()));
            let mut bytes = Vec::with_capacity(BLOCK * 4);
            for block in values.data().chunks(BLOCK) {
                bytes.clear();
                bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
                hash.update(&bytes);
            }
            (name, hash.finalize().into())
        })
        .collect();
    for digest in digests.values() {
        hash.update(digest);
    }
    format!("{:x}", hash.finalize())
}

/// The number of weight values that are hashed in one call.
const BLOCK: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matrix::Matrix;
    use crate::ops::tape::Node;
    use crate::testing;

    #[test]
    fn model_names_are_derived_from_the_path() {
        for (path, name, aliases) in [
            (
                "/srv/x/Qwen/Qwen3.5-4B",
                "Qwen/Qwen3.5-4B",
                vec!["Qwen3.5-4B"],
            ),
            (
                "/srv/x/Qwen/Qwen3.5-4B/",
                "Qwen/Qwen3.5-4B",
                vec!["Qwen3.5-4B"],
            ),
            (
                "/srv/x/Qwen/./Qwen3.5-4B/.",
                "Qwen/Qwen3.5-4B",
                vec!["Qwen3.5-4B"],
            ),
            (
                "/srv/x/Qwen/y/../Qwen3.5-4B",
                "Qwen/Qwen3.5-4B",
                vec!["Qwen3.5-4B"],
            ),
            ("/srv/models/base", "base", vec![]),
            ("/srv/.hidden/base", "base", vec![]),
            ("/srv/my models/base", "base", vec![]),
            ("/srv/base", "base", vec![]),
            ("/base", "base", vec![]),
            (
                "/c/hub/models--Qwen--Qwen3-4B/snapshots/0a1b",
                "Qwen/Qwen3-4B",
                vec!["Qwen3-4B"],
            ),
            ("/c/hub/models--gpt2/snapshots/0a1b", "gpt2", vec![]),
        ] {
            let names = Names::of_dir(Path::new(path)).unwrap();
            assert_eq!(
                (names.name.as_str(), names.aliases),
                (name, aliases.iter().map(|a| (*a).to_owned()).collect()),
                "{path}"
            );
        }
        assert_eq!(Names::of_dir(Path::new("/")), None);
        let here = Names::of_dir(Path::new(".")).unwrap();
        assert!(here.name.ends_with("tinkers-engine"), "{here:?}");
    }

    #[test]
    fn names_derived_from_the_path_are_aliases_of_the_chosen_model_name() {
        let names = Names::of_dir(Path::new("/x/a/b")).unwrap().listed_as("c/d");
        assert_eq!(names.name, "c/d");
        assert_eq!(names.aliases, ["b", "a/b"]);
        let same = Names::of_dir(Path::new("/x/a/b")).unwrap().listed_as("b");
        assert_eq!(same.aliases, ["a/b"]);
    }

    #[test]
    fn changing_any_setting_or_weight_changes_the_fingerprint() {
        let config = testing::config("qwen3");
        let weights = |change: Option<f32>| {
            let mut all = testing::weights(&config);
            let last = all.get_mut("model.norm.weight").unwrap();
            if let Some(change) = change {
                *last.0.last_mut().unwrap() += change;
            }
            let nodes = all.into_iter().map(|(name, (data, [rows, cols]))| {
                (name, Node::constant(Matrix::new(data, rows, cols)))
            });
            Weights::from_nodes(nodes.collect())
        };
        let print =
            |config: &ModelConfig, change| fingerprint(config, &Text::Bytes, &weights(change));
        let own = print(&config, None);
        assert_eq!(own.len(), 64);
        assert_eq!(own, print(&config, None));
        assert_ne!(own, print(&config, Some(1e-3)));
        let mut other = config.clone();
        other.rms_norm_eps = 1e-6;
        assert_ne!(own, print(&other, None));
        // A different context length leaves the results unchanged.
        let mut longer = config.clone();
        longer.max_position_embeddings *= 2;
        assert_eq!(own, print(&longer, None));
    }
}

//! `tinker://` paths and checkpoint ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidInput;
use crate::names::display_name;

/// The purpose of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum CheckpointKind {
    /// `training`: weights and optimizer state, to continue training.
    #[serde(rename = "training")]
    Training,
    /// `sampler`: weights to sample from.
    #[serde(rename = "sampler")]
    Sampler,
    /// `external`: weights exported to another format.
    #[serde(rename = "external")]
    External,
}

impl CheckpointKind {
    /// All kinds of checkpoints.
    const ALL: [Self; 3] = [Self::Training, Self::Sampler, Self::External];

    /// Returns the name of this kind in the server's lists of checkpoints: `training`, `sampler` or `external`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Sampler => "sampler",
            Self::External => "external",
        }
    }

    /// Returns the name of this kind in paths and checkpoint ids: `weights`, `sampler_weights` or `external_weights`.
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Training => "weights",
            Self::Sampler => "sampler_weights",
            Self::External => "external_weights",
        }
    }

    /// Parses the name of a checkpoint kind in paths and checkpoint ids, such as `sampler_weights`. Returns `None` for an unknown name.
    pub fn from_segment(segment: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.segment() == segment)
    }
}

display_name!(CheckpointKind);

impl FromStr for CheckpointKind {
    type Err = InvalidInput;

    /// Parses the name of a checkpoint kind in the server's lists of checkpoints, such as `sampler`. Fails for an unknown name.
    fn from_str(name: &str) -> Result<Self, InvalidInput> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == name).ok_or_else(|| {
            let expected = format!("training, sampler or external, got {name:?}");
            InvalidInput::new("checkpoint_type", expected)
        })
    }
}

/// The path of a checkpoint, `tinker://<training run>/<kind>/<name>`. A path without a kind, as some servers send it, names sampler
/// weights.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::{CheckpointKind, TinkerPath};
///
/// let path: TinkerPath = "tinker://a1b2:train:0/weights/step-10".parse()?;
/// assert_eq!((path.run_id(), path.kind(), path.name()), ("a1b2:train:0", CheckpointKind::Training, "step-10"));
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
///
/// To resume a run in another process, write the path to a file as text, and parse it again or pass the text to
/// `create_training_client_from_state_with_optimizer`:
///
/// ```
/// # use tinkers_wire as tinkers;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("tinkers-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let file = directory.join("latest-checkpoint");
/// # let path = tinkers::TinkerPath::new("a1b2:train:0", tinkers::CheckpointKind::Training, "step-10")?;
/// std::fs::write(&file, path.as_str())?;
/// let read: tinkers::TinkerPath = std::fs::read_to_string(&file)?.parse()?;
/// assert_eq!(read, path);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TinkerPath {
    text: String,
    run_end: usize,
    kind: CheckpointKind,
    name_start: usize,
}

const SCHEME: &str = "tinker://";

impl TinkerPath {
    /// Creates the path of a checkpoint.
    ///
    /// # Errors
    /// The error names the field `path` if `run` or `name` is empty, `.` or `..`, or contains a `/` or white space.
    pub fn new(run: &str, kind: CheckpointKind, name: &str) -> Result<Self, InvalidInput> {
        format!("{SCHEME}{run}/{}/{name}", kind.segment()).parse()
    }

    /// Returns the id of the training run that the checkpoint belongs to. The model of the run has the same id.
    pub fn run_id(&self) -> &str {
        &self.text[SCHEME.len()..self.run_end]
    }

    /// Returns the purpose of the checkpoint.
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// Returns the name of the checkpoint.
    pub fn name(&self) -> &str {
        &self.text[self.name_start..]
    }

    /// Returns the checkpoint id `<kind>/<name>`, by which the server's lists of checkpoints identify the checkpoint.
    pub fn checkpoint_id(&self) -> String {
        format!("{}/{}", self.kind.segment(), self.name())
    }

    /// Returns the path as a string that begins with `tinker://`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for TinkerPath {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let error = || {
            let expected = format!(
                "a path of the form tinker://<run>/weights/<name> or tinker://<run>/sampler_weights/<name>, got {text:?}"
            );
            InvalidInput::new("path", expected)
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(error)?;
        let segments: Vec<&str> = rest.split('/').collect();
        // Servers use the segments as file names, so `.` and `..` would allow path traversal.
        let is_invalid = |segment: &&str| matches!(*segment, "" | "." | "..");
        if segments.iter().any(is_invalid) || text.contains(char::is_whitespace) {
            return Err(error());
        }
        let (run, kind, name) = match segments[..] {
            [run, kind, name] => (
                run,
                CheckpointKind::from_segment(kind).ok_or_else(error)?,
                name,
            ),
            [run, name] if CheckpointKind::from_segment(name).is_none() => {
                (run, CheckpointKind::Sampler, name)
            }
            _ => return Err(error()),
        };
        Ok(Self {
            run_end: SCHEME.len() + run.len(),
            name_start: text.len() - name.len(),
            kind,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for TinkerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for TinkerPath {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Serialize for TinkerPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for TinkerPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tinker_path_is_parsed_into_run_kind_and_name() {
        let path: TinkerPath = "tinker://s-1:train:0/weights/step-10".parse().unwrap();
        assert_eq!(
            (path.run_id(), path.kind(), path.name()),
            ("s-1:train:0", CheckpointKind::Training, "step-10")
        );
        assert_eq!(path.checkpoint_id(), "weights/step-10");
        assert_eq!(
            TinkerPath::new("s-1:train:0", CheckpointKind::Training, "step-10").unwrap(),
            path
        );
        let short: TinkerPath = "tinker://model_1/s1".parse().unwrap();
        assert_eq!(
            (short.run_id(), short.kind(), short.name()),
            ("model_1", CheckpointKind::Sampler, "s1")
        );
    }

    #[test]
    fn checkpoint_kind_is_parsed_from_its_displayed_name() {
        for kind in CheckpointKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(CheckpointKind::from_segment(kind.segment()), Some(kind));
        }
        let error = "weights".parse::<CheckpointKind>().unwrap_err();
        assert_eq!(error.field(), "checkpoint_type");
    }

    #[test]
    fn invalid_tinker_paths_are_rejected() {
        for text in [
            "",
            "weights/x",
            "http://a/weights/b",
            "tinker://",
            "tinker://a",
            "tinker://a/weights",
            "tinker://a/weights/",
            "tinker://../weights/b",
            "tinker://a/weights/..",
            "tinker://./b",
            "tinker://a/other/b",
            "tinker://a/weights/b/c",
            "tinker:///weights/b",
            "tinker://a/weights/b c",
        ] {
            let error = text.parse::<TinkerPath>().unwrap_err();
            assert_eq!(error.field(), "path", "{text}");
        }
    }
}

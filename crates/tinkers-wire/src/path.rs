//! Paths and ids of checkpoints.

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

/// The path of a checkpoint: a string that the server chose. Pass it to the server unchanged.
///
/// The service and most servers send paths of the form `tinker://<training run>/<kind>/<name>`. A path `tinker://<training run>/<name>`, as
/// some servers send it, names sampler weights. Other servers send other forms, such as the path of a file. Then [`run_id`](Self::run_id)
/// and [`kind`](Self::kind) return `None`.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::{CheckpointKind, TinkerPath};
///
/// let path: TinkerPath = "tinker://a1b2:train:0/weights/step-10".parse()?;
/// assert_eq!(path.run_id(), Some("a1b2:train:0"));
/// assert_eq!((path.kind(), path.name()), (Some(CheckpointKind::Training), "step-10"));
///
/// let other: TinkerPath = "/srv/checkpoints/step-10".parse()?;
/// assert_eq!((other.kind(), other.name()), (None, "step-10"));
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
    /// The parts of the path, if it has the form of the service.
    parts: Option<Parts>,
}

/// The parts of a path of the form `tinker://<training run>/<kind>/<name>`, or without the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    /// The index at which the id of the training run ends.
    run_end: usize,
    kind: CheckpointKind,
}

const SCHEME: &str = "tinker://";

impl TinkerPath {
    /// Creates the path of a checkpoint in the form of the service.
    ///
    /// # Errors
    /// The error names the field `path` if `run` or `name` is empty, `.` or `..`, or contains a `/` or white space.
    pub fn new(run: &str, kind: CheckpointKind, name: &str) -> Result<Self, InvalidInput> {
        let path = Self::opaque(format!("{SCHEME}{run}/{}/{name}", kind.segment()));
        if path.parts.is_some() {
            return Ok(path);
        }
        let expected = format!("a run and a name without '/' and white space, got {path:?}");
        Err(InvalidInput::new("path", expected))
    }

    fn opaque(text: String) -> Self {
        Self {
            parts: Parts::of(&text),
            text,
        }
    }

    /// Returns the id of the training run that the checkpoint belongs to. The model of the run has the same id. Returns `None` if the path
    /// does not have the form of the service.
    pub fn run_id(&self) -> Option<&str> {
        self.parts
            .map(|parts| &self.text[SCHEME.len()..parts.run_end])
    }

    /// Returns the purpose of the checkpoint, or `None` if the path does not have the form of the service.
    pub fn kind(&self) -> Option<CheckpointKind> {
        self.parts.map(|parts| parts.kind)
    }

    /// Returns the name of the checkpoint: the last segment of the path.
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the checkpoint id `<kind>/<name>`, by which the server's lists of checkpoints identify the checkpoint. Returns `None` if the
    /// path does not have the form of the service.
    pub fn checkpoint_id(&self) -> Option<String> {
        Some(format!("{}/{}", self.kind()?.segment(), self.name()))
    }

    /// Returns the path as a string.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Parts {
    fn of(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME)?;
        let segments: Vec<&str> = rest.split('/').collect();
        // Servers use the segments as file names, so `.` and `..` would allow path traversal.
        let is_invalid = |segment: &&str| matches!(*segment, "" | "." | "..");
        if segments.iter().any(is_invalid) || text.contains(char::is_whitespace) {
            return None;
        }
        let (run, kind) = match segments[..] {
            [run, kind, _] => (run, CheckpointKind::from_segment(kind)?),
            [run, name] if CheckpointKind::from_segment(name).is_none() => {
                (run, CheckpointKind::Sampler)
            }
            _ => return None,
        };
        let run_end = SCHEME.len() + run.len();
        Some(Self { run_end, kind })
    }
}

impl FromStr for TinkerPath {
    type Err = InvalidInput;

    /// Accepts every text that may be the path of a checkpoint on some server.
    ///
    /// # Errors
    /// The error names the field `path` if the text is blank or contains control characters.
    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        if text.trim().is_empty() || text.contains(char::is_control) {
            let expected = format!(
                "the path of a checkpoint, such as tinker://<run>/weights/<name>, got {text:?}"
            );
            return Err(InvalidInput::new("path", expected));
        }
        Ok(Self::opaque(text.to_owned()))
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
            (
                Some("s-1:train:0"),
                Some(CheckpointKind::Training),
                "step-10"
            )
        );
        assert_eq!(path.checkpoint_id().as_deref(), Some("weights/step-10"));
        assert_eq!(
            TinkerPath::new("s-1:train:0", CheckpointKind::Training, "step-10").unwrap(),
            path
        );
        let short: TinkerPath = "tinker://model_1/s1".parse().unwrap();
        assert_eq!(
            (short.run_id(), short.kind(), short.name()),
            (Some("model_1"), Some(CheckpointKind::Sampler), "s1")
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
    fn paths_of_other_forms_are_kept_as_they_are() {
        for text in [
            "weights/x",
            "http://a/weights/b",
            "twinkle://a/weights/b",
            "/srv/my checkpoints/b",
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
            let path = text.parse::<TinkerPath>().unwrap();
            assert_eq!((path.run_id(), path.kind()), (None, None), "{text}");
            assert_eq!(serde_json::to_value(&path).unwrap(), text);
        }
        for text in ["", " ", "tinker://a/weights/\nb"] {
            let error = text.parse::<TinkerPath>().unwrap_err();
            assert_eq!(error.field(), "path", "{text}");
        }
    }

    #[test]
    fn new_path_with_invalid_parts_is_rejected() {
        for (run, name) in [
            ("", "b"),
            ("..", "b"),
            ("a/b", "c"),
            ("a", ""),
            ("a", "b c"),
        ] {
            let error = TinkerPath::new(run, CheckpointKind::Training, name).unwrap_err();
            assert_eq!(error.field(), "path", "{run} {name}");
        }
    }
}

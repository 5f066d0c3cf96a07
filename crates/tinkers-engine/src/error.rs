//! The errors of the engine, in terms of the caller's input.

use std::path::PathBuf;

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's input cannot be used; nothing was computed.
    #[error("{field}: {expected}")]
    Input {
        /// The field at fault, as a path such as `data[3].loss_fn_inputs.weights`.
        field: String,
        /// What was found and what would have been right.
        expected: String,
    },
    /// The model directory or the weights in it cannot be used.
    #[error("model: {0}")]
    Model(String),
    /// A checkpoint is absent, damaged or of another shape.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {}", path.display())]
    Io {
        /// The operation, as "cannot read".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another engine, of this process or another, keeps its checkpoints there.
    #[error(
        "the data directory {} is in use by {}; give each server its own",
        dir.display(),
        holder_name(*holder)
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, where that is known.
        holder: Option<u32>,
    },
    /// A safetensors file could not be read or written.
    #[error("cannot read or write the weights as safetensors")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A tokenizer could not be read or applied.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A computation panicked; the state it worked on is as before it.
    #[error("the computation panicked: {0}")]
    Panicked(String),
    /// The engine was closed while the request waited.
    #[error("the engine is closed")]
    Closed,
}

/// The engine's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn holder_name(holder: Option<u32>) -> String {
    match holder {
        Some(id) if id == std::process::id() => "another server of this process".to_owned(),
        Some(id) => format!("another server, process {id}"),
        None => "another server".to_owned(),
    }
}

impl Error {
    /// An error about the caller's `field`.
    pub(crate) fn input(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Input {
            field: field.into(),
            expected: expected.into(),
        }
    }

    /// An error of the file system at `path`.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

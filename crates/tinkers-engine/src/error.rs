//! The error type of the engine.

use std::path::PathBuf;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input of the caller is invalid, so nothing was computed.
    #[error("{field}: {expected}")]
    Input {
        /// The path of the invalid field, such as `data[3].loss_fn_inputs.weights`.
        field: String,
        /// A text that states what was found and what was expected.
        expected: String,
    },
    /// The model directory or its weights are invalid.
    #[error("model: {0}")]
    Model(String),
    /// A checkpoint is missing or damaged.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The path of the checkpoint file.
        path: PathBuf,
        /// The reason why the file is not a valid checkpoint.
        reason: String,
    },
    /// A file operation failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// The failed operation, such as "cannot read".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The data directory is locked by another engine, in this process or in another process.
    #[error(
        "the data directory {} is in use by {}; give each server its own",
        dir.display(),
        holder_name(*holder)
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The id of the process that holds the lock, if known.
        holder: Option<u32>,
    },
    /// A safetensors file could not be read or written.
    #[error("cannot read or write the weights as safetensors")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A tokenizer could not be read or applied.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A job panicked, or threads could not be started.
    #[error("the computation panicked: {0}")]
    Panicked(String),
    /// The engine was closed, or the job was cancelled, before the job completed.
    #[error("the engine is closed")]
    Closed,
}

/// A result with the engine's [`enum@Error`] as the default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn holder_name(holder: Option<u32>) -> String {
    match holder {
        Some(id) if id == std::process::id() => "another server of this process".to_owned(),
        Some(id) => format!("another server, process {id}"),
        None => "another server".to_owned(),
    }
}

impl Error {
    /// Creates an [`Error::Input`] for `field`.
    pub(crate) fn input(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Input {
            field: field.into(),
            expected: expected.into(),
        }
    }

    /// Returns a function that wraps an I/O error of `path` in [`Error::Io`].
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

//! The embedded Tinker server: the protocol over an [`Engine`](engine::Engine).
#![doc = include_str!("../README.md")]

mod config;
mod dialect;
pub mod engine;
mod faults;
mod host;
mod http;
mod journal;
mod openapi;
mod protocol;
mod read;
mod scripted;
mod window;

pub use config::{ApiKey, LocalConfig};
pub use dialect::{
    Dialect, Expiry, Failures, Flags, KeyNeed, Loads, MaxTokens, OpenApi, Order, OtherBodies,
    PassBodies, PollEnd, PromptLogprobs, Repeats, ResultForm, SamplerPaths, SequenceIds, StopForm,
    UnknownFields, Words,
};
pub use engine::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, Outcome, Overwrite,
    Weights, Work,
};
#[cfg(feature = "script")]
pub use faults::InvalidScript;
pub use faults::{Fault, Faults, Hint, Rule, RuleCount, Struck};
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use host::serve_stream;
pub use host::{
    BlockingServer, Cut, InProcess, LocalServer, LocalServerBuilder, ServeError, Serving,
    TokioSpawn, serve,
};
pub use http::{Answer, Request, Response};
pub use journal::{Entry, Journal};
pub use openapi::open_api;
pub use protocol::{Effect, Ended, ExchangeId, Form, Payload, Protocol, Stamp};
pub use read::{Command, Route};
pub use scripted::{Counts, Script, ScriptedEngine};
pub use window::{Congestion, HintForm, InvalidWindow, Level, Window, WindowCounts};

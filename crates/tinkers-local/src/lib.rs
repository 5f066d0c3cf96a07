//! The embedded Tinker server: the protocol on top of an [`Engine`](engine::Engine).
#![doc = include_str!("../README.md")]

mod access;
mod config;
mod dialect;
pub mod engine;
mod faults;
mod host;
mod http;
mod journal;
mod openapi;
mod peers;
mod protocol;
mod quirks;
mod read;
mod scripted;
mod store;
mod trace;
mod window;

#[cfg(feature = "script")]
pub use access::InvalidKeys;
pub use access::{AccessControl, AccessKey, Permission};
pub use config::LocalConfig;
pub use dialect::{
    Dialect, Expiry, Failures, Flags, KeyNeed, Loads, MaxTokens, OpenApi, Order, OtherBodies,
    PassBodies, PollEnd, PromptLogprobs, Repeats, ResultForm, SamplerPaths, SequenceIds, StopForm,
    UnknownFields, Words,
};
pub use engine::{
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome, Overwrite,
    SamplerWeights, Work,
};
#[cfg(feature = "script")]
pub use faults::InvalidScript;
pub use faults::{Fault, Faults, Hint, Rule, RuleCount, RuleId};
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use host::serve_stream;
pub use host::{
    BlockingServer, Cut, InProcess, LocalServer, LocalServerBuilder, ServeError, Serving,
    TokioSpawn, serve,
};
pub use http::{LazyResponse, Request, Response};
pub use journal::{Journal, JournalEntry};
pub use openapi::open_api;
pub use protocol::{Effect, Ended, ExchangeId, Form, Payload, Protocol, Stamp};
pub use quirks::{Quirk, UnknownQuirk};
pub use read::{AuthorizedCommand, Command, Route};
pub use scripted::{JobCounts, Script, ScriptedEngine};
pub use store::{Change, Database, RecordStore, StoreError, StoredRecord};
pub use window::{Congestion, HintForm, InvalidWindow, Window, WindowCounts, WindowLevel};

//! The traits between the crates of tinkers, and the decisions that need no I/O.
#![doc = include_str!("../README.md")]

pub mod admission;
pub mod backoff;
pub mod base_url;
pub mod billing;
pub mod call;
mod client_config;
pub mod closing;
pub mod context;
pub mod error;
pub mod hint;
pub mod jitter;
pub mod json_response;
pub mod nesting;
mod notices;
pub mod outage;
pub mod profile;
pub mod progress;
pub mod recovered_error;
mod response;
pub mod retry;
pub mod session_lost;
pub mod spawn;
pub mod time;
pub mod transport;
pub mod user_code;

pub use admission::{
    Admission, AdmissionRequest, Admitted, Arrival, AttemptOutcome, ClientId, Cost, DepartureCheck,
    InFlightPermit, Ledger, Readmission, RouteClass, SubmitPermit,
};
pub use backoff::Backoff;
pub use base_url::{BaseUrl, Origin, Scheme};
pub use billing::{Billing, BillingObserver, BillingPause, PaymentWait};
pub use call::{Accepted, Call, CallAdmission, CallAdmissionFuture, Caller};
pub use client_config::client_config;
pub use closing::CloseSignal;
pub use context::{BytesGuard, SessionContext};
pub use error::{Error, ErrorKind, Phase, Sent, Stalled};
pub use jitter::{FixedJitter, Jitter, SplitMix};
pub use notices::DeprecationNotices;
pub use outage::{Outage, Outages};
pub use profile::{BodyFormat, Deduplication, Document, ProfileUpdate, ServerProfile};
pub use progress::{Progress, ProgressCell};
pub use recovered_error::{RecoveredError, RecoveredErrorCounts, RecoveredErrors};
pub use retry::{CallPolicy, RetryPolicy};
pub use spawn::{BoxFuture, Spawn, Task};
pub use time::{Clock, ManualClock, Timestamp};
/// Types of `tinkers-limits` that calls carry: the retry budget, and the ticket, which records what an admitted attempt took from the rate
/// limits.
pub use tinkers_limits::{RetryBudget, RetryDraw, Ticket};
pub use transport::{
    ClassTimeouts, HttpRequest, HttpResponse, Timeouts, Transport, TransportError,
    TransportErrorKind,
};

/// A `Result` whose error type is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

//! The kinds of faults, the operations that each can affect, and their probabilities.

use std::time::Duration;

use crate::named_enum::named_enum;
use crate::op::Op;

named_enum! {
    /// A kind of fault that the simulation injects into the network, the server, the executor or
    /// the code of the user.
    pub enum Fault {
        /// The connection to the server is refused.
        ConnectionRefused = "connection-refused",
        /// The request is lost before it reaches the server, and the connection breaks.
        LostRequest = "lost-request",
        /// The server applies the request, and the connection breaks before the client receives the
        /// response.
        LostResponse = "lost-response",
        /// The server applies the request, and the connection breaks while the client receives the
        /// body of the response.
        CutBody = "cut-body",
        /// The client receives no response. The server may have applied the request.
        NoResponse = "no-response",
        /// The request is delayed in the network, so that later requests overtake it.
        LateRequest = "late-request",
        /// The response is delayed in the network.
        LateResponse = "late-response",
        /// The network delivers the request to the server a second time, after a delay.
        Duplicate = "duplicate",
        /// The response is a 408 whose body says why the queue of the server is paused.
        Timeout408 = "408",
        /// The response is a 409.
        Conflict409 = "409",
        /// The response is a 410.
        Gone410 = "410",
        /// The response is a 402.
        Billing402 = "402",
        /// The response is a 429 with a `retry-after-ms` header.
        RateLimitedMs = "429-ms",
        /// The response is a 429 with a `Retry-After` header in seconds.
        RateLimitedSeconds = "429-s",
        /// The response is a 429 with a `Retry-After` header that contains a date.
        RateLimitedDate = "429-date",
        /// The response is a 429 with `retry_after_ms` in its body.
        RateLimitedBody = "429-body",
        /// The response is a 429 without a retry delay.
        RateLimited = "429",
        /// The response is a 500. The server may have applied the request.
        Error500 = "500",
        /// The response is a 502 with the page of a proxy. The server may have applied the request.
        Error502 = "502",
        /// The response is a 400 without a body.
        Empty400 = "400-empty",
        /// The response is a 200 with the page of a proxy. The server may have applied the request.
        Html = "html",
        /// The body of the response is truncated, but the response looks complete to HTTP.
        Truncated = "truncated",
        /// The response contains unknown fields and values.
        UnknownFields = "unknown-fields",
        /// A transport layer (middleware that the user adds to the transport) panics.
        LayerPanic = "layer-panic",
        /// The server runs no jobs for a while, because it lacks capacity.
        Capacity = "capacity",
        /// The network between a client and the server is interrupted for a while.
        Partition = "partition",
        /// A proxy answers all requests with 503 for a while.
        Outage = "outage",
        /// The server stops and loses all running jobs. After the restart, the server has only its
        /// checkpoints.
        Restart = "restart",
        /// The job that executes the request fails in the engine of the server.
        JobFailure = "job-failure",
        /// The request waits for a connection before it is sent.
        SlowConnect = "slow-connect",
        /// The response is a 429 whose body arrives seconds after its head.
        RateLimitedSlowBody = "429-slow-body",
        /// The response is a 429 with a retry delay of minutes.
        RateLimitedLongHint = "429-long-hint",
        /// The executor polls tasks of the client library late, like a busy runtime.
        BusyRuntime = "busy-runtime",
        /// The program closes its session while calls are pending.
        CloseSession = "close-session",
        /// A client submits hundreds of samples at once.
        Burst = "burst",
        /// The TLS handshake of a poll fails.
        Tls = "tls",
        /// The response to a poll is a redirect that is not followed.
        Redirect = "redirect",
        /// The body of the response to a poll cannot be decoded.
        Undecodable = "undecodable",
        /// The response to a poll has a 4xx status and contains the page of a proxy.
        ProxyPage4xx = "4xx",
        /// For a while, all shared polls of a client fail in one of four ways: TLS error, redirect,
        /// undecodable body, or proxy page. A shared poll asks for all results of a sampling
        /// client. Polls for single results succeed.
        SharedPollOutage = "shared-poll-outage",
        /// For a while, the responses to shared polls (polls for all results of a sampling client)
        /// contain a cursor that is invalid or less than that of the request.
        StaleCursor = "stale-cursor",
        /// For a while, the responses to a client's acknowledgements of received results are errors
        /// or cannot be decoded.
        GarbledAck = "garbled-ack",
        /// All clients submit many samples at the same time, and some responses to the submissions
        /// are lost.
        ConcurrentBursts = "concurrent-bursts",
        /// A client submits a long sequence of training calls, and the server takes half a minute
        /// to accept each of them.
        LongQueue = "long-queue",
        /// A transport layer makes another request of the same route class before it forwards a
        /// request.
        NestedRequest = "nested-request",
        /// A transport layer delays a request, and again its response, by up to a minute each.
        SlowLayer = "slow-layer",
        /// The log subscriber of the user panics.
        LogPanic = "log-panic",
        /// The log subscriber of the user reads the state of the client while it receives a log
        /// line.
        LogReentry = "log-reentry",
    }
}

impl Fault {
    /// The kinds of faults that are newer than the regression seeds, whose runs have found bugs in
    /// the past. If the plans exclude these faults, a regression seed still produces the run that
    /// found its bug.
    pub const ADDED_LATER: &'static [Self] = Self::ALL.split_at(Self::ALL.len() - 19).1;

    /// Returns whether this fault can affect requests of the operation `op`.
    pub const fn affects(self, op: Op) -> bool {
        use Op as O;
        match self {
            // A server ends a long poll with 408. For submissions, the 408 comes from a proxy.
            Self::Timeout408 => matches!(op, O::Poll) || op.is_submission(),
            Self::Conflict409 => op.is_submission() || matches!(op, O::CreateSampler),
            Self::Gone410 | Self::Capacity => matches!(op, O::Poll),
            // The client does not read the response to a heartbeat.
            Self::Billing402 => !matches!(op, O::Heartbeat | O::Finish),
            Self::Duplicate | Self::LogPanic | Self::LogReentry => !matches!(op, O::Finish),
            // Heartbeats do not pass through transport layers.
            Self::LayerPanic | Self::SlowLayer => !matches!(op, O::Heartbeat),
            // The nested request is made on a session, which must exist.
            Self::NestedRequest => !matches!(op, O::Heartbeat | O::Config | O::CreateSession),
            Self::CloseSession => matches!(op, O::Finish),
            Self::Burst | Self::ConcurrentBursts => matches!(op, O::Sample),
            Self::Tls | Self::Redirect | Self::Undecodable | Self::ProxyPage4xx => {
                matches!(op, O::Poll | O::SharedPoll)
            }
            Self::SharedPollOutage | Self::StaleCursor | Self::GarbledAck => {
                matches!(op, O::SharedPoll)
            }
            Self::LongQueue => matches!(
                op,
                O::ForwardBackward | O::Forward | O::OptimStep | O::SaveState
            ),
            Self::JobFailure => matches!(
                op,
                O::ForwardBackward
                    | O::Forward
                    | O::OptimStep
                    | O::Sample
                    | O::SaveState
                    | O::SaveForSampler
                    | O::Load
            ),
            _ => true,
        }
    }

    /// Returns whether the fault is planned for a period of the run. All other faults are drawn at
    /// random for each request, job or log line.
    pub const fn is_timed(self) -> bool {
        matches!(
            self,
            Self::Capacity
                | Self::Partition
                | Self::Outage
                | Self::Restart
                | Self::BusyRuntime
                | Self::CloseSession
                | Self::Burst
                | Self::SharedPollOutage
                | Self::StaleCursor
                | Self::GarbledAck
                | Self::ConcurrentBursts
                | Self::LongQueue
        )
    }

    /// Returns whether the fault affects single requests. The other faults affect the server, the
    /// executor, the programs or the log subscriber.
    pub const fn is_of_requests(self) -> bool {
        !matches!(
            self,
            Self::Capacity
                | Self::BusyRuntime
                | Self::CloseSession
                | Self::Burst
                | Self::JobFailure
                | Self::LogPanic
                | Self::LogReentry
        )
    }

    /// Returns whether the fault happens in a transport layer of the user, above the network.
    pub const fn is_of_layer(self) -> bool {
        matches!(
            self,
            Self::LayerPanic | Self::NestedRequest | Self::SlowLayer
        )
    }

    /// Returns whether the fault is a 429 response.
    pub const fn is_rate_limit(self) -> bool {
        matches!(
            self,
            Self::RateLimitedMs
                | Self::RateLimitedSeconds
                | Self::RateLimitedDate
                | Self::RateLimitedBody
                | Self::RateLimited
                | Self::RateLimitedSlowBody
                | Self::RateLimitedLongHint
        )
    }
}

/// The probabilities of the faults that are drawn at random for each request, job or log line.
#[derive(Debug, Clone, Default)]
pub struct FaultRates(pub Vec<(Fault, f64)>);

impl FaultRates {
    /// Selects the fault to inject into a request of the operation `op`. Returns `None` to inject
    /// no fault. `unit` is a random number in `0.0..1.0`.
    pub fn select(&self, op: Op, unit: f64) -> Option<Fault> {
        self.select_where(unit, |fault| fault.affects(op))
    }

    /// Selects one of the faults for which `is_possible` returns `true`. Returns `None` to inject
    /// no fault. `unit` is a random number in `0.0..1.0`.
    pub fn select_where(&self, unit: f64, is_possible: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut cumulative = 0.0;
        let mut possible = self.0.iter().filter(|(fault, _)| is_possible(*fault));
        let selected = possible.find(|(_, rate)| {
            cumulative += rate;
            unit < cumulative
        });
        selected.map(|(fault, _)| *fault)
    }

    /// Returns the probability with which the fault is injected into a request, job or log line.
    /// Returns `None` if the fault does not occur in this run.
    pub fn of(&self, fault: Fault) -> Option<f64> {
        let rate = self.0.iter().find(|(other, _)| *other == fault);
        rate.map(|(_, rate)| *rate)
    }
}

/// A fault that is planned for a period of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedFault {
    /// The kind of the fault.
    pub fault: Fault,
    /// The start of the fault, as the time since the beginning of the run.
    pub start: Duration,
    /// The duration of the fault.
    pub duration: Duration,
    /// The index of the affected client. `None` if the fault affects all clients.
    pub client: Option<usize>,
}

impl TimedFault {
    /// Returns whether the fault affects a client at the time `at` since the beginning of the run.
    pub fn is_active(&self, at: Duration, client: usize) -> bool {
        self.start <= at
            && at < self.start + self.duration
            && self.client.is_none_or(|affected| affected == client)
    }
}

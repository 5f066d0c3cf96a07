//! The kinds of faults, the operations that they affect, and their rates.

use std::time::Duration;

use crate::named_enum::named_enum;
use crate::op::Op;

named_enum! {
    /// A kind of fault of the network, the server, the executor or the caller's code.
    pub enum Fault {
        /// The connection is refused.
        ConnectionRefused = "connection-refused",
        /// The request is lost, and the connection breaks.
        LostRequest = "lost-request",
        /// The request is applied, and the connection breaks before the response.
        LostResponse = "lost-response",
        /// The request is applied, and the connection breaks in the body of the response.
        CutBody = "cut-body",
        /// No response arrives. The request may have been applied.
        NoResponse = "no-response",
        /// The request is delayed, so that others overtake it.
        LateRequest = "late-request",
        /// The response is delayed.
        LateResponse = "late-response",
        /// The request arrives a second time, later.
        Duplicate = "duplicate",
        /// 408 with a queue state.
        Timeout408 = "408",
        /// 409.
        Conflict409 = "409",
        /// 410.
        Gone410 = "410",
        /// 402.
        Billing402 = "402",
        /// 429 with `retry-after-ms`.
        RateLimitedMs = "429-ms",
        /// 429 with `Retry-After` in seconds.
        RateLimitedSeconds = "429-s",
        /// 429 with `Retry-After` as a date.
        RateLimitedDate = "429-date",
        /// 429 with `retry_after_ms` in the body.
        RateLimitedBody = "429-body",
        /// 429 without a hint.
        RateLimited = "429",
        /// 500. The request may have been applied.
        Error500 = "500",
        /// 502 with the page of a proxy. The request may have been applied.
        Error502 = "502",
        /// 400 without a body.
        Empty400 = "400-empty",
        /// 200 with the page of a proxy. The request may have been applied.
        Html = "html",
        /// The body is truncated without an error.
        Truncated = "truncated",
        /// The response has unknown fields and values.
        UnknownFields = "unknown-fields",
        /// The caller's transport layer panics.
        LayerPanic = "layer-panic",
        /// The server pauses all jobs for a while because of lacking capacity.
        Capacity = "capacity",
        /// A client and the server are partitioned for a while.
        Partition = "partition",
        /// A proxy responds to all requests with 503 for a while.
        Outage = "outage",
        /// The server stops with all jobs under way, and restarts with nothing but its checkpoints.
        Restart = "restart",
        /// The engine fails the job.
        JobFailure = "job-failure",
        /// The request waits for a connection before it is sent.
        SlowConnect = "slow-connect",
        /// 429 whose body arrives seconds after its head.
        RateLimitedSlowBody = "429-slow-body",
        /// 429 with a hint of minutes.
        RateLimitedLongHint = "429-long-hint",
        /// Tasks of the client library are polled late, as on a busy runtime.
        BusyRuntime = "busy-runtime",
        /// The program closes its session while calls are under way.
        CloseSession = "close-session",
        /// A client submits hundreds of samples at once.
        Burst = "burst",
        /// The TLS handshake of a poll fails.
        Tls = "tls",
        /// The response to a poll is a redirect that is not followed.
        Redirect = "redirect",
        /// The body of the response to a poll cannot be decoded.
        Undecodable = "undecodable",
        /// The response to a poll is the page of a proxy with a 4xx status.
        ProxyPage4xx = "4xx",
        /// All shared polls of a client fail for a while, in one of the four ways above. Polls for single results succeed.
        SharedPollOutage = "shared-poll-outage",
        /// The cursor in the responses to shared polls decreases or is invalid for a while.
        StaleCursor = "stale-cursor",
        /// The responses to a client's acknowledgements are garbage or errors for a while.
        GarbledAck = "garbled-ack",
        /// All clients submit many samples at once, and some responses to the submissions are lost.
        ConcurrentBursts = "concurrent-bursts",
        /// A client submits a long sequence of training calls, and the server takes half a minute to accept each.
        LongQueue = "long-queue",
        /// The transport layer makes a request of the same class before it forwards a request.
        NestedRequest = "nested-request",
        /// The transport layer delays a request, and its response, by up to a minute.
        SlowLayer = "slow-layer",
        /// The log subscriber panics.
        LogPanic = "log-panic",
        /// The log subscriber reads the state of the client.
        LogReentry = "log-reentry",
    }
}

impl Fault {
    /// The kinds that were added after the regression seeds were found. Without them a seed has the same plan as then.
    pub const ADDED_LATER: &'static [Self] = Self::ALL.split_at(Self::ALL.len() - 19).1;

    /// Returns whether the fault can affect requests of an operation.
    pub const fn affects(self, op: Op) -> bool {
        use Op as O;
        match self {
            // A server ends a long poll with 408; for other operations it comes from a proxy.
            Self::Timeout408 => matches!(op, O::Poll) || op.is_submission(),
            Self::Conflict409 => op.is_submission() || matches!(op, O::CreateSampler),
            Self::Gone410 | Self::Capacity => matches!(op, O::Poll),
            // A heartbeat needs no readable response.
            Self::Billing402 => !matches!(op, O::Heartbeat | O::Finish),
            Self::Duplicate | Self::LogPanic | Self::LogReentry => !matches!(op, O::Finish),
            // A transport layer does not see heartbeats.
            Self::LayerPanic | Self::SlowLayer => !matches!(op, O::Heartbeat),
            // The nested request needs a session.
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

    /// Returns whether the fault is planned for a period of time, instead of being drawn for each request.
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

    /// Returns whether the fault affects single requests, and not the server, the executor, the programs or the log subscriber.
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

    /// Returns whether the fault happens in the caller's transport layer, above the network.
    pub const fn is_of_layer(self) -> bool {
        matches!(
            self,
            Self::LayerPanic | Self::NestedRequest | Self::SlowLayer
        )
    }

    /// Returns whether the response is a 429.
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

/// The probabilities of the faults that are drawn for each request.
#[derive(Debug, Clone, Default)]
pub struct FaultRates(pub Vec<(Fault, f64)>);

impl FaultRates {
    /// Selects the fault of a request of `op` by a random number in `0.0..1.0`.
    pub fn select(&self, op: Op, unit: f64) -> Option<Fault> {
        self.select_where(unit, |fault| fault.affects(op))
    }

    /// Selects one of the faults for which `is_possible` returns `true` by a random number in `0.0..1.0`.
    pub fn select_where(&self, unit: f64, is_possible: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut cumulative = 0.0;
        let mut possible = self.0.iter().filter(|(fault, _)| is_possible(*fault));
        let selected = possible.find(|(_, rate)| {
            cumulative += rate;
            unit < cumulative
        });
        selected.map(|(fault, _)| *fault)
    }

    /// Returns the probability of a fault.
    pub fn of(&self, fault: Fault) -> Option<f64> {
        let rate = self.0.iter().find(|(other, _)| *other == fault);
        rate.map(|(_, rate)| *rate)
    }
}

/// A fault that lasts for a period of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedFault {
    /// The kind.
    pub fault: Fault,
    /// The start, as time since the beginning of the run.
    pub start: Duration,
    /// The duration.
    pub duration: Duration,
    /// The affected client, or all clients if `None`.
    pub client: Option<usize>,
}

impl TimedFault {
    /// Returns whether the fault affects a client at a time.
    pub fn is_active(&self, at: Duration, client: usize) -> bool {
        self.start <= at
            && at < self.start + self.duration
            && self.client.is_none_or(|affected| affected == client)
    }
}

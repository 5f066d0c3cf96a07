//! Telemetry: reports the events of a session to the server in batches, in a task of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tinkers_core::retry::is_missing_route;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    Call, CallPolicy, Caller, Clock, Error, ErrorKind, Jitter, RecoveredError,
    RecoveredErrorCounts, RouteClass, Sent, Timestamp,
};
use tinkers_futures::catch_unwind;
use tinkers_wire::{
    SDK_VERSION, TelemetryEvent, TelemetryEventKind, TelemetrySeverity, rfc3339, routes, to_json,
};
use tokio::sync::Notify;

/// The maximum number of events in one request.
const BATCH: usize = 100;
/// The time after which queued events are sent, even if they do not fill a batch.
const INTERVAL: Duration = Duration::from_secs(10);
/// The maximum number of queued events. Further events are dropped.
const CAPACITY: usize = 10_000;
/// The time limit of one request with events.
const LIMIT: Duration = Duration::from_secs(5);

/// The numbers of telemetry events of a session. `accepted` is always the sum of the other numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TelemetryCounts {
    /// The number of events that the client has recorded.
    pub accepted: u64,
    /// The number of events that the server has received.
    pub sent: u64,
    /// The number of events that were dropped, because the queue was full or a request failed.
    pub dropped: u64,
    /// The number of events that wait to be sent or are being sent.
    pub queued: u64,
}

/// The queue of the events of one session that are not sent yet. Recording an event never waits for a request.
///
/// Events contain names of operations, kinds of errors and numbers, but no texts of the program or the server, and therefore neither API
/// keys nor prompts.
#[derive(Debug)]
pub(crate) struct Telemetry {
    session_id: String,
    time: Arc<dyn Clock>,
    jitter: Arc<dyn Jitter>,
    opened: Timestamp,
    queue: Mutex<Queue>,
    /// Notifies the task that sends the events: the queue is no longer empty, it has a full batch, or it is closed.
    changed: Notify,
    /// Notifies [`Telemetry::close`] that the task has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<TelemetryEvent>,
    /// The number of events in the request that is in flight.
    sending: usize,
    next_index: u64,
    counts: TelemetryCounts,
    /// Whether the session is closed. The task sends the queued events and ends.
    is_closed: bool,
    /// Whether events are dropped at once: the task has ended, or the server has no route for events.
    is_off: bool,
}

impl Queue {
    fn drop_all(&mut self) {
        self.counts.dropped += self.events.drain(..).len() as u64;
        self.is_off = true;
    }
}

impl Telemetry {
    /// Creates a queue with the event that the session was opened.
    pub(crate) fn new(caller: &Caller, session_id: &str) -> Arc<Self> {
        let telemetry = Self {
            session_id: session_id.to_owned(),
            time: Arc::clone(&caller.time),
            jitter: Arc::clone(&caller.jitter),
            opened: caller.time.now(),
            queue: Mutex::default(),
            changed: Notify::new(),
            ended: Notify::new(),
        };
        telemetry.record(TelemetryEventKind::SessionStart, TelemetrySeverity::Info);
        Arc::new(telemetry)
    }

    /// Records that an operation of the session has failed. The event has no message, since messages may contain inputs of the program.
    pub(crate) fn operation_failed(&self, operation: &'static str, error: &Error) {
        let mut data = Map::new();
        data.insert("operation".to_owned(), json!(operation));
        data.insert("kind".to_owned(), json!(error.kind().to_string()));
        data.insert("status_code".to_owned(), json!(error.status()));
        self.generic("operation_failed", data, TelemetrySeverity::Warning);
    }

    pub(crate) fn counts(&self) -> TelemetryCounts {
        let queue = self.lock();
        TelemetryCounts {
            queued: (queue.events.len() + queue.sending) as u64,
            ..queue.counts
        }
    }

    /// Records that the session was closed, and waits until the queued events are sent, but at most until `deadline`. Then drops the events
    /// that are not sent yet.
    pub(crate) async fn close(&self, recovered: &RecoveredErrorCounts, deadline: Timestamp) {
        let errors: Map<String, Value> = recovered
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| (kind.name().to_owned(), json!(count)))
            .collect();
        if !errors.is_empty() {
            self.generic("recovered_errors", errors, TelemetrySeverity::Info);
        }
        let duration = timedelta(self.time.now().since(self.opened));
        let end = TelemetryEventKind::SessionEnd { duration };
        self.record(end, TelemetrySeverity::Info);
        self.lock().is_closed = true;
        self.changed.notify_one();
        let ended = async {
            while !self.lock().is_off {
                self.ended.notified().await;
            }
        };
        self.time.deadline(deadline, ended).await;
        self.lock().drop_all();
    }

    /// Sends the recorded events until the queue is closed and empty, or the server has no route for events.
    pub(crate) async fn run(self: Arc<Self>, caller: Caller) {
        // Events are also sent after the close of the session.
        let caller = Caller {
            closing: Arc::default(),
            ..caller
        };
        while self.wait_for_batch().await {
            let called = catch_unwind(caller.call(self.request()));
            let due = self.time.now().after(LIMIT);
            let outcome = self.time.deadline(due, called).await;
            let outcome = outcome.unwrap_or_else(|| {
                let message = "no response to a report of telemetry events";
                Err(Error::new(ErrorKind::Timeout, Sent::MaybeSent, message))
            });
            self.settle(outcome.map(|_| ()), &caller);
        }
        self.lock().drop_all();
        self.ended.notify_one();
    }

    fn generic(&self, name: &str, event_data: Map<String, Value>, severity: TelemetrySeverity) {
        let event_name = name.to_owned();
        let kind = TelemetryEventKind::GenericEvent {
            event_name,
            event_data,
        };
        self.record(kind, severity);
    }

    fn record(&self, kind: TelemetryEventKind, severity: TelemetrySeverity) {
        let event_id = uuid(&*self.jitter);
        let since_epoch = self.time.wall().duration_since(SystemTime::UNIX_EPOCH);
        let timestamp = rfc3339(since_epoch.unwrap_or_default());
        let mut queue = self.lock();
        queue.counts.accepted += 1;
        let event_session_index = queue.next_index;
        queue.next_index += 1;
        if queue.is_off || queue.events.len() + queue.sending >= CAPACITY {
            queue.counts.dropped += 1;
            return;
        }
        queue.events.push_back(TelemetryEvent {
            kind,
            event_id,
            event_session_index,
            severity,
            timestamp,
        });
        let length = queue.events.len();
        drop(queue);
        if length == 1 || length == BATCH {
            self.changed.notify_one();
        }
    }

    /// Waits until events should be sent: a batch is full, the first event has waited for [`INTERVAL`], or the queue is closed. Returns
    /// whether there are events to send; if not, no events will follow.
    async fn wait_for_batch(&self) -> bool {
        self.until(|queue| queue.is_closed || !queue.events.is_empty())
            .await;
        let due = self.time.now().after(INTERVAL);
        let full = self.until(|queue| queue.is_closed || queue.events.len() >= BATCH);
        self.time.deadline(due, full).await;
        let queue = self.lock();
        !queue.is_off && !queue.events.is_empty()
    }

    async fn until(&self, is_reached: impl Fn(&Queue) -> bool + Send + Sync) {
        while !is_reached(&self.lock()) {
            self.changed.notified().await;
        }
    }

    /// Takes the next batch from the queue, and returns the request that sends it.
    fn request(&self) -> Call {
        let mut queue = self.lock();
        let length = queue.events.len().min(BATCH);
        queue.sending = length;
        let events = queue
            .events
            .drain(..length)
            .map(|event| serde_json::to_value(event).unwrap_or_default())
            .collect();
        drop(queue);
        let body = to_json(&tinkers_wire::Telemetry {
            events,
            platform: Some(platform().to_owned()),
            sdk_version: Some(SDK_VERSION.to_owned()),
            session_id: self.session_id.clone(),
            process_uuid: Some(process_uuid(&*self.jitter)),
        });
        let mut call = Call::post(routes::TELEMETRY, body, RouteClass::Control);
        call.policy = CallPolicy::ONCE;
        call
    }

    /// Counts the events of the request that has ended.
    fn settle(&self, outcome: Result<(), Error>, caller: &Caller) {
        let mut queue = self.lock();
        let length = std::mem::take(&mut queue.sending) as u64;
        let Err(error) = outcome else {
            queue.counts.sent += length;
            return;
        };
        queue.counts.dropped += length;
        if has_no_route(&error) {
            queue.drop_all();
        }
        drop(queue);
        caller.recovered_errors.count(RecoveredError::Telemetry);
        catch_panic(
            || tracing::debug!(recovered_error = RecoveredError::Telemetry.name(), events = length, %error, "cannot report telemetry events"),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the error shows that the server does not accept events at all, so that it is useless to send more.
fn has_no_route(error: &Error) -> bool {
    error.status().is_some_and(is_missing_route)
}

fn platform() -> &'static str {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "Darwin",
        "windows" => "Windows",
        other => other,
    }
}

/// Returns the UUID of this process.
fn process_uuid(jitter: &dyn Jitter) -> String {
    static PROCESS: OnceLock<String> = OnceLock::new();
    PROCESS.get_or_init(|| uuid(jitter)).clone()
}

/// Returns a random UUID (version 4).
fn uuid(jitter: &dyn Jitter) -> String {
    let (high, low) = (jitter.bits(), jitter.bits());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

/// Formats a duration as Python's `timedelta` does, such as `1 day, 0:01:02.345678`.
fn timedelta(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let days = match seconds / 86_400 {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    let micros = match duration.subsec_micros() {
        0 => String::new(),
        micros => format!(".{micros:06}"),
    };
    format!(
        "{days}{}:{:02}:{:02}{micros}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::SplitMix;

    #[test]
    fn durations_are_formatted_like_python_timedelta() {
        for (duration, text) in [
            (Duration::from_micros(62_345_678), "0:01:02.345678"),
            (Duration::from_secs(3_600), "1:00:00"),
            (Duration::from_secs(86_400 + 61), "1 day, 0:01:01"),
            (Duration::from_secs(3 * 86_400), "3 days, 0:00:00"),
        ] {
            assert_eq!(timedelta(duration), text);
        }
    }

    #[test]
    fn uuids_have_version_4_and_differ() {
        let jitter = SplitMix::new(7);
        let (one, two) = (uuid(&jitter), uuid(&jitter));
        assert_ne!(one, two);
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'4'));
        assert!(
            matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{one}"
        );
    }
}

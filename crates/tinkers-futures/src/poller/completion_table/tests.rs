//! Tests of the completion table.

use super::*;
use std::future::Future as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_origin(Duration::from_secs(seconds))
}

fn response(ids: &[&str], cursor: i64) -> Completions {
    let completion = |id: &&str| Completion {
        state: CompletionState::Finished,
        request_id: (*id).to_owned(),
        response_payload_uncompressed_size: Some(7),
    };
    Completions {
        completions: ids.iter().map(completion).collect(),
        cursor,
    }
}

/// Applies a poll response that reports the requests `ids` as completed and contains `cursor`, a position in the server's list of
/// completions. Returns the number of waiting requests that were notified.
fn apply(table: &CompletionTable, ids: &[&str], cursor: i64) -> usize {
    table
        .apply(at(1), &table.acknowledgement(), response(ids, cursor))
        .notified
}

fn register(table: &CompletionTable, id: &str) -> Arc<ProgressCell> {
    let progress = Arc::new(ProgressCell::new(at(0)));
    let evictions = table.begin().unwrap();
    table
        .register(evictions, id.into(), &progress, at(0))
        .unwrap();
    progress
}

fn poll(table: &CompletionTable, id: &str) -> Poll<Result<CompletionNotice>> {
    table.poll(id, Waker::noop())
}

fn size(polled: Poll<Result<CompletionNotice>>) -> Option<u64> {
    match polled {
        Poll::Ready(Ok(notice)) => notice.size.map(NonZeroU64::get),
        other => panic!("not completed: {other:?}"),
    }
}

#[test]
fn waiter_is_woken_once_by_the_completion_of_its_request() {
    let table = CompletionTable::default();
    let (one, two) = (Arc::<Count>::default(), Arc::<Count>::default());
    let progress = register(&table, "1");
    register(&table, "2");
    assert!(table.poll("1", &Waker::from(Arc::clone(&one))).is_pending());
    assert!(table.poll("2", &Waker::from(Arc::clone(&two))).is_pending());
    assert_eq!(apply(&table, &["1"], 1), 1);
    assert_eq!(
        apply(&table, &["1"], 1),
        0,
        "a repeated completion notifies no waiter"
    );
    let woken = |count: &Arc<Count>| count.0.load(Ordering::SeqCst);
    assert_eq!((woken(&one), woken(&two)), (1, 0));
    assert_eq!(progress.snapshot().last_news, at(1));
    assert_eq!(size(poll(&table, "1")), Some(7));
    assert!(poll(&table, "2").is_pending());
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[test]
fn panicking_waker_does_not_stop_other_wake_ups() {
    let table = CompletionTable::default();
    let count = Arc::<Count>::default();
    for (id, waker) in [
        ("1", Waker::from(Arc::new(Panics))),
        ("2", Waker::from(Arc::clone(&count))),
    ] {
        register(&table, id);
        assert!(table.poll(id, &waker).is_pending());
    }
    assert_eq!(apply(&table, &["1", "2"], 1), 2);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[test]
fn completion_before_registration_is_delivered_after_registration() {
    let table = CompletionTable::default();
    assert_eq!(apply(&table, &["1"], 1), 0, "not registered yet");
    register(&table, "1");
    assert_eq!(size(poll(&table, "1")), Some(7));
    assert!(table.lock().early.is_empty());
}

#[test]
fn request_polls_individually_if_its_completion_was_evicted() {
    let table = CompletionTable::default();
    let evictions = table.begin().unwrap();
    let all: Vec<String> = (0..=MAX_EARLY).map(|i| i.to_string()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    apply(&table, &all, 1);
    {
        let state = table.lock();
        assert_eq!(
            (state.early.len(), state.early_order.len()),
            (MAX_EARLY, MAX_EARLY)
        );
    }
    let progress = Arc::new(ProgressCell::new(at(0)));
    table
        .register(evictions, "0".into(), &progress, at(0))
        .unwrap();
    assert_eq!(size(poll(&table, "0")), None, "its completion was evicted");
    table
        .register(evictions, "1".into(), &progress, at(0))
        .unwrap();
    assert_eq!(size(poll(&table, "1")), Some(7));
    // No completion was evicted after this submission began.
    register(&table, "new");
    assert!(poll(&table, "new").is_pending());
}

#[test]
fn acknowledgement_is_repeated_until_a_poll_response_is_applied() {
    let table = CompletionTable::default();
    register(&table, "1");
    table.deregister(&"1".into());
    let lost = table.acknowledgement();
    assert_eq!(
        (lost.cursor, &lost.retrieved[..]),
        (0, &[Arc::from("1")][..])
    );
    assert_eq!(table.acknowledgement(), lost, "there was no response");
    register(&table, "2");
    table.deregister(&"2".into());
    table.apply(at(1), &lost, response(&["3"], 4));
    let next = table.acknowledgement();
    assert_eq!(
        (next.cursor, &next.retrieved[..]),
        (4, &[Arc::from("2")][..])
    );
    // The next poll acknowledges cursor 4.
    assert_eq!(table.work(), Work::Acknowledge);
    table.apply(at(1), &next, response(&[], 4));
    assert_eq!(table.work(), Work::Idle);
}

#[test]
fn poll_cursor_never_goes_back_and_invalid_cursors_are_reported_once() {
    let table = CompletionTable::default();
    let cursor = |to: i64| {
        let applied = table.apply(at(1), &table.acknowledgement(), response(&[], to));
        (table.acknowledgement().cursor, applied.is_first_bad_cursor)
    };
    assert_eq!(cursor(5), (5, false));
    assert_eq!(cursor(5), (5, false), "the same cursor is valid");
    assert_eq!(cursor(3), (5, true));
    assert_eq!(cursor(Completions::NO_CURSOR), (5, false));
    assert_eq!(cursor(6), (6, false));
    assert_eq!(cursor(0), (6, false));
}

#[test]
fn poll_cursor_is_acknowledged_only_after_new_completions() {
    let table = CompletionTable::default();
    apply(&table, &[], 3);
    assert_eq!(table.work(), Work::Idle, "no completion");
    apply(&table, &["1"], 4);
    assert_eq!(table.work(), Work::Acknowledge);
    let acknowledgement = table.acknowledgement();
    // The higher cursor comes with a repeated completion.
    table.apply(at(1), &acknowledgement, response(&["1"], 9));
    assert_eq!(
        (table.work(), table.has_unacknowledged()),
        (Work::Idle, false)
    );
    apply(&table, &["2"], 2);
    assert_eq!(
        table.work(),
        Work::Idle,
        "its cursor is acknowledged already"
    );
}

#[test]
fn waiters_poll_individually_while_the_shared_poll_is_suspended() {
    let table = CompletionTable::default();
    apply(&table, &["early"], 1);
    register(&table, "waiting");
    let count = Arc::<Count>::default();
    let waker = Waker::from(Arc::clone(&count));
    assert!(table.poll("waiting", &waker).is_pending());
    table.suspend();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(size(poll(&table, "waiting")), None);
    register(&table, "early");
    assert_eq!(size(poll(&table, "early")), Some(7), "completed before");
    register(&table, "new");
    assert_eq!(size(poll(&table, "new")), None);
    assert_ne!(table.work(), Work::Wait);
    table.resume();
    register(&table, "later");
    assert!(poll(&table, "later").is_pending());
    assert_eq!(table.work(), Work::Wait);
}

/// A waker that records the state of the table at the time when it is called. It shows whether the table was updated before the waker was
/// called.
struct StateRecorder {
    table: Arc<CompletionTable>,
    id: &'static str,
    seen: Mutex<Vec<String>>,
}

impl Wake for StateRecorder {
    fn wake(self: Arc<Self>) {
        let waiter = match self.table.poll(self.id, Waker::noop()) {
            Poll::Ready(Ok(_)) => "completed",
            Poll::Ready(Err(_)) => "ended",
            Poll::Pending => "pending",
        };
        let table = match self.table.begin() {
            Ok(_) if self.table.lock().is_suspended => "suspended",
            Ok(_) => "running",
            Err(_) => "failed",
        };
        self.seen.lock().unwrap().push(format!("{waiter}, {table}"));
    }
}

#[test]
fn completion_table_is_updated_before_waiters_are_woken() {
    let seen = |act: fn(&CompletionTable)| {
        let table = Arc::<CompletionTable>::default();
        register(&table, "1");
        let recorder = Arc::new(StateRecorder {
            table: Arc::clone(&table),
            id: "1",
            seen: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&recorder));
        assert!(table.poll("1", &waker).is_pending());
        act(&table);
        std::mem::take(&mut *recorder.seen.lock().unwrap())
    };
    assert_eq!(seen(|table| table.end(Error::closed())), ["ended, failed"]);
    assert_eq!(seen(CompletionTable::suspend), ["completed, suspended"]);
    let complete = |table: &CompletionTable| {
        apply(table, &["1"], 1);
    };
    assert_eq!(seen(complete), ["completed, running"]);
    let overdue = |table: &CompletionTable| table.release_overdue(at(9), Duration::from_secs(9));
    assert_eq!(seen(overdue), ["completed, running"]);
}

#[test]
fn completion_repeated_after_retrieval_is_ignored() {
    let table = CompletionTable::default();
    register(&table, "1");
    apply(&table, &["1"], 1);
    table.deregister(&"1".into());
    assert_eq!(apply(&table, &["1"], 1), 0);
    assert!(table.lock().early.is_empty());
}

#[test]
fn ended_poller_fails_pending_and_later_waiters_with_its_first_error() {
    let table = CompletionTable::default();
    register(&table, "completed");
    register(&table, "waiting");
    let count = Arc::<Count>::default();
    assert!(
        table
            .poll("waiting", &Waker::from(Arc::clone(&count)))
            .is_pending()
    );
    apply(&table, &["completed", "early"], 1);
    let evictions = table.begin().unwrap();
    table.end(Error::new(ErrorKind::NotFound, Sent::Answered, "first"));
    table.end(Error::closed());
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(size(poll(&table, "completed")), Some(7));
    let Poll::Ready(Err(error)) = poll(&table, "waiting") else {
        panic!("the waiter must fail")
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // One submission began before the end of the poller, and another one begins afterwards.
    let progress = Arc::new(ProgressCell::new(at(0)));
    table
        .register(evictions, "early".into(), &progress, at(0))
        .unwrap();
    assert_eq!(size(poll(&table, "early")), Some(7));
    table
        .register(evictions, "late".into(), &progress, at(0))
        .unwrap();
    assert!(matches!(poll(&table, "late"), Poll::Ready(Err(_))));
    let error = table.begin().unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::NotFound, Sent::NotSent)
    );
}

#[test]
fn request_id_cannot_be_registered_twice() {
    let table = CompletionTable::default();
    let progress = register(&table, "1");
    let second = table.register(0, "1".into(), &progress, at(0)).unwrap_err();
    assert_eq!(
        (second.kind(), second.request_id()),
        (ErrorKind::Protocol, Some("1"))
    );
    assert!(poll(&table, "1").is_pending());
    apply(&table, &["1"], 1);
    assert_eq!(size(poll(&table, "1")), Some(7));
}

#[test]
fn only_requests_that_waited_longer_than_the_limit_poll_individually() {
    let table = CompletionTable::default();
    let limit = Duration::from_secs(100);
    register(&table, "old");
    let progress = Arc::new(ProgressCell::new(at(0)));
    table
        .register(0, "young".into(), &progress, at(50))
        .unwrap();
    table.release_overdue(at(99), limit);
    assert!(poll(&table, "old").is_pending());
    table.release_overdue(at(100), limit);
    assert_eq!(size(poll(&table, "old")), None);
    assert!(poll(&table, "young").is_pending());
    table.release_overdue(at(149), limit);
    assert!(poll(&table, "young").is_pending());
    // Waiters are checked only between polls, which is rarely at the exact limit.
    table.release_overdue(at(160), limit);
    assert_eq!(size(poll(&table, "young")), None);
    assert_eq!(table.work(), Work::Idle);
}

#[test]
fn completion_wait_is_measured_from_each_registration_time() {
    let table = CompletionTable::default();
    let progress = Arc::new(ProgressCell::new(at(0)));
    for (id, since) in [("later", 5), ("earlier", 3)] {
        table.register(0, id.into(), &progress, at(since)).unwrap();
    }
    table.release_overdue(at(103), Duration::from_secs(100));
    assert_eq!(size(poll(&table, "earlier")), None);
    assert!(poll(&table, "later").is_pending());
}

#[test]
fn reset_deadlines_restarts_the_completion_wait_of_all_requests() {
    let table = CompletionTable::default();
    let limit = Duration::from_secs(100);
    let progress = register(&table, "1");
    table.reset_deadlines(at(90));
    assert_eq!(progress.last_news(), at(90));
    table.release_overdue(at(189), limit);
    assert!(poll(&table, "1").is_pending());
    table.release_overdue(at(190), limit);
    assert_eq!(size(poll(&table, "1")), None);
}

/// A waker for the polling task that records the next step in the table at the time when it is called. It shows whether the table was
/// updated before the waker was called.
struct WorkRecorder {
    table: Arc<CompletionTable>,
    seen: Mutex<Vec<Option<(Work, bool)>>>,
}

impl Wake for WorkRecorder {
    fn wake(self: Arc<Self>) {
        let state = self.table.state.try_lock().ok();
        let seen = state.map(|state| (state.work(), state.is_closed));
        self.seen.lock().unwrap().push(seen);
    }
}

#[test]
fn completion_table_is_updated_before_the_polling_task_is_woken() {
    let table = Arc::<CompletionTable>::default();
    let recorder = Arc::new(WorkRecorder {
        table: Arc::clone(&table),
        seen: Mutex::default(),
    });
    let waker = Waker::from(Arc::clone(&recorder));
    let mut cx = std::task::Context::from_waker(&waker);
    let mut work = std::pin::pin!(table.until_work());
    let mut closed = std::pin::pin!(table.until_closed());
    assert!(work.as_mut().poll(&mut cx).is_pending());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    register(&table, "1");
    assert!(work.as_mut().poll(&mut cx).is_ready());
    let mut work = std::pin::pin!(table.until_work());
    table.deregister(&"1".into());
    assert_eq!(work.as_mut().poll(&mut cx), Poll::Ready(Work::Acknowledge));
    table.close();
    let seen = recorder.seen.lock().unwrap().clone();
    let expected = [(Work::Wait, false), (Work::Acknowledge, true)];
    assert_eq!(seen, expected.map(Some));
}

#[test]
fn ended_or_full_completion_table_stores_no_retrieved_request_ids() {
    let table = CompletionTable::default();
    for id in 0..=MAX_RETRIEVED {
        table.deregister(&id.to_string().into());
    }
    assert_eq!(table.lock().retrieved.len(), MAX_RETRIEVED);
    let table = CompletionTable::default();
    register(&table, "1");
    table.end(Error::closed());
    table.deregister(&"1".into());
    assert!(!table.has_unacknowledged(), "nothing polls after the end");
}

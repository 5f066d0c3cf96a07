//! What the board makes of answers, in whatever order they come.

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

fn told(ids: &[&str], cursor: i64) -> Completions {
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

/// How many waiters an answer told of their results.
fn answer(board: &Board, ids: &[&str], cursor: i64) -> usize {
    board
        .answered(at(1), &board.report(), told(ids, cursor))
        .waiters
}

fn watch(board: &Board, id: &str) -> Arc<ProgressCell> {
    let progress = Arc::new(ProgressCell::new(at(0)));
    let evictions = board.begin().unwrap();
    board.watch(evictions, id.into(), &progress, at(0)).unwrap();
    progress
}

fn poll(board: &Board, id: &str) -> Poll<Result<CompletionNotice>> {
    board.poll(id, Waker::noop())
}

fn size(polled: Poll<Result<CompletionNotice>>) -> Option<u64> {
    match polled {
        Poll::Ready(Ok(announcement)) => announcement.size.map(NonZeroU64::get),
        other => panic!("not announced: {other:?}"),
    }
}

#[test]
fn each_waiter_is_woken_once_and_by_its_own_completion() {
    let board = Board::default();
    let (one, two) = (Arc::<Count>::default(), Arc::<Count>::default());
    let progress = watch(&board, "1");
    watch(&board, "2");
    assert!(board.poll("1", &Waker::from(Arc::clone(&one))).is_pending());
    assert!(board.poll("2", &Waker::from(Arc::clone(&two))).is_pending());
    assert_eq!(answer(&board, &["1"], 1), 1);
    assert_eq!(answer(&board, &["1"], 1), 0, "told twice is no news");
    let woken = |count: &Arc<Count>| count.0.load(Ordering::SeqCst);
    assert_eq!((woken(&one), woken(&two)), (1, 0));
    assert_eq!(progress.snapshot().last_news, at(1));
    assert_eq!(size(poll(&board, "1")), Some(7));
    assert!(poll(&board, "2").is_pending());
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[test]
fn panicking_waker_keeps_no_other_waiter_asleep() {
    let board = Board::default();
    let count = Arc::<Count>::default();
    for (id, waker) in [
        ("1", Waker::from(Arc::new(Panics))),
        ("2", Waker::from(Arc::clone(&count))),
    ] {
        watch(&board, id);
        assert!(board.poll(id, &waker).is_pending());
    }
    assert_eq!(answer(&board, &["1", "2"], 1), 2);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[test]
fn what_comes_before_its_waiter_is_kept_for_it() {
    let board = Board::default();
    assert_eq!(answer(&board, &["1"], 1), 0, "its waiter is yet to come");
    watch(&board, "1");
    assert_eq!(size(poll(&board, "1")), Some(7));
    assert!(board.lock().early.is_empty());
}

#[test]
fn beyond_the_bound_those_who_may_have_missed_theirs_ask_for_themselves() {
    let board = Board::default();
    let begun = board.begin().unwrap();
    let all: Vec<String> = (0..=MOST_EARLY).map(|i| i.to_string()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    answer(&board, &all, 1);
    {
        let state = board.lock();
        assert_eq!(
            (state.early.len(), state.arrivals.len()),
            (MOST_EARLY, MOST_EARLY)
        );
    }
    let progress = Arc::new(ProgressCell::new(at(0)));
    board.watch(begun, "0".into(), &progress, at(0)).unwrap();
    assert_eq!(size(poll(&board, "0")), None, "its completion had to go");
    board.watch(begun, "1".into(), &progress, at(0)).unwrap();
    assert_eq!(size(poll(&board, "1")), Some(7));
    // Whoever begins now has missed nothing.
    watch(&board, "new");
    assert!(poll(&board, "new").is_pending());
}

#[test]
fn the_cursor_moves_with_answers_alone_and_what_was_said_is_said_until_it_is_heard() {
    let board = Board::default();
    watch(&board, "1");
    board.leave(&"1".into());
    let lost = board.report();
    assert_eq!(
        (lost.cursor, &lost.retrieved[..]),
        (0, &[Arc::from("1")][..])
    );
    assert_eq!(board.report(), lost, "no answer came: the same again");
    watch(&board, "2");
    board.leave(&"2".into());
    board.answered(at(1), &lost, told(&["3"], 4));
    let next = board.report();
    assert_eq!(
        (next.cursor, &next.retrieved[..]),
        (4, &[Arc::from("2")][..])
    );
    // Cursor 4 is still to be acknowledged by a poll that says it.
    assert_eq!(board.work(), Work::Acknowledge);
    board.answered(at(1), &next, told(&[], 4));
    assert_eq!(board.work(), Work::Idle);
}

#[test]
fn the_cursor_only_grows_and_a_bad_one_counts_once() {
    let board = Board::default();
    let cursor = |to: i64| {
        let answered = board.answered(at(1), &board.report(), told(&[], to));
        (board.report().cursor, answered.first_bad_cursor)
    };
    assert_eq!(cursor(5), (5, false));
    assert_eq!(cursor(3), (5, true));
    assert_eq!(cursor(Completions::NO_CURSOR), (5, false));
    assert_eq!(cursor(6), (6, false));
    assert_eq!(cursor(0), (6, false));
}

#[test]
fn only_a_cursor_that_told_of_something_new_is_acknowledged() {
    let board = Board::default();
    answer(&board, &[], 3);
    assert_eq!(board.work(), Work::Idle, "it told of nothing");
    answer(&board, &["1"], 4);
    assert_eq!(board.work(), Work::Acknowledge);
    let report = board.report();
    // Whatever cursor comes with it, one poll acknowledges it.
    board.answered(at(1), &report, told(&["1"], 9));
    assert_eq!((board.work(), board.owes()), (Work::Idle, false));
    answer(&board, &["2"], 2);
    assert_eq!(
        board.work(),
        Work::Idle,
        "its cursor was acknowledged before"
    );
}

#[test]
fn while_the_poll_rests_every_waiter_polls_for_itself() {
    let board = Board::default();
    answer(&board, &["early"], 1);
    watch(&board, "waits");
    let count = Arc::<Count>::default();
    let waker = Waker::from(Arc::clone(&count));
    assert!(board.poll("waits", &waker).is_pending());
    board.suspend();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(size(poll(&board, "waits")), None);
    watch(&board, "early");
    assert_eq!(size(poll(&board, "early")), Some(7), "it was told before");
    watch(&board, "comes");
    assert_eq!(size(poll(&board, "comes")), None);
    assert_ne!(board.work(), Work::Wait);
    board.resume();
    watch(&board, "later");
    assert!(poll(&board, "later").is_pending());
    assert_eq!(board.work(), Work::Wait);
}

/// A waker that looks at the board as it is woken, as an executor on another thread may.
struct Look {
    board: Arc<Board>,
    id: &'static str,
    seen: Mutex<Vec<String>>,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        let seen = match self.board.poll(self.id, Waker::noop()) {
            Poll::Ready(Ok(_)) => "told",
            Poll::Ready(Err(_)) => "ended",
            Poll::Pending => "nothing",
        };
        let others = match self.board.begin() {
            Ok(_) if self.board.lock().suspended => "others poll for themselves",
            Ok(_) => "others wait",
            Err(_) => "others fail",
        };
        self.seen.lock().unwrap().push(format!("{seen}, {others}"));
    }
}

#[test]
fn a_woken_waiter_finds_the_state_that_it_is_woken_for() {
    let seen = |act: fn(&Board)| {
        let board = Arc::<Board>::default();
        watch(&board, "1");
        let look = Arc::new(Look {
            board: Arc::clone(&board),
            id: "1",
            seen: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&look));
        assert!(board.poll("1", &waker).is_pending());
        act(&board);
        std::mem::take(&mut *look.seen.lock().unwrap())
    };
    assert_eq!(
        seen(|board| board.end(Error::closed())),
        ["ended, others fail"]
    );
    assert_eq!(seen(Board::suspend), ["told, others poll for themselves"]);
    let told = |board: &Board| {
        answer(board, &["1"], 1);
    };
    assert_eq!(seen(told), ["told, others wait"]);
    let overdue = |board: &Board| board.release_overdue(at(9), Duration::from_secs(9));
    assert_eq!(seen(overdue), ["told, others wait"]);
}

#[test]
fn a_completion_that_is_told_again_after_it_was_used_is_not_kept() {
    let board = Board::default();
    watch(&board, "1");
    answer(&board, &["1"], 1);
    board.leave(&"1".into());
    assert_eq!(answer(&board, &["1"], 1), 0);
    assert!(board.lock().early.is_empty());
}

#[test]
fn the_end_reaches_everybody_once_and_what_was_told_before_stays() {
    let board = Board::default();
    watch(&board, "told");
    watch(&board, "waits");
    let count = Arc::<Count>::default();
    assert!(
        board
            .poll("waits", &Waker::from(Arc::clone(&count)))
            .is_pending()
    );
    answer(&board, &["told", "early"], 1);
    let evictions = board.begin().unwrap();
    board.end(Error::new(ErrorKind::NotFound, Sent::Answered, "first"));
    board.end(Error::closed());
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(size(poll(&board, "told")), Some(7));
    let Poll::Ready(Err(error)) = poll(&board, "waits") else {
        panic!("it hangs")
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // One that was on its way and one that begins now.
    let progress = Arc::new(ProgressCell::new(at(0)));
    board
        .watch(evictions, "early".into(), &progress, at(0))
        .unwrap();
    assert_eq!(size(poll(&board, "early")), Some(7));
    board
        .watch(evictions, "late".into(), &progress, at(0))
        .unwrap();
    assert!(matches!(poll(&board, "late"), Poll::Ready(Err(_))));
    let refused = board.begin().unwrap_err();
    assert_eq!(
        (refused.kind(), refused.sent()),
        (ErrorKind::NotFound, Sent::NotSent)
    );
}

#[test]
fn an_id_has_one_waiter_and_the_second_does_not_disturb_the_first() {
    let board = Board::default();
    let progress = watch(&board, "1");
    let second = board.watch(0, "1".into(), &progress, at(0)).unwrap_err();
    assert_eq!(
        (second.kind(), second.request_id()),
        (ErrorKind::Protocol, Some("1"))
    );
    assert!(poll(&board, "1").is_pending());
    answer(&board, &["1"], 1);
    assert_eq!(size(poll(&board, "1")), Some(7));
}

#[test]
fn who_waits_for_too_long_asks_for_itself_and_nobody_else_does() {
    let board = Board::default();
    let limit = Duration::from_secs(100);
    watch(&board, "old");
    let progress = Arc::new(ProgressCell::new(at(0)));
    board.watch(0, "young".into(), &progress, at(50)).unwrap();
    board.release_overdue(at(99), limit);
    assert!(poll(&board, "old").is_pending());
    board.release_overdue(at(100), limit);
    assert_eq!(size(poll(&board, "old")), None);
    assert!(poll(&board, "young").is_pending());
    board.release_overdue(at(149), limit);
    assert!(poll(&board, "young").is_pending());
    board.release_overdue(at(150), limit);
    assert_eq!(size(poll(&board, "young")), None);
    assert_eq!(board.work(), Work::Idle);
}

#[test]
fn news_for_all_begins_their_waiting_anew() {
    let board = Board::default();
    let limit = Duration::from_secs(100);
    let progress = watch(&board, "1");
    board.news_for_all(at(90));
    assert_eq!(progress.last_news(), at(90));
    board.release_overdue(at(189), limit);
    assert!(poll(&board, "1").is_pending());
    board.release_overdue(at(190), limit);
    assert_eq!(size(poll(&board, "1")), None);
}

/// A waker of the task that looks at the board as it is woken.
struct LookForWork {
    board: Arc<Board>,
    seen: Mutex<Vec<Option<(Work, bool)>>>,
}

impl Wake for LookForWork {
    fn wake(self: Arc<Self>) {
        let state = self.board.state.try_lock().ok();
        let seen = state.map(|state| (state.work(), state.closed));
        self.seen.lock().unwrap().push(seen);
    }
}

#[test]
fn woken_task_finds_what_it_is_woken_for() {
    let board = Arc::<Board>::default();
    let look = Arc::new(LookForWork {
        board: Arc::clone(&board),
        seen: Mutex::default(),
    });
    let waker = Waker::from(Arc::clone(&look));
    let mut cx = std::task::Context::from_waker(&waker);
    let mut work = std::pin::pin!(board.until_work());
    let mut closed = std::pin::pin!(board.until_closed());
    assert!(work.as_mut().poll(&mut cx).is_pending());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    watch(&board, "1");
    assert!(work.as_mut().poll(&mut cx).is_ready());
    let mut work = std::pin::pin!(board.until_work());
    board.leave(&"1".into());
    assert_eq!(work.as_mut().poll(&mut cx), Poll::Ready(Work::Acknowledge));
    board.close();
    let seen = look.seen.lock().unwrap().clone();
    let expected = [(Work::Wait, false), (Work::Acknowledge, true)];
    assert_eq!(seen, expected.map(Some));
}

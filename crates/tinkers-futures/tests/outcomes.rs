//! Tests that each operation has exactly one outcome, with many operations that end in different ways on real threads.

mod support;

use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tinkers_core::{
    BoxFuture, Error, ErrorKind, Result, RouteClass, Sent, SessionContext, Spawn, Task,
};
use tinkers_futures::{ApiFuture, Operation, start};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

/// The time for which the test waits for the outcome of one operation before it fails.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// The number of operations that the test runs for each combination of [`Work`] (how the operation ends by itself) and [`Event`] (what
/// interrupts it).
const EACH: usize = 500;

/// The way in which the operation under test ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Succeeds,
    Fails,
    Panics,
    NeverEnds,
}

/// The event that interrupts an operation under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Nothing,
    /// The task of the operation is aborted.
    Abort,
    /// The handle of the operation is dropped.
    Drop,
    /// The runtime of the task ends.
    RuntimeEnds,
}

const CASES: [(Work, Event); 9] = [
    (Work::Succeeds, Event::Nothing),
    (Work::Fails, Event::Nothing),
    (Work::Panics, Event::Nothing),
    (Work::Succeeds, Event::Abort),
    (Work::NeverEnds, Event::Abort),
    (Work::Panics, Event::Abort),
    (Work::Succeeds, Event::Drop),
    (Work::Succeeds, Event::RuntimeEnds),
    (Work::NeverEnds, Event::RuntimeEnds),
];

/// A function that wraps the background task of an operation before the task is spawned. The test uses it to insert a fault on purpose.
type Wrap = fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;

/// A spawner that runs the task of one operation on a given runtime, and stores the abort handle of the task for the test.
#[derive(Debug)]
struct OnThreads {
    runtime: Handle,
    wrap: Wrap,
    abort: Arc<Mutex<Option<AbortHandle>>>,
}

impl Spawn for OnThreads {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let abort = self.runtime.spawn((self.wrap)(work)).abort_handle();
        *self.abort.lock().unwrap() = Some(abort.clone());
        Task::new(move || abort.abort())
    }
}

/// A resource that the operation under test holds. It counts how often it is dropped, which must be once.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future that holds a resource until the future is dropped, even after the future has completed.
struct Holding<F> {
    work: Pin<Box<F>>,
    _held: Held,
}

impl<F: Future> Future for Holding<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.work.as_mut().poll(cx)
    }
}

struct Started {
    number: usize,
    handle: ApiFuture<usize>,
    abort: Arc<Mutex<Option<AbortHandle>>>,
    /// The number of times that the resource of the operation was dropped.
    drops: Arc<AtomicUsize>,
}

fn begin(runtime: &Handle, wrap: Wrap, number: usize, work: Work) -> Started {
    let abort = Arc::default();
    let spawner = OnThreads {
        runtime: runtime.clone(),
        wrap,
        abort: Arc::clone(&abort),
    };
    let session = support::session_on(spawner) as Arc<dyn SessionContext>;
    let drops = Arc::<AtomicUsize>::default();
    let held = Held(Arc::clone(&drops));
    let work = Box::pin(async move {
        for _ in 0..number % 4 {
            tokio::task::yield_now().await;
        }
        match work {
            Work::Succeeds => Ok(number),
            Work::Fails => Err(error(number)),
            // `resume_unwind` does not call the panic hook.
            Work::Panics => resume_unwind(Box::new("boom")),
            Work::NeverEnds => std::future::pending().await,
        }
    });
    let work = Holding { work, _held: held };
    let handle = start(
        Operation::new(session, "Test.work", RouteClass::Sample),
        work,
    );
    Started {
        number,
        handle,
        abort,
        drops,
    }
}

fn error(number: usize) -> Error {
    let message = format!("the work {number} failed");
    Error::new(ErrorKind::Rejected, Sent::Answered, message)
}

/// Returns whether `outcome` is allowed for the operation `number`, given how its work ends and which event interrupts it.
fn is_allowed(number: usize, case: (Work, Event), outcome: &Result<usize>) -> bool {
    let has_message =
        |words: &str| matches!(outcome, Err(error) if error.to_string().contains(words));
    let is_own = match case.0 {
        Work::Succeeds => matches!(outcome, Ok(same) if *same == number),
        Work::Fails => has_message(&format!("the work {number} failed")),
        Work::Panics => has_message("boom"),
        Work::NeverEnds => false,
    };
    is_own || (case.1 != Event::Nothing && has_message("the background task was aborted"))
}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .build()
        .unwrap()
}

fn poll_once(handle: ApiFuture<usize>) -> Option<Result<usize>> {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(handle).poll(&mut cx) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

#[test]
fn each_operation_ends_with_exactly_one_outcome() {
    let (tasks, waiters) = (runtime(2), runtime(2));
    let (sender, receiver) = mpsc::channel();
    let (mut kept, mut drops, mut waited_for) = (Vec::new(), Vec::new(), 0);
    for number in 0..EACH * CASES.len() {
        let (work, event) = CASES[number % CASES.len()];
        let started = begin(tasks.handle(), |work| work, number, work);
        drops.push(Arc::clone(&started.drops));
        match event {
            Event::Drop => drop(started.handle),
            Event::RuntimeEnds => kept.push((number, started.handle)),
            Event::Nothing | Event::Abort => {
                waited_for += 1;
                let sender = sender.clone();
                waiters.spawn(async move {
                    let outcome = started.handle.await;
                    let is_released = started.drops.load(Ordering::SeqCst) == 1;
                    let _ = sender.send((started.number, outcome, is_released));
                });
                if event == Event::Abort {
                    started.abort.lock().unwrap().take().unwrap().abort();
                }
            }
        }
    }
    drop(sender);

    let mut outcomes = vec![0; EACH * CASES.len()];
    let mut aborted = 0;
    for _ in 0..waited_for {
        let (number, outcome, is_released) = receiver
            .recv_timeout(TIME_LIMIT)
            .expect("an operation hangs");
        let case = CASES[number % CASES.len()];
        assert!(is_allowed(number, case, &outcome), "{case:?}: {outcome:?}");
        let was_aborted = !is_allowed(number, (case.0, Event::Nothing), &outcome);
        assert!(
            is_released || was_aborted,
            "{case:?}: the resource is not released"
        );
        aborted += usize::from(was_aborted);
        outcomes[number] += 1;
    }
    assert!(aborted >= EACH, "work that never ends must be aborted");
    drop(tasks);
    // All tasks have ended, so each outcome is available at once.
    for (number, handle) in kept {
        let case = CASES[number % CASES.len()];
        let outcome = poll_once(handle).expect("an operation would hang");
        assert!(is_allowed(number, case, &outcome), "{case:?}: {outcome:?}");
        outcomes[number] += 1;
    }
    for (number, times) in outcomes.into_iter().enumerate() {
        let is_dropped = CASES[number % CASES.len()].1 == Event::Drop;
        assert_eq!(times, usize::from(!is_dropped), "outcomes of {number}");
    }
    for drops in drops {
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }
}

/// Checks that the test can fail: if the runtime leaks an aborted task, the operation never returns an outcome, and the test must detect
/// this.
#[test]
fn negative_control_operation_without_an_outcome_is_detected() {
    struct Leaked(ManuallyDrop<BoxFuture<'static, ()>>);

    impl Future for Leaked {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.0.as_mut().poll(cx)
        }
    }

    let hangs = |wrap: Wrap| {
        let tasks = runtime(1);
        let started = begin(tasks.handle(), wrap, 0, Work::NeverEnds);
        drop(tasks);
        poll_once(started.handle).is_none()
    };
    assert!(!hangs(|work| work));
    assert!(hangs(|work| Box::pin(Leaked(ManuallyDrop::new(work)))));
}

//! Every operation has one outcome, however it ends: counted over many that end in every way, on real threads.

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

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of each way to end.
const EACH: usize = 500;

/// How the work of an operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Succeeds,
    Fails,
    Panics,
    NeverEnds,
}

/// What happens to an operation meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// Its task is aborted.
    Abort,
    /// Its handle is dropped.
    Drop,
    /// The runtime of its task ends.
    RuntimeEnds,
}

const WAYS: [(Work, Meanwhile); 9] = [
    (Work::Succeeds, Meanwhile::Nothing),
    (Work::Fails, Meanwhile::Nothing),
    (Work::Panics, Meanwhile::Nothing),
    (Work::Succeeds, Meanwhile::Abort),
    (Work::NeverEnds, Meanwhile::Abort),
    (Work::Panics, Meanwhile::Abort),
    (Work::Succeeds, Meanwhile::Drop),
    (Work::Succeeds, Meanwhile::RuntimeEnds),
    (Work::NeverEnds, Meanwhile::RuntimeEnds),
];

/// What is put between an operation's task and the runtime.
type Wrap = fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;

/// Starts the task of one operation on a runtime, and keeps the way to abort it.
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

/// Counts how often it is dropped.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Work that holds something until it is dropped, and not only until it has ended.
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

struct PendingSubmission {
    number: usize,
    handle: ApiFuture<usize>,
    abort: Arc<Mutex<Option<AbortHandle>>>,
    /// How often what its work held was given back.
    given_back: Arc<AtomicUsize>,
}

fn begin(runtime: &Handle, wrap: Wrap, number: usize, work: Work) -> PendingSubmission {
    let abort = Arc::default();
    let spawner = OnThreads {
        runtime: runtime.clone(),
        wrap,
        abort: Arc::clone(&abort),
    };
    let session = support::session_on(spawner) as Arc<dyn SessionContext>;
    let given_back = Arc::<AtomicUsize>::default();
    let held = Held(Arc::clone(&given_back));
    let work = Box::pin(async move {
        for _ in 0..number % 4 {
            tokio::task::yield_now().await;
        }
        match work {
            Work::Succeeds => Ok(number),
            Work::Fails => Err(error(number)),
            // Without a word of the panic hook.
            Work::Panics => resume_unwind(Box::new("boom")),
            Work::NeverEnds => std::future::pending().await,
        }
    });
    let work = Holding { work, _held: held };
    let handle = start(
        Operation::new(session, "Test.work", RouteClass::Sample),
        work,
    );
    PendingSubmission {
        number,
        handle,
        abort,
        given_back,
    }
}

fn error(number: usize) -> Error {
    let message = format!("the work {number} failed");
    Error::new(ErrorKind::Rejected, Sent::Answered, message)
}

/// Whether an operation may end so.
fn is_right(number: usize, way: (Work, Meanwhile), outcome: &Result<usize>) -> bool {
    let says = |words: &str| matches!(outcome, Err(error) if error.to_string().contains(words));
    let by_itself = match way.0 {
        Work::Succeeds => matches!(outcome, Ok(same) if *same == number),
        Work::Fails => says(&format!("the work {number} failed")),
        Work::Panics => says("boom"),
        Work::NeverEnds => false,
    };
    by_itself || (way.1 != Meanwhile::Nothing && says("the background task was aborted"))
}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .build()
        .unwrap()
}

fn look(handle: ApiFuture<usize>) -> Option<Result<usize>> {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(handle).poll(&mut cx) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

#[test]
fn each_of_many_operations_has_one_outcome_however_it_ends() {
    let (works, waits) = (runtime(2), runtime(2));
    let (tell, told) = mpsc::channel();
    let (mut kept, mut given_back, mut waited_for) = (Vec::new(), Vec::new(), 0);
    for number in 0..EACH * WAYS.len() {
        let (work, meanwhile) = WAYS[number % WAYS.len()];
        let begun = begin(works.handle(), |work| work, number, work);
        given_back.push(Arc::clone(&begun.given_back));
        match meanwhile {
            Meanwhile::Drop => drop(begun.handle),
            Meanwhile::RuntimeEnds => kept.push((number, begun.handle)),
            Meanwhile::Nothing | Meanwhile::Abort => {
                waited_for += 1;
                let tell = tell.clone();
                waits.spawn(async move {
                    let outcome = begun.handle.await;
                    let is_free = begun.given_back.load(Ordering::SeqCst) == 1;
                    let _ = tell.send((begun.number, outcome, is_free));
                });
                if meanwhile == Meanwhile::Abort {
                    begun.abort.lock().unwrap().take().unwrap().abort();
                }
            }
        }
    }
    drop(tell);

    let mut outcomes = vec![0; EACH * WAYS.len()];
    let mut aborted = 0;
    for _ in 0..waited_for {
        let (number, outcome, is_free) = told.recv_timeout(PATIENCE).expect("one hangs");
        let way = WAYS[number % WAYS.len()];
        assert!(is_right(number, way, &outcome), "{way:?}: {outcome:?}");
        let was_aborted = !is_right(number, (way.0, Meanwhile::Nothing), &outcome);
        assert!(is_free || was_aborted, "{way:?} holds on to what it had");
        aborted += usize::from(was_aborted);
        outcomes[number] += 1;
    }
    assert!(aborted >= EACH, "those that never end by themselves");
    drop(works);
    // Nothing of it runs any more: whoever looks now sees what became of it.
    for (number, handle) in kept {
        let way = WAYS[number % WAYS.len()];
        let outcome = look(handle).expect("one would hang");
        assert!(is_right(number, way, &outcome), "{way:?}: {outcome:?}");
        outcomes[number] += 1;
    }
    for (number, times) in outcomes.into_iter().enumerate() {
        let is_dropped = WAYS[number % WAYS.len()].1 == Meanwhile::Drop;
        assert_eq!(times, usize::from(!is_dropped), "outcomes of {number}");
    }
    for given_back in given_back {
        assert_eq!(given_back.load(Ordering::SeqCst), 1);
    }
}

/// The same look, with a runtime that forgets the task that it was told to abort.
#[test]
fn a_task_that_is_neither_ended_nor_dropped_is_found_out() {
    struct Forgotten(ManuallyDrop<BoxFuture<'static, ()>>);

    impl Future for Forgotten {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.0.as_mut().poll(cx)
        }
    }

    let hangs = |wrap: Wrap| {
        let works = runtime(1);
        let begun = begin(works.handle(), wrap, 0, Work::NeverEnds);
        drop(works);
        look(begun.handle).is_none()
    };
    assert!(!hangs(|work| work));
    assert!(hangs(|work| Box::pin(Forgotten(ManuallyDrop::new(work)))));
}

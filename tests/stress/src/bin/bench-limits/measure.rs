//! The measurements: the cost without contention, the cost under contention, and the latency from a
//! release to the next admission.

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hdrhistogram::Histogram;
use tinkers_stress::registry_churn::block_on;
use tinkers_stress::stopwatch::{Stopwatch, short_sleep};
use tinkers_stress::waiters::yield_now;
use tokio::runtime::Runtime;

use crate::contenders::Contender;

/// Runs `call` `times` times in total, divided among `threads` threads. Returns the nanoseconds per
/// call.
pub(crate) fn on_threads(threads: usize, times: u64, call: impl Fn() + Sync) -> f64 {
    if threads == 1 {
        let watch = Stopwatch::start();
        (0..times).for_each(|_| call());
        return per_call(watch.elapsed(), times);
    }
    let barrier = Barrier::new(threads + 1);
    let watch = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                (0..times / threads as u64).for_each(|_| call());
            });
        }
        // The stopwatch starts before the threads pass the barrier.
        let watch = Stopwatch::start();
        barrier.wait();
        watch
    });
    per_call(watch.elapsed(), times)
}

/// Returns the nanoseconds that it takes to acquire and release a permit while no other task uses
/// the limiter.
pub(crate) fn uncontended<D: Contender>(times: u64) -> f64 {
    let contender = D::new(64);
    let acquire_and_release = async |times| {
        for _ in 0..times {
            D::release(black_box(contender.acquire().await));
        }
    };
    // These acquisitions are a warm-up and are not measured.
    block_on(acquire_and_release(1_000));
    let watch = Stopwatch::start();
    block_on(acquire_and_release(times));
    per_call(watch.elapsed(), times)
}

/// Lets `tasks` tasks compete for half as many permits. Each task yields while it holds a permit.
/// Returns the nanoseconds that it takes to acquire and release a permit, and the average number of
/// wake-ups per wait if the limiter counts them.
pub(crate) fn contended<D: Contender>(
    runtime: &Runtime,
    tasks: u32,
    times: u64,
) -> (f64, Option<f64>) {
    let contender = D::new((tasks / 2).max(1));
    let each = times / u64::from(tasks);
    let watch = Stopwatch::start();
    let joins: Vec<_> = (0..tasks)
        .map(|_| {
            let contender = contender.clone();
            runtime.spawn(async move {
                for _ in 0..each {
                    let held = contender.acquire().await;
                    yield_now().await;
                    D::release(held);
                }
            })
        })
        .collect();
    wait_for(runtime, joins);
    let cost = per_call(watch.elapsed(), each * u64::from(tasks));
    let ratio = |(wakes, waits)| wakes as f64 / (waits as f64).max(1.0);
    (cost, contender.wakes().map(ratio))
}

/// Measures how fast a released permit reaches the next waiting task, starting with `waiters` tasks
/// in the limiter's queue. Returns a histogram of the times in nanoseconds from a release to the
/// next admission.
pub(crate) fn handover<D: Contender>(runtime: &Runtime, waiters: usize) -> Histogram<u64> {
    let contender = D::new(1);
    let (watch, left_at) = (Stopwatch::start(), Arc::new(AtomicU64::new(0)));
    let waiting = Arc::new(AtomicU64::new(0));
    let first = block_on(contender.acquire());
    let now = move || watch.elapsed().as_nanos() as u64;
    let joins: Vec<_> = (0..waiters)
        .map(|_| {
            let (contender, left_at, waiting) = (
                contender.clone(),
                Arc::clone(&left_at),
                Arc::clone(&waiting),
            );
            runtime.spawn(async move {
                let held = {
                    let mut enter = std::pin::pin!(contender.acquire());
                    let mut is_first = true;
                    std::future::poll_fn(|cx| {
                        let polled = enter.as_mut().poll(cx);
                        if std::mem::take(&mut is_first) {
                            waiting.fetch_add(1, Ordering::SeqCst);
                        }
                        polled
                    })
                    .await
                };
                let took = now() - left_at.load(Ordering::SeqCst);
                left_at.store(now(), Ordering::SeqCst);
                D::release(held);
                took
            })
        })
        .collect();
    while waiting.load(Ordering::SeqCst) < waiters as u64 {
        short_sleep();
    }
    left_at.store(now(), Ordering::SeqCst);
    D::release(first);
    let mut histogram = Histogram::new(3).expect("a valid precision");
    for took in wait_for(runtime, joins) {
        histogram.saturating_record(took);
    }
    histogram
}

fn wait_for<T>(runtime: &Runtime, joins: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let all = joins.into_iter();
    all.map(|join| runtime.block_on(join).expect("no task panics"))
        .collect()
}

fn per_call(time: Duration, times: u64) -> f64 {
    time.as_nanos() as f64 / times as f64
}

/// Returns the median of `values`, which must not be empty.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

//! How a thing is measured: alone, by tasks that compete, and from one hand to the next.

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hdrhistogram::Histogram;
use tinkers_stress::churn::block_on;
use tinkers_stress::crowd::let_others_run;
use tinkers_stress::watch::{Stopwatch, nap};
use tokio::runtime::Runtime;

use crate::door::Door;

/// Nanoseconds for each of `times` calls on each of `threads` threads: the time of all, over all calls.
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
        // Before the others can begin.
        let watch = Stopwatch::start();
        barrier.wait();
        watch
    });
    per_call(watch.elapsed(), times)
}

/// Nanoseconds to come in and go, with nobody else there.
pub(crate) fn alone<D: Door>(times: u64) -> f64 {
    let door = D::new(64);
    let come_and_go = async |times| {
        for _ in 0..times {
            D::leave(black_box(door.enter().await));
        }
    };
    // Beyond the slow start.
    block_on(come_and_go(1_000));
    let watch = Stopwatch::start();
    block_on(come_and_go(times));
    per_call(watch.elapsed(), times)
}

/// Nanoseconds to come in and go for `tasks` tasks, half of which fit in at once, each of which lets others run while it is in;
/// and wake-ups for each that waited.
pub(crate) fn among<D: Door>(runtime: &Runtime, tasks: u32, times: u64) -> (f64, Option<f64>) {
    let door = D::new((tasks / 2).max(1));
    let each = times / u64::from(tasks);
    let watch = Stopwatch::start();
    let joins: Vec<_> = (0..tasks)
        .map(|_| {
            let door = door.clone();
            runtime.spawn(async move {
                for _ in 0..each {
                    let held = door.enter().await;
                    let_others_run().await;
                    D::leave(held);
                }
            })
        })
        .collect();
    wait_for(runtime, joins);
    let cost = per_call(watch.elapsed(), each * u64::from(tasks));
    let ratio = |(wakes, waits)| wakes as f64 / (waits as f64).max(1.0);
    (cost, door.wakes().map(ratio))
}

/// From the moment before one goes to the moment when the next is in, with `waiters` in the queue, in nanoseconds.
pub(crate) fn hand_over<D: Door>(runtime: &Runtime, waiters: usize) -> Histogram<u64> {
    let door = D::new(1);
    let (watch, left_at) = (Stopwatch::start(), Arc::new(AtomicU64::new(0)));
    let waiting = Arc::new(AtomicU64::new(0));
    let first = block_on(door.enter());
    let now = move || watch.elapsed().as_nanos() as u64;
    let joins: Vec<_> = (0..waiters)
        .map(|_| {
            let (door, left_at, waiting) =
                (door.clone(), Arc::clone(&left_at), Arc::clone(&waiting));
            runtime.spawn(async move {
                let held = {
                    let mut enter = std::pin::pin!(door.enter());
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
                D::leave(held);
                took
            })
        })
        .collect();
    while waiting.load(Ordering::SeqCst) < waiters as u64 {
        nap();
    }
    left_at.store(now(), Ordering::SeqCst);
    D::leave(first);
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    for took in wait_for(runtime, joins) {
        histogram.saturating_record(took);
    }
    histogram
}

fn wait_for<T>(runtime: &Runtime, joins: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let all = joins.into_iter();
    all.map(|join| runtime.block_on(join).expect("nothing panics here"))
        .collect()
}

fn per_call(time: Duration, times: u64) -> f64 {
    time.as_nanos() as f64 / times as f64
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

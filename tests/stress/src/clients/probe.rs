//! A look at the process and its limiter every so often.

use std::time::Duration;

use tinkers::LimiterSnapshot;
use tokio::runtime::Handle;

use super::count::{Counts, Verb};
use super::in_use::InUse;
use crate::watch::Stopwatch;

/// How often.
pub(crate) const EVERY: Duration = Duration::from_millis(100);

/// One look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    /// Since the start of the run, in seconds.
    pub(crate) at: f64,
    /// Calls that have ended well.
    pub(crate) done: u64,
    /// The samples among them.
    pub(crate) samples: u64,
    /// Samples in flight, and how many may be.
    pub(crate) in_flight: u32,
    pub(crate) limit: u32,
    /// Refusals so far, and the congestion events that they were.
    pub(crate) refusals: u64,
    pub(crate) events: u64,
    /// Those who were let in after a wait, and the wake-ups that this took.
    pub(crate) waits: u64,
    pub(crate) wakes: u64,
    /// Requests that the limiter let through.
    pub(crate) grants: u64,
    /// Of this process.
    pub(crate) resident: u64,
    pub(crate) sockets: usize,
    pub(crate) tasks: usize,
    /// Processor time so far, in seconds.
    pub(crate) cpu: f64,
}

impl Look {
    pub(crate) fn now(watch: Stopwatch, counts: &Counts, in_use: &InUse, runtime: &Handle) -> Self {
        let mut look = Self {
            at: watch.elapsed().as_secs_f64(),
            done: counts.done(),
            samples: counts.of(Verb::Sample).ok,
            tasks: runtime.metrics().num_alive_tasks(),
            resident: resident(),
            sockets: sockets(),
            cpu: cpu(),
            ..Self::default()
        };
        if let Some(limits) = in_use.look().map(|service| service.limits()) {
            look.take(&limits);
        }
        look
    }

    fn take(&mut self, limits: &LimiterSnapshot) {
        let all = [limits.sample, limits.train, limits.poll, limits.rest];
        self.in_flight = limits.sample.in_flight;
        self.limit = limits.sample.limit;
        for lane in all {
            self.refusals += lane.counts.refusals;
            self.events += lane.counts.events;
            self.waits += lane.counts.waits;
            self.wakes += lane.counts.wakes;
            self.grants += lane.counts.grants;
        }
    }
}

/// What is held in all lanes: waiting, let through, slots, bytes, flights.
pub(crate) fn held(limits: &LimiterSnapshot) -> [u64; 5] {
    let mut held = [0; 5];
    for lane in [limits.sample, limits.train, limits.poll, limits.rest] {
        held[0] += lane.waiting as u64;
        held[1] += lane.uncollected as u64;
        held[2] += u64::from(lane.slots);
        held[3] += lane.bytes;
        held[4] += u64::from(lane.in_flight);
    }
    held
}

/// Memory of this process, in bytes; 0 where it cannot be told.
pub(crate) fn resident() -> u64 {
    let status = procfs::process::Process::myself().and_then(|own| own.status());
    status.ok().and_then(|status| status.vmrss).unwrap_or(0) * 1024
}

/// Open sockets of this process.
pub(crate) fn sockets() -> usize {
    let Ok(all) = procfs::process::Process::myself().and_then(|own| own.fd()) else {
        return 0;
    };
    all.flatten()
        .filter(|open| matches!(open.target, procfs::process::FDTarget::Socket(_)))
        .count()
}

/// Threads of this process.
pub(crate) fn threads() -> usize {
    let stat = procfs::process::Process::myself().and_then(|own| own.stat());
    stat.map_or(0, |stat| usize::try_from(stat.num_threads).unwrap_or(0))
}

fn cpu() -> f64 {
    let stat = procfs::process::Process::myself().and_then(|own| own.stat());
    stat.map_or(0.0, |stat| {
        (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
    })
}

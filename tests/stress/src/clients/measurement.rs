//! Periodic measurements of the process and its limiter.

use std::time::Duration;

use tinkers::LimiterSnapshot;
use tokio::runtime::Handle;

use super::counts::{Counts, Operation};
use super::monitored_client::MonitoredClient;
use crate::stopwatch::Stopwatch;

/// The interval between two measurements during a load.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// A measurement, at one time, of the stress process and of the rate limiter that its clients
/// share.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measurement {
    /// The time of the measurement, in seconds since the start of the run.
    pub(crate) at: f64,
    /// The number of successful calls so far.
    pub(crate) done: u64,
    /// The number of successful samples so far.
    pub(crate) samples: u64,
    /// The number of samples in flight at the time of the measurement.
    pub(crate) in_flight: u32,
    /// The rate limiter's limit on samples in flight at the time of the measurement.
    pub(crate) limit: u32,
    /// The number of requests that the server refused with 429 so far.
    pub(crate) refusals: u64,
    /// The number of congestion events so far. A congestion event is a group of 429 responses to
    /// requests that were in flight at the same time.
    pub(crate) events: u64,
    /// The number of requests so far that waited before the rate limiter admitted them.
    pub(crate) waits: u64,
    /// The number of times so far that the rate limiter has woken a waiting request.
    pub(crate) wakes: u64,
    /// The number of requests that the rate limiter admitted so far.
    pub(crate) grants: u64,
    /// The resident memory of this process, in bytes.
    pub(crate) resident: u64,
    pub(crate) sockets: usize,
    pub(crate) tasks: usize,
    /// The CPU time of this process so far, in seconds.
    pub(crate) cpu: f64,
}

impl Measurement {
    pub(crate) fn now(
        watch: Stopwatch,
        counts: &Counts,
        monitored: &MonitoredClient,
        runtime: &Handle,
    ) -> Self {
        let mut measurement = Self {
            at: watch.elapsed().as_secs_f64(),
            done: counts.done(),
            samples: counts.of(Operation::Sample).ok,
            tasks: runtime.metrics().num_alive_tasks(),
            resident: resident(),
            sockets: sockets(),
            cpu: cpu(),
            ..Self::default()
        };
        if let Some(limits) = monitored.get().map(|service| service.limits()) {
            measurement.take(&limits);
        }
        measurement
    }

    fn take(&mut self, limits: &LimiterSnapshot) {
        let all = [limits.sample, limits.train, limits.poll, limits.rest];
        self.in_flight = limits.sample.in_flight;
        self.limit = limits.sample.limit.unwrap_or(u32::MAX);
        for class in all {
            self.refusals += class.counts.refusals;
            self.events += class.counts.events;
            self.waits += class.counts.waits;
            self.wakes += class.counts.wakes;
            self.grants += class.counts.grants;
        }
    }
}

/// Returns the numbers of the resources in use in the rate limiter, in this order: queued requests,
/// permits granted to queued requests that have not been polled since, send slots, bytes and
/// in-flight permits.
pub(crate) fn held(limits: &LimiterSnapshot) -> [u64; 5] {
    let mut held = [0; 5];
    for class in [limits.sample, limits.train, limits.poll, limits.rest] {
        held[0] += class.waiting as u64;
        held[1] += class.uncollected as u64;
        held[2] += u64::from(class.slots);
        held[3] += class.bytes;
        held[4] += u64::from(class.in_flight);
    }
    held
}

/// Returns the resident memory of this process in bytes, or 0 if it is unknown.
pub(crate) fn resident() -> u64 {
    let status = procfs::process::Process::myself().and_then(|own| own.status());
    status.ok().and_then(|status| status.vmrss).unwrap_or(0) * 1024
}

/// Returns the number of open sockets of this process.
pub(crate) fn sockets() -> usize {
    let Ok(all) = procfs::process::Process::myself().and_then(|own| own.fd()) else {
        return 0;
    };
    all.flatten()
        .filter(|open| matches!(open.target, procfs::process::FDTarget::Socket(_)))
        .count()
}

/// Returns the number of threads of this process.
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

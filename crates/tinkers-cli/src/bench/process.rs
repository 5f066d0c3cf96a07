//! Resource usage of this process. Functions return `None` on systems that do not report it.

use std::time::Duration;

/// Returns the user and system CPU time of all threads together.
#[cfg(unix)]
pub(crate) fn cpu() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
}

#[cfg(not(unix))]
pub(crate) fn cpu() -> Option<Duration> {
    None
}

/// The resident memory of this process in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// The resident memory now.
    pub(crate) now: u64,
    /// The maximum resident memory since the start of the process.
    pub(crate) peak: u64,
}

#[cfg(target_os = "linux")]
pub(crate) fn memory() -> Option<Memory> {
    let status = procfs::process::Process::myself().ok()?.status().ok()?;
    Some(Memory {
        now: status.vmrss? * 1024,
        peak: status.vmhwm? * 1024,
    })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn memory() -> Option<Memory> {
    None
}

/// Returns the number of open files and sockets.
#[cfg(target_os = "linux")]
pub(crate) fn open_files() -> Option<usize> {
    procfs::process::Process::myself().ok()?.fd_count().ok()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_files() -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_memory_and_sockets_are_measured() {
        let (time, before) = (cpu().unwrap(), memory().unwrap());
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let after = memory().unwrap();
        assert!(after.now >= before.now + (16 << 20) && after.peak >= after.now);
        drop(block);
        // The kernel batches its counters, so the peak is accurate to a few pages.
        assert!(memory().unwrap().peak + (4 << 20) >= after.peak);
        assert!(cpu().unwrap() > time);
        // Other tests in this process open and close files concurrently, so only a lower bound is checked.
        let sockets: Vec<_> = (0..64)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        assert!(open_files().unwrap() >= sockets.len());
    }
}

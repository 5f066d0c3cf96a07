//! What this process has used of the machine. `None` where the system does not tell.

use std::time::Duration;

/// Processor time of all threads so far, user and system.
#[cfg(unix)]
pub(crate) fn cpu() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
}

#[cfg(not(unix))]
pub(crate) fn cpu() -> Option<Duration> {
    None
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) now: u64,
    /// The most there ever was.
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

/// Open files and sockets. What a load adds to them is its connections.
#[cfg(target_os = "linux")]
pub(crate) fn connections() -> Option<usize> {
    procfs::process::Process::myself().ok()?.fd_count().ok()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn connections() -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_memory_and_a_socket_is_one() {
        let (time, before) = (cpu().unwrap(), memory().unwrap());
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let after = memory().unwrap();
        assert!(after.now >= before.now + (16 << 20) && after.peak >= after.now);
        drop(block);
        // The system counts in batches, so the peak is right to some pages.
        assert!(memory().unwrap().peak + (4 << 20) >= after.peak);
        assert!(cpu().unwrap() > time);
        // Other tests of the process open files too, so one more is all that can be said.
        let sockets: Vec<_> = (0..64)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        assert!(connections().unwrap() >= sockets.len());
    }
}

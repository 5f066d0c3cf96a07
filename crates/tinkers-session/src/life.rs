//! Whether a session is open, and what its background tasks share with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwap;
use tinkers_core::{Error, ErrorKind, Sent, Setbacks};
use tinkers_wire::DynamicConfig;

use crate::events::{EventBoard, SessionEvent};

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const ENDED: u8 = 2;

/// What a session and its background tasks share. They hold this and not the session, so that the session's last handle
/// is the last.
#[derive(Debug)]
pub(crate) struct Life {
    state: AtomicU8,
    pub(crate) events: EventBoard,
    pub(crate) dynamic: ArcSwap<DynamicConfig>,
    pub(crate) setbacks: Arc<Setbacks>,
}

impl Life {
    pub(crate) fn new(dynamic: DynamicConfig, setbacks: Arc<Setbacks>) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(OPEN),
            events: EventBoard::new(),
            dynamic: ArcSwap::from_pointee(dynamic),
            setbacks,
        })
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            ENDED => Err(Error::new(
                ErrorKind::Closed,
                Sent::NotSent,
                "the session has ended on the server; connect a new client",
            )),
            _ => Err(Error::closed()),
        }
    }

    /// The caller closes it. Whether it was open until now.
    pub(crate) fn close(&self) -> bool {
        let was_open = self.leave_open(CLOSED);
        self.events.finish();
        was_open
    }

    /// The server has ended it. Nothing to tell when the caller had closed it.
    pub(crate) fn end(&self) {
        if self.leave_open(ENDED) {
            self.events.tell(SessionEvent::Ended);
            self.events.finish();
        }
    }

    fn leave_open(&self, to: u8) -> bool {
        self.state
            .compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let closed = Life::new(DynamicConfig::default(), Arc::default());
        closed.check_open().expect("open");
        assert!(closed.close());
        assert!(!closed.close());
        closed.end();
        assert!(
            closed
                .check_open()
                .expect_err("closed")
                .to_string()
                .contains("client is closed")
        );
        assert_eq!(closed.events.subscribe().latest(), None);

        let ended = Life::new(DynamicConfig::default(), Arc::default());
        ended.end();
        assert!(!ended.close());
        let error = ended.check_open().expect_err("ended");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("session has ended"), "{error}");
        assert_eq!(ended.events.subscribe().latest(), Some(SessionEvent::Ended));
    }
}

//! Whether a session is open, and what its background tasks share with it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tinkers_core::{CloseSignal, Error, ErrorKind, RecoveredErrors, Sent};
use tinkers_wire::DynamicConfig;

use crate::events::{EventBoard, SessionEvent};

/// What a session and its background tasks share. They hold this and not the session, so that the session's last handle
/// is the last.
#[derive(Debug)]
pub(crate) struct Life {
    /// Shared with the session's caller, whose calls end with it.
    closing: Arc<CloseSignal>,
    pub(crate) events: EventBoard,
    pub(crate) dynamic: ArcSwap<DynamicConfig>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl Life {
    pub(crate) fn new(
        dynamic: DynamicConfig,
        recovered_errors: Arc<RecoveredErrors>,
        closing: Arc<CloseSignal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            closing,
            events: EventBoard::new(),
            dynamic: ArcSwap::from_pointee(dynamic),
            recovered_errors,
        })
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.closing.check()
    }

    /// The caller closes it. Whether it was open until now.
    pub(crate) fn close(&self) -> bool {
        let was_open = self.closing.close(Error::closed());
        self.events.finish();
        was_open
    }

    /// The server has ended it. Nothing to tell when the caller had closed it.
    pub(crate) fn end(&self) {
        let ended = Error::new(
            ErrorKind::SessionLost,
            Sent::NotSent,
            "the session has ended on the server; connect a new client and go on from the last checkpoint",
        );
        if self.closing.close(ended) {
            self.events.tell(SessionEvent::Ended);
            self.events.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::sync::Mutex;
    use std::task::{Context, Wake, Waker};

    #[test]
    fn the_first_end_counts() {
        let closed = Life::new(DynamicConfig::default(), Arc::default(), Arc::default());
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

        let ended = Life::new(DynamicConfig::default(), Arc::default(), Arc::default());
        ended.end();
        assert!(!ended.close());
        let error = ended.check_open().expect_err("ended");
        assert_eq!(error.kind(), ErrorKind::SessionLost);
        assert!(error.to_string().contains("session has ended"), "{error}");
        assert_eq!(ended.events.subscribe().latest(), Some(SessionEvent::Ended));
    }

    /// Looks at the session at the very moment of an event.
    struct Looks(Arc<Life>, Mutex<Vec<bool>>);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            let is_open = self.0.check_open().is_ok();
            self.1.lock().expect("unpoisoned").push(is_open);
        }
    }

    #[test]
    fn the_end_is_in_force_when_it_is_told() {
        let close = |life: &Life| {
            life.close();
        };
        for end in [Life::end, close] {
            let life = Life::new(DynamicConfig::default(), Arc::default(), Arc::default());
            let looks = Arc::new(Looks(Arc::clone(&life), Mutex::default()));
            let waker = Waker::from(Arc::clone(&looks));
            let mut events = life.events.subscribe();
            let mut next = std::pin::pin!(events.next());
            let mut cx = Context::from_waker(&waker);
            assert!(next.as_mut().poll(&mut cx).is_pending());
            end(&life);
            let found = looks.1.lock().expect("unpoisoned").clone();
            assert_eq!(found.first(), Some(&false));
        }
    }
}

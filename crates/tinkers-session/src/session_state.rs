//! The state that a session shares with its background tasks.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tinkers_core::{CloseSignal, Error, ErrorKind, RecoveredErrors, Sent};
use tinkers_wire::DynamicConfig;

use crate::events::{EventSender, SessionEvent};

/// The state of a session that its background tasks use. The tasks hold a reference to this state and not to the session, so that the tasks
/// do not keep the session alive.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// The signal that makes all calls of the session fail when the session is closed. The session's `Caller`, which sends its requests,
    /// shares this signal.
    closing: Arc<CloseSignal>,
    pub(crate) events: Arc<EventSender>,
    pub(crate) dynamic: ArcSwap<DynamicConfig>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl SessionState {
    pub(crate) fn new(
        dynamic: DynamicConfig,
        recovered_errors: Arc<RecoveredErrors>,
        closing: Arc<CloseSignal>,
        events: Arc<EventSender>,
    ) -> Arc<Self> {
        Arc::new(Self {
            closing,
            events,
            dynamic: ArcSwap::from_pointee(dynamic),
            recovered_errors,
        })
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.closing.check()
    }

    /// Closes the session on behalf of the program. Returns whether the session was open.
    pub(crate) fn close(&self) -> bool {
        let was_open = self.closing.close(Error::closed());
        self.events.finish();
        was_open
    }

    /// Records that the server has ended the session, and sends the event [`SessionEvent::Ended`]. Does nothing if the program has closed
    /// the session.
    pub(crate) fn end(&self) {
        let ended = Error::new(
            ErrorKind::SessionLost,
            Sent::NotSent,
            "the session has ended on the server; connect a new client, and continue training from the last checkpoint",
        );
        if self.closing.close(ended) {
            self.events.send(SessionEvent::Ended);
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
    fn session_error_names_the_first_of_close_and_end_by_the_server() {
        let closed = SessionState::new(
            DynamicConfig::default(),
            Arc::default(),
            Arc::default(),
            Arc::default(),
        );
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

        let ended = SessionState::new(
            DynamicConfig::default(),
            Arc::default(),
            Arc::default(),
            Arc::default(),
        );
        ended.end();
        assert!(!ended.close());
        let error = ended.check_open().expect_err("ended");
        assert_eq!(error.kind(), ErrorKind::SessionLost);
        assert!(error.to_string().contains("session has ended"), "{error}");
        assert_eq!(ended.events.subscribe().latest(), Some(SessionEvent::Ended));
    }

    /// A waker that records, when it is called, whether the session is still open.
    struct OpenProbe(Arc<SessionState>, Mutex<Vec<bool>>);

    impl Wake for OpenProbe {
        fn wake(self: Arc<Self>) {
            let is_open = self.0.check_open().is_ok();
            self.1.lock().expect("unpoisoned").push(is_open);
        }
    }

    #[test]
    fn session_is_closed_before_event_subscribers_are_woken() {
        let close = |state: &SessionState| {
            state.close();
        };
        for end in [SessionState::end, close] {
            let state = SessionState::new(
                DynamicConfig::default(),
                Arc::default(),
                Arc::default(),
                Arc::default(),
            );
            let probe = Arc::new(OpenProbe(Arc::clone(&state), Mutex::default()));
            let waker = Waker::from(Arc::clone(&probe));
            let mut events = state.events.subscribe();
            let mut next = std::pin::pin!(events.next());
            let mut cx = Context::from_waker(&waker);
            assert!(next.as_mut().poll(&mut cx).is_pending());
            end(&state);
            let found = probe.1.lock().expect("unpoisoned").clone();
            assert_eq!(found.first(), Some(&false));
        }
    }
}

//! Events of a session.

use std::time::Duration;

use tokio::sync::watch;

/// An event of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Heartbeats fail. Unless one succeeds, the server ends the session.
    AtRisk {
        /// The time until the server ends it, counted from the event.
        time_left: Duration,
    },
    /// A heartbeat succeeded again.
    Recovered,
    /// The server has ended the session. All further calls fail.
    Ended,
}

/// A receiver of the events of one session. A slow receiver gets the latest event only.
#[derive(Debug, Clone)]
pub struct SessionEvents {
    watch: watch::Receiver<EventState>,
    seen: u64,
}

impl SessionEvents {
    /// Waits for the next event; returns `None` when there will be no more. A risk or an end from before the subscription is returned,
    /// too, if it still holds.
    ///
    /// # Cancel safety
    /// Cancel safe: an event that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            let state = *self.watch.borrow_and_update();
            if state.count != self.seen {
                self.seen = state.count;
                return state.event;
            }
            if state.is_finished {
                return None;
            }
            self.watch.changed().await.ok()?;
        }
    }

    /// Returns the latest event, if there was one. [`SessionEvents::next`] still returns it.
    pub fn latest(&self) -> Option<SessionEvent> {
        self.watch.borrow().event
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct EventState {
    event: Option<SessionEvent>,
    /// The number of events so far.
    count: u64,
    /// Whether there will be no more events.
    is_finished: bool,
}

/// The sender of the events of one session.
#[derive(Debug)]
pub(crate) struct EventSender {
    watch: watch::Sender<EventState>,
}

impl EventSender {
    pub(crate) fn new() -> Self {
        Self {
            watch: watch::Sender::new(EventState::default()),
        }
    }

    /// Sends `event`, unless the sender is finished.
    pub(crate) fn send(&self, event: SessionEvent) {
        self.watch.send_if_modified(|state| {
            if !state.is_finished {
                state.event = Some(event);
                state.count += 1;
            }
            !state.is_finished
        });
    }

    /// Ends the events. Receivers still get the latest one.
    pub(crate) fn finish(&self) {
        self.watch.send_modify(|state| state.is_finished = true);
    }

    pub(crate) fn subscribe(&self) -> SessionEvents {
        let watch = self.watch.subscribe();
        let state = *watch.borrow();
        let unseen = match state.event {
            Some(SessionEvent::AtRisk { .. } | SessionEvent::Ended) => 1,
            Some(SessionEvent::Recovered) | None => 0,
        };
        SessionEvents {
            seen: state.count - unseen,
            watch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll_next(events: &mut SessionEvents) -> Poll<Option<SessionEvent>> {
        pin!(events.next()).poll(&mut Context::from_waker(Waker::noop()))
    }

    const AT_RISK: SessionEvent = SessionEvent::AtRisk {
        time_left: Duration::from_secs(9),
    };

    #[test]
    fn each_event_is_received_once() {
        let sender = EventSender::new();
        let mut events = sender.subscribe();
        assert_eq!(poll_next(&mut events), Poll::Pending);
        sender.send(AT_RISK);
        assert_eq!(poll_next(&mut events), Poll::Ready(Some(AT_RISK)));
        assert_eq!(poll_next(&mut events), Poll::Pending);
        sender.send(SessionEvent::Recovered);
        sender.finish();
        sender.send(AT_RISK);
        assert_eq!(
            poll_next(&mut events),
            Poll::Ready(Some(SessionEvent::Recovered))
        );
        assert_eq!(poll_next(&mut events), Poll::Ready(None));
    }

    #[test]
    fn late_subscriber_gets_a_risk_or_end_that_still_holds() {
        let sender = EventSender::new();
        sender.send(AT_RISK);
        assert_eq!(
            poll_next(&mut sender.subscribe()),
            Poll::Ready(Some(AT_RISK))
        );
        sender.send(SessionEvent::Recovered);
        assert_eq!(poll_next(&mut sender.subscribe()), Poll::Pending);
        sender.send(SessionEvent::Ended);
        sender.finish();
        let mut late = sender.subscribe();
        assert_eq!(poll_next(&mut late), Poll::Ready(Some(SessionEvent::Ended)));
        assert_eq!(poll_next(&mut late), Poll::Ready(None));
    }
}

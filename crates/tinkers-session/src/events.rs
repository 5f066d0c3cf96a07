//! The events of a session, which programs may subscribe to.

use std::time::Duration;

use tokio::sync::watch;

/// An event of a session: its heartbeats fail, its heartbeats succeed again, or the session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// No heartbeat has succeeded for at least half of the session expiry. If all further heartbeats fail, the server ends the session.
    AtRisk {
        /// The time from this event until the server ends the session; zero if the expiry has passed.
        time_left: Duration,
    },
    /// A heartbeat has succeeded after the session was [at risk](SessionEvent::AtRisk), so the session continues.
    Recovered,
    /// The server has ended the session, as the response to a heartbeat or to a query of the session says. All further calls fail with
    /// `SessionLost`.
    ///
    /// A training or sampling call can fail with `SessionLost` up to one heartbeat period before this event.
    Ended,
}

/// A receiver of the events of one session. A receiver that falls behind gets only the latest event.
///
/// ```no_run
/// # async fn watch(session: std::sync::Arc<tinkers_session::Session>) {
/// # use tinkers_session as tinkers;
/// use tinkers::SessionEvent;
///
/// let mut events = session.events();
/// while let Some(event) = events.next().await {
///     match event {
///         SessionEvent::AtRisk { time_left } => eprintln!("the session ends in {time_left:?}"),
///         SessionEvent::Ended => eprintln!("the session has ended; resume from the last checkpoint"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SessionEvents {
    watch: watch::Receiver<EventState>,
    seen: u64,
}

impl SessionEvents {
    /// Waits for the next event. Returns `None` after the end of the session.
    ///
    /// If the session was at risk or had ended when the receiver was created, the `AtRisk` or `Ended` event is returned first.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost if the future is dropped.
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

    /// Returns the latest event of the session without waiting; `None` if there was no event yet. [`SessionEvents::next`] still returns
    /// this event.
    pub fn latest(&self) -> Option<SessionEvent> {
        self.watch.borrow().event
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct EventState {
    event: Option<SessionEvent>,
    /// The number of events that were sent so far, by which a receiver detects a new event.
    count: u64,
    /// Whether the session has ended, so that there will be no more events.
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

    /// Sends `event` to all receivers, unless [`EventSender::finish`] was called.
    pub(crate) fn send(&self, event: SessionEvent) {
        self.watch.send_if_modified(|state| {
            if !state.is_finished {
                state.event = Some(event);
                state.count += 1;
            }
            !state.is_finished
        });
    }

    /// Ends the stream of events: later events are not sent. Receivers still get the latest event.
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
    fn each_session_event_is_received_once() {
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
    fn late_session_subscriber_receives_a_current_at_risk_or_ended_event() {
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

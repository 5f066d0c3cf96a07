//! The events of a session, which programs may subscribe to.

use std::collections::VecDeque;
use std::time::Duration;

use tinkers_core::BillingObserver;
use tinkers_core::user_code::catch_panic;
use tokio::sync::watch;

/// The number of recent events that are kept for receivers that fall behind.
const KEPT_EVENTS: usize = 64;

/// An event of a session, such as a failure of its heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// No heartbeat has succeeded for at least half of the session expiry. If all further heartbeats fail, the server ends the session.
    AtRisk {
        /// The time from this event until the server ends the session; zero if the expiry has passed.
        time_left: Duration,
    },
    /// A heartbeat has succeeded after the session was [at risk](SessionEvent::AtRisk), so the session continues.
    Recovered,
    /// The server has sent a message for the user of the session. The message is also logged.
    ServerMessage {
        /// The level at which the message is logged.
        level: MessageLevel,
        /// The text of the message.
        text: String,
    },
    /// The server requires payment (402). The rejected calls wait and are sent again every few seconds, for an hour unless the server's
    /// configuration sets another limit.
    PaymentRequired,
    /// No call waits for a [payment](SessionEvent::PaymentRequired) any more: the server has accepted the calls, or they have failed, or the
    /// program has dropped them.
    PaymentSettled,
    /// The server has ended the session, as the response to a heartbeat or to a query of the session says. All further calls fail with
    /// `SessionLost`.
    ///
    /// A training or sampling call can fail with `SessionLost` up to one heartbeat period before this event.
    Ended,
}

/// The level of a [message from the server](SessionEvent::ServerMessage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageLevel {
    /// The message is for information only.
    Info,
    /// The message is a warning.
    Warning,
    /// The message reports an error. The session is usable nevertheless.
    Error,
}

/// A receiver of the events of one session. A receiver that is more than 64 events behind misses the oldest of them.
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
///         SessionEvent::PaymentRequired => eprintln!("training is paused until the bill is paid"),
///         SessionEvent::Ended => eprintln!("the session has ended; resume from the last checkpoint"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SessionEvents {
    watch: watch::Receiver<EventState>,
    /// The events from before the subscription that are still to be received.
    earlier: VecDeque<SessionEvent>,
    /// The number of events of the session that this receiver need not receive any more.
    seen: u64,
}

impl SessionEvents {
    /// Waits for the next event. Returns `None` after the end of the session.
    ///
    /// The first events that are returned describe the session at the time of the subscription: the server's messages so far, then
    /// `PaymentRequired` if calls wait for a payment, then `AtRisk` or `Ended` if the session is at risk or has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        if let Some(event) = self.earlier.pop_front() {
            return Some(event);
        }
        loop {
            {
                let state = self.watch.borrow_and_update();
                if let Some(event) = state.after(&mut self.seen) {
                    return Some(event);
                }
                if state.is_finished {
                    return None;
                }
            }
            self.watch.changed().await.ok()?;
        }
    }

    /// Returns the latest event of the session without waiting; `None` if there was no event yet. Has no effect on the events that
    /// [`SessionEvents::next`] returns.
    pub fn latest(&self) -> Option<SessionEvent> {
        self.watch.borrow().recent.back().cloned()
    }
}

#[derive(Debug, Default)]
struct EventState {
    /// The latest events, the oldest first.
    recent: VecDeque<SessionEvent>,
    /// The number of events that were sent so far.
    count: u64,
    /// All messages from the server.
    messages: Vec<SessionEvent>,
    /// The latest event about the heartbeats or the end of the session.
    life: Option<SessionEvent>,
    /// The number of calls that wait for a payment.
    payment_waits: usize,
    /// Whether the session has ended, so that there will be no more events.
    is_finished: bool,
}

impl EventState {
    fn add(&mut self, event: SessionEvent) {
        match &event {
            SessionEvent::ServerMessage { .. } => self.messages.push(event.clone()),
            SessionEvent::PaymentRequired | SessionEvent::PaymentSettled => {}
            SessionEvent::AtRisk { .. } | SessionEvent::Recovered | SessionEvent::Ended => {
                self.life = Some(event.clone());
            }
        }
        if self.recent.len() == KEPT_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
        self.count += 1;
    }

    /// Returns the first kept event after the first `seen` events of the session, and advances `seen` beyond it.
    fn after(&self, seen: &mut u64) -> Option<SessionEvent> {
        let unseen = usize::try_from(self.count - *seen).unwrap_or(usize::MAX);
        let kept = unseen.min(self.recent.len());
        let event = self.recent.get(self.recent.len() - kept)?;
        *seen = self.count - kept as u64 + 1;
        Some(event.clone())
    }

    /// Returns the events that describe the session to a new receiver.
    fn summary(&self) -> VecDeque<SessionEvent> {
        let mut events: VecDeque<_> = self.messages.iter().cloned().collect();
        if self.payment_waits > 0 {
            events.push_back(SessionEvent::PaymentRequired);
        }
        if let Some(life @ (SessionEvent::AtRisk { .. } | SessionEvent::Ended)) = &self.life {
            events.push_back(life.clone());
        }
        events
    }
}

/// The sender of the events of one session.
#[derive(Debug, Default)]
pub(crate) struct EventSender {
    watch: watch::Sender<EventState>,
}

impl EventSender {
    /// Sends `event` to all receivers, unless [`EventSender::finish`] was called.
    pub(crate) fn send(&self, event: SessionEvent) {
        self.send_if(|_| Some(event));
    }

    /// Sends the event that `next` returns, if any. Does nothing after [`EventSender::finish`] was called.
    fn send_if(&self, next: impl FnOnce(&mut EventState) -> Option<SessionEvent>) {
        self.watch.send_if_modified(|state| {
            if state.is_finished {
                return false;
            }
            let event = next(state);
            let is_new = event.is_some();
            event.into_iter().for_each(|event| state.add(event));
            is_new
        });
    }

    /// Ends the stream of events: later events are not sent. Receivers still get the events before.
    pub(crate) fn finish(&self) {
        self.watch.send_modify(|state| state.is_finished = true);
    }

    pub(crate) fn subscribe(&self) -> SessionEvents {
        let watch = self.watch.subscribe();
        let (earlier, seen) = {
            let state = watch.borrow();
            (state.summary(), state.count)
        };
        SessionEvents {
            watch,
            earlier,
            seen,
        }
    }
}

impl BillingObserver for EventSender {
    fn wait_began(&self) {
        // The wakers of receivers are user code.
        catch_panic(|| {
            self.send_if(|state| {
                state.payment_waits += 1;
                (state.payment_waits == 1).then_some(SessionEvent::PaymentRequired)
            });
        });
    }

    fn wait_ended(&self) {
        catch_panic(|| {
            self.send_if(|state| {
                state.payment_waits = state.payment_waits.saturating_sub(1);
                (state.payment_waits == 0).then_some(SessionEvent::PaymentSettled)
            });
        });
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
        let sender = EventSender::default();
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
        let sender = EventSender::default();
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

    fn next_of(events: &mut SessionEvents) -> Option<SessionEvent> {
        match poll_next(events) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }

    #[test]
    fn late_session_subscriber_receives_all_server_messages() {
        let sender = EventSender::default();
        let message = |level| SessionEvent::ServerMessage {
            level,
            text: "maintenance at noon".to_owned(),
        };
        let levels = [
            MessageLevel::Info,
            MessageLevel::Warning,
            MessageLevel::Error,
        ];
        for level in levels {
            sender.send(message(level));
        }
        sender.send(SessionEvent::Ended);
        sender.finish();
        let mut late = sender.subscribe();
        for level in levels {
            assert_eq!(poll_next(&mut late), Poll::Ready(Some(message(level))));
        }
        assert_eq!(poll_next(&mut late), Poll::Ready(Some(SessionEvent::Ended)));
        assert_eq!(poll_next(&mut late), Poll::Ready(None));
    }

    #[test]
    fn receiver_that_falls_behind_misses_only_the_oldest_events() {
        let sender = EventSender::default();
        let mut events = sender.subscribe();
        let at_risk = |seconds| SessionEvent::AtRisk {
            time_left: Duration::from_secs(seconds),
        };
        let sent = KEPT_EVENTS as u64 + 5;
        (0..sent).for_each(|seconds| sender.send(at_risk(seconds)));
        for seconds in 5..sent {
            assert_eq!(poll_next(&mut events), Poll::Ready(Some(at_risk(seconds))));
        }
        assert_eq!(poll_next(&mut events), Poll::Pending);
    }

    #[test]
    fn payment_is_required_until_no_call_waits_for_it() {
        let sender = EventSender::default();
        let mut events = sender.subscribe();
        sender.wait_began();
        sender.wait_began();
        assert_eq!(next_of(&mut events), Some(SessionEvent::PaymentRequired));
        sender.wait_ended();
        assert_eq!(next_of(&mut events), None);
        let mut late = sender.subscribe();
        assert_eq!(next_of(&mut late), Some(SessionEvent::PaymentRequired));
        sender.wait_ended();
        assert_eq!(next_of(&mut events), Some(SessionEvent::PaymentSettled));
        assert_eq!(next_of(&mut events), None);
        assert_eq!(next_of(&mut sender.subscribe()), None);
    }
}

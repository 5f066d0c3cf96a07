//! What happens to a session while it lives, for whoever wants to know.

use std::time::Duration;

use tokio::sync::watch;

/// Something that happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Heartbeats fail. Unless one gets through, the server ends the session in about this time.
    AtRisk {
        /// Time left, at the moment of the event.
        time_left: Duration,
    },
    /// A heartbeat got through again.
    Recovered,
    /// The server has ended the session; nothing can be done with it any more.
    Ended,
}

/// The events of one session. Who looks seldom sees how things stand, not how they came about.
#[derive(Debug, Clone)]
pub struct SessionEvents {
    watch: watch::Receiver<Standing>,
    seen: u64,
}

impl SessionEvents {
    /// Waits for the next event; `None` when there will be no more. Cancel-safe: an event that was not returned is returned
    /// next time. A risk or an end from before the first call counts, if it still stands.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            let standing = *self.watch.borrow_and_update();
            if standing.told != self.seen {
                self.seen = standing.told;
                return standing.event;
            }
            if standing.over {
                return None;
            }
            self.watch.changed().await.ok()?;
        }
    }

    /// How things stand: the latest event, if there was one. Does not wait and takes nothing from [`SessionEvents::next`].
    pub fn latest(&self) -> Option<SessionEvent> {
        self.watch.borrow().event
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    event: Option<SessionEvent>,
    /// How many events there were.
    told: u64,
    /// Whether there will be no more.
    over: bool,
}

/// Where events are told.
#[derive(Debug)]
pub(crate) struct EventBoard {
    watch: watch::Sender<Standing>,
}

impl EventBoard {
    pub(crate) fn new() -> Self {
        Self {
            watch: watch::Sender::new(Standing::default()),
        }
    }

    /// Tells `event`, unless all is over.
    pub(crate) fn tell(&self, event: SessionEvent) {
        self.watch.send_if_modified(|standing| {
            if !standing.over {
                standing.event = Some(event);
                standing.told += 1;
            }
            !standing.over
        });
    }

    /// There will be no more events.
    pub(crate) fn finish(&self) {
        self.watch.send_modify(|standing| standing.over = true);
    }

    pub(crate) fn subscribe(&self) -> SessionEvents {
        let watch = self.watch.subscribe();
        let standing = *watch.borrow();
        let news = match standing.event {
            Some(SessionEvent::AtRisk { .. } | SessionEvent::Ended) => 1,
            Some(SessionEvent::Recovered) | None => 0,
        };
        SessionEvents {
            seen: standing.told - news,
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
    fn each_event_is_given_once_and_the_last_before_the_end() {
        let board = EventBoard::new();
        let mut events = board.subscribe();
        assert_eq!(poll_next(&mut events), Poll::Pending);
        board.tell(AT_RISK);
        assert_eq!(poll_next(&mut events), Poll::Ready(Some(AT_RISK)));
        assert_eq!(poll_next(&mut events), Poll::Pending);
        board.tell(SessionEvent::Recovered);
        board.finish();
        board.tell(AT_RISK);
        assert_eq!(
            poll_next(&mut events),
            Poll::Ready(Some(SessionEvent::Recovered))
        );
        assert_eq!(poll_next(&mut events), Poll::Ready(None));
    }

    #[test]
    fn who_comes_later_hears_of_what_still_stands() {
        let board = EventBoard::new();
        board.tell(AT_RISK);
        assert_eq!(
            poll_next(&mut board.subscribe()),
            Poll::Ready(Some(AT_RISK))
        );
        board.tell(SessionEvent::Recovered);
        assert_eq!(poll_next(&mut board.subscribe()), Poll::Pending);
        board.tell(SessionEvent::Ended);
        board.finish();
        let mut late = board.subscribe();
        assert_eq!(poll_next(&mut late), Poll::Ready(Some(SessionEvent::Ended)));
        assert_eq!(poll_next(&mut late), Poll::Ready(None));
    }
}

//! Waiting for the samples of one client with one poll at a time, so that a sample in flight holds no connection.

mod board;
mod drive;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tinkers_core::nesting::Mark;
use tinkers_core::{ClientId, ProgressCell, Result, SessionContext, Task};
use tinkers_wire::PollTarget;

use self::board::Board;
pub use self::board::CompletionNotice;
use self::drive::Drive;
pub use self::watch::CompletionHandle;

/// The shared poll of a sampling client: asks what of its sampling session has ended, for all waiters (`POST /retrieve_futures`).
///
/// One background task polls: it starts with the first [`SessionPoller::begin`] and ends with this handle, which is the sampling client's.
/// No answer of the server ends it. When the poll fails for good, because an answer was doubted as often as it may be or because it
/// panicked, it rests, at first for half a minute and for ten minutes at most: meanwhile every waiter polls for itself. Only when its
/// runtime ends, all waiters get that as an error, and so do those that come later.
pub struct SessionPoller {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    target: PollTarget,
    board: Arc<Board>,
    task: Mutex<Option<Task>>,
}

/// A submission that has begun: what ends from now on is kept for it until it knows its request id.
#[derive(Debug)]
#[must_use = "it is given to SessionPoller::watch once the request id is known"]
pub struct PendingSubmission {
    evictions: u64,
}

impl SessionPoller {
    /// A poller of `target`, which asks for nothing yet. Its polls wait in the queue of `client`.
    pub fn new(session: Arc<dyn SessionContext>, client: ClientId, target: PollTarget) -> Self {
        Self {
            session,
            client,
            target,
            board: Arc::default(),
            task: Mutex::default(),
        }
    }

    /// To be called before each submission.
    ///
    /// # Errors
    /// Why the poller has ended. What would be submitted then could not be waited for.
    pub fn begin(&self) -> Result<PendingSubmission> {
        self.start();
        let evictions = self.board.begin()?;
        Ok(PendingSubmission { evictions })
    }

    /// Has the poller look out for `request_id`, the answer to the submission that began with `begun`. News of it go to
    /// `progress`.
    ///
    /// For a sample that is made by a request under way, such as in a transport layer, it does not look out: that request may be the
    /// shared poll. The sample is polled for by itself.
    ///
    /// # Errors
    /// `Protocol` when that id is being waited for already: a server that gives it twice has lost one of the two.
    pub fn watch(
        &self,
        begun: PendingSubmission,
        request_id: &str,
        progress: &Arc<ProgressCell>,
    ) -> Result<CompletionHandle> {
        let now = self.session.caller().time.now();
        let id: Arc<str> = request_id.into();
        progress.accepted(now, Arc::clone(&id));
        if !Mark::here().is_inside() {
            let waits = Arc::clone(&id);
            self.board.watch(begun.evictions, waits, progress, now)?;
        }
        Ok(CompletionHandle::new(Arc::clone(&self.board), id))
    }

    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_some() {
            return;
        }
        let drive = Drive::new(
            Arc::clone(&self.session),
            self.client,
            self.target.clone(),
            Arc::clone(&self.board),
        );
        *task = Some(self.session.spawner().spawn(Box::pin(drive.run())));
    }
}

impl Drop for SessionPoller {
    /// The task acknowledges what it has not yet, within seconds, and ends.
    fn drop(&mut self) {
        self.board.close();
        let task = self
            .task
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            task.detach();
        }
    }
}

impl fmt::Debug for SessionPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPoller")
            .field("target", &self.target)
            .field("board", &self.board)
            .finish_non_exhaustive()
    }
}

//! The shared poll: one poll at a time for all samples of a client, so that a sample in flight holds no connection.

mod completion_handle;
mod completion_table;
mod shared_poll;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tinkers_core::nesting::NestedMark;
use tinkers_core::{ClientId, ProgressCell, Result, SessionContext, Task};
use tinkers_wire::PollTarget;

pub use self::completion_handle::CompletionHandle;
pub use self::completion_table::CompletionNotice;
use self::completion_table::CompletionTable;
use self::shared_poll::SharedPoll;

/// The shared poll of a sampling client. It asks the server which requests of the sampling session have ended (`POST /retrieve_futures`).
///
/// One background task sends the polls. It starts with the first call of [`SessionPoller::begin`] and ends after the poller is dropped.
///
/// No response of the server ends the task. After a response that is not retried, too many retries or a panic, the shared poll is
/// suspended, for 30 s at first and 10 minutes at most. Meanwhile each request is polled for individually. Only the end of the runtime ends
/// the task early: current and later waits for a completion then fail.
pub struct SessionPoller {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    target: PollTarget,
    completions: Arc<CompletionTable>,
    task: Mutex<Option<Task>>,
}

/// A request that is about to be submitted. Completions that arrive from this time on are stored until the server's response shows the id
/// of the request.
#[derive(Debug)]
#[must_use = "pass it to SessionPoller::register when the request id is known"]
pub struct PendingSubmission {
    evictions: u64,
}

impl SessionPoller {
    /// Creates a poller that does not poll yet. Its polls wait for permission in the rate limiter's queue of `client`.
    pub fn new(session: Arc<dyn SessionContext>, client: ClientId, target: PollTarget) -> Self {
        Self {
            session,
            client,
            target,
            completions: Arc::default(),
            task: Mutex::default(),
        }
    }

    /// Starts to store completions for a request that is about to be submitted. Call this method before each submission, since the
    /// completion may arrive before the id of the request is known.
    ///
    /// # Errors
    /// The error with which the poller ended, if its runtime has ended.
    pub fn begin(&self) -> Result<PendingSubmission> {
        self.start();
        let evictions = self.completions.begin()?;
        Ok(PendingSubmission { evictions })
    }

    /// Registers `request_id`, the id that the server assigned to `submission`. The completion of the request is reported to `progress`.
    ///
    /// A request that was submitted inside another request, for example by a transport layer, is not registered but polled for
    /// individually, since the outer request may be the shared poll itself.
    ///
    /// # Errors
    /// `Protocol` if the id is registered already: the server has assigned it twice.
    pub fn register(
        &self,
        submission: PendingSubmission,
        request_id: &str,
        progress: &Arc<ProgressCell>,
    ) -> Result<CompletionHandle> {
        let now = self.session.caller().time.now();
        let id: Arc<str> = request_id.into();
        progress.accepted(now, Arc::clone(&id));
        if !NestedMark::here().is_inside() {
            self.completions
                .register(submission.evictions, Arc::clone(&id), progress, now)?;
        }
        Ok(CompletionHandle::new(Arc::clone(&self.completions), id))
    }

    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_some() {
            return;
        }
        let poll = SharedPoll::new(
            Arc::clone(&self.session),
            self.client,
            self.target.clone(),
            Arc::clone(&self.completions),
        );
        *task = Some(self.session.spawner().spawn(Box::pin(poll.run())));
    }
}

impl Drop for SessionPoller {
    /// Makes the background task acknowledge the remaining results to the server within a few seconds and then end.
    fn drop(&mut self) {
        self.completions.close();
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
            .field("completions", &self.completions)
            .finish_non_exhaustive()
    }
}

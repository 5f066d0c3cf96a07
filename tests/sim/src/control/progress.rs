//! A bug of the progress deadline: it is not reset when the submission queue of a model advances.

use std::time::Duration;

use tinkers::{ApiFuture, Error, ErrorKind};
use tinkers_core::{Clock, Phase, Sent, Stalled};

/// Awaits a call that fails after `progress_deadline` without progress. The deadline is not
/// extended when the submission queue of the model, in which the call waits, advances. Implements
/// [`super::Control::IgnoredModelQueueProgress`].
pub(crate) async fn await_ignoring_queue<T: Send + 'static>(
    mut handle: ApiFuture<T>,
    clock: &dyn Clock,
    progress_deadline: Duration,
) -> Result<T, Error> {
    loop {
        let last_news = handle.progress().last_news;
        let deadline = last_news.after(progress_deadline);
        if let Some(result) = clock.deadline(deadline, &mut handle).await {
            return result;
        }
        let progress = handle.progress();
        if progress.phase != Phase::Admission {
            return handle.await;
        }
        if progress.last_news == last_news {
            let message = "the operation made no progress";
            let error = Error::new(ErrorKind::Stalled, Sent::MaybeSent, message);
            return Err(error.with_stalled(Stalled::new(Phase::Admission, progress_deadline)));
        }
    }
}

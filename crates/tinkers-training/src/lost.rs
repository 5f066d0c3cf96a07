//! What is done about a save whose reply was lost: it is looked for, or made once more.

use std::sync::Arc;

use tinkers_core::retry::pause;
use tinkers_core::{
    Call, ClientId, Deduplication, Error, ErrorKind, Policy, ProgressCell, Result, RouteClass,
    Sent, SessionContext, Setback,
};
use tinkers_wire::{CheckpointList, TinkerPath, routes};

use crate::delivery::Taken;
use crate::parts::{SavedName, WhenLost};
use crate::submit::Submission;
use crate::taken::{is_taken, says_taken};

/// Sends a part, and finds out what a lost reply left behind where that can be found out. `fresh` is the name that a save
/// goes under when the model had no checkpoint of that name before: what is found under it then is this one.
pub(crate) async fn send(submission: &Submission<'_>, fresh: Option<&SavedName>) -> Result<Taken> {
    let error = match submission.send(submission.policy()).await {
        Ok(taken) => return Ok(taken),
        Err(error) => error,
    };
    let looks = submission.part.when_lost() == WhenLost::Look;
    let is_lost = error.kind() == ErrorKind::OutcomeUnknown && looks;
    if is_lost || is_own_conflict(&error) {
        let setbacks = &submission.session.caller().setbacks;
        setbacks.note(Setback::LostSave, &error);
    }
    if is_lost {
        return look_or_repeat(submission, fresh, error).await;
    }
    if is_own_conflict(&error) {
        return after_conflict(submission, fresh, error).await;
    }
    Err(error)
}

/// Whether a conflict may be with an earlier attempt of the same call.
fn is_own_conflict(error: &Error) -> bool {
    let is_conflict = error.kind() == ErrorKind::Conflict || is_taken(error);
    is_conflict && error.sent() == Sent::MaybeSent
}

async fn look_or_repeat(
    submission: &Submission<'_>,
    fresh: Option<&SavedName>,
    lost: Error,
) -> Result<Taken> {
    if let Some(name) = fresh {
        match submission.finder().look(name).await {
            Ok(Some(path)) => return Ok(Taken::Found(path)),
            Ok(None) => {}
            Err(failed) => return Err(looked_in_vain(lost, &failed)),
        }
    }
    let error = match submission.send(submission.repeating()).await {
        Ok(taken) => return Ok(taken.after_lost_reply()),
        Err(error) => error,
    };
    // Whatever the repeat met: the first attempt may have been applied.
    let error = error.with_sent(Sent::MaybeSent);
    if error.kind() == ErrorKind::Closed {
        return Err(error);
    }
    if is_own_conflict(&error) {
        return after_conflict(submission, fresh, error).await;
    }
    Err(error.with_context("the reply was lost, and so was the repeat"))
}

/// The server refuses a repeat because something is there already.
async fn after_conflict(
    submission: &Submission<'_>,
    fresh: Option<&SavedName>,
    conflict: Error,
) -> Result<Taken> {
    let session = submission.session;
    if let Some(renewed) = submission.part.renewed(session) {
        // On a server that de-duplicates the number stands for the first body.
        if session.profile().deduplicates == Deduplication::Everything {
            return Err(conflict);
        }
        let renewed = Submission {
            part: &*renewed,
            ..*submission
        };
        let sent = renewed.send(renewed.repeating()).await;
        return sent.map_err(|error| error.with_sent(Sent::MaybeSent));
    }
    let Some(name) = fresh.filter(|_| says_taken(&conflict)) else {
        return Err(conflict);
    };
    search(&submission.finder(), name, conflict)
        .await
        .map(Taken::Found)
}

/// Looks for a save that the server says is there, until it is listed: a list may leave out what is still being written.
///
/// # Errors
/// `conflict`, which says that it is there, when it is not found.
pub(crate) async fn search(
    finder: &Finder<'_>,
    name: &SavedName,
    conflict: Error,
) -> Result<TinkerPath> {
    let caller = finder.session.caller();
    let time = &caller.time;
    let began = time.now();
    for repeat in 0.. {
        match finder.look(name).await {
            Ok(Some(path)) => return Ok(path),
            Ok(None) => {}
            Err(failed) => return Err(looked_in_vain(Error::outcome_unknown(conflict), &failed)),
        }
        if time.now().since(began) >= Policy::PATIENT.window {
            break;
        }
        let paused = (caller.closing).unless_closed(time.sleep(pause(repeat, None)));
        let paused = paused.await;
        paused.map_err(|closed| closed.with_sent(Sent::MaybeSent))?;
    }
    Err(conflict)
}

/// The lost outcome stays what it is, whatever kept us from finding it, but for the end of the client.
fn looked_in_vain(lost: Error, failed: &Error) -> Error {
    if failed.kind() == ErrorKind::Closed {
        return failed.clone().with_sent(Sent::MaybeSent);
    }
    lost.with_context(format!(
        "the save could not be looked for either ({failed})"
    ))
}

/// What looking for a save needs.
pub(crate) struct Finder<'a> {
    pub(crate) session: &'a dyn SessionContext,
    pub(crate) model_id: &'a str,
    pub(crate) client: ClientId,
    pub(crate) operation: &'static str,
    pub(crate) progress: &'a Arc<ProgressCell>,
}

impl Finder<'_> {
    /// Returns the checkpoint of this name, when the model has one.
    async fn look(&self, name: &SavedName) -> Result<Option<TinkerPath>> {
        let route = routes::run_checkpoints(self.model_id);
        let mut call = Call::get(route, RouteClass::Rest);
        call.operation = Some(self.operation);
        call.client = self.client;
        call.progress = Some(Arc::clone(self.progress));
        let answer = self.session.caller().call(call).await?;
        let list = CheckpointList::read(&answer.response.body).map_err(|error| {
            let message = format!("cannot decode the list of checkpoints: {error}");
            Error::new(ErrorKind::Protocol, Sent::Answered, message)
        })?;
        let found = list
            .checkpoints
            .iter()
            .find(|listed| name.is_that_of(listed));
        found
            .map(|listed| match listed.tinker_path.parse() {
                Ok(path) => Ok(path),
                Err(_) => Ok(TinkerPath::new(self.model_id, name.kind, &name.name)?),
            })
            .transpose()
    }
}

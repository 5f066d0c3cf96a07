//! What is done about a save whose reply was lost: it is looked for, or made once more.

use tinkers_core::retry::pause;
use tinkers_core::{
    Call, Deduplication, Error, ErrorKind, Policy, Result, RouteClass, Sent, Setback,
};
use tinkers_wire::{CheckpointList, TinkerPath, routes};

use crate::clean::says_that_it_exists;
use crate::delivery::Taken;
use crate::parts::{SavedName, WhenLost};
use crate::submit::Submission;

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
    error.kind() == ErrorKind::Conflict && error.sent() == Sent::MaybeSent
}

async fn look_or_repeat(
    submission: &Submission<'_>,
    fresh: Option<&SavedName>,
    lost: Error,
) -> Result<Taken> {
    if let Some(name) = fresh {
        match look(submission, name).await {
            Ok(Some(path)) => return Ok(Taken::Found(path)),
            Ok(None) => {}
            Err(failed) => return Err(looked_in_vain(lost, &failed)),
        }
    }
    let error = match submission.send(submission.repeating()).await {
        Ok(taken) => return Ok(taken),
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
    let Some(name) = fresh.filter(|_| says_that_it_exists(&conflict)) else {
        return Err(conflict);
    };
    // A list may leave out what is still being written.
    let time = &session.caller().time;
    let began = time.now();
    for repeat in 0.. {
        match look(submission, name).await {
            Ok(Some(path)) => return Ok(Taken::Found(path)),
            Ok(None) => {}
            Err(failed) => return Err(looked_in_vain(Error::outcome_unknown(conflict), &failed)),
        }
        if time.now().since(began) >= Policy::PATIENT.window {
            break;
        }
        let pause = time.sleep(pause(repeat, None));
        let paused = session.caller().closing.unless_closed(pause).await;
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

/// The checkpoint of this name, when the model has one.
async fn look(submission: &Submission<'_>, name: &SavedName) -> Result<Option<TinkerPath>> {
    let route = routes::run_checkpoints(submission.model_id);
    let mut call = Call::get(route, RouteClass::Rest);
    call.operation = Some(submission.operation);
    call.client = submission.client;
    call.progress = Some(std::sync::Arc::clone(submission.progress));
    let answer = submission.session.caller().call(call).await?;
    let list = CheckpointList::read(&answer.response.body).map_err(|error| {
        let message = format!("the list of checkpoints cannot be read: {error}");
        Error::new(ErrorKind::Protocol, Sent::Answered, message)
    })?;
    let found = list
        .checkpoints
        .iter()
        .find(|listed| name.is_that_of(listed));
    found
        .map(|listed| match listed.tinker_path.parse() {
            Ok(path) => Ok(path),
            Err(_) => Ok(TinkerPath::new(submission.model_id, name.kind, &name.name)?),
        })
        .transpose()
}

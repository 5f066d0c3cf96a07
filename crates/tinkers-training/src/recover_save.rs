//! Submits saves. If the response to a save is lost, looks for the checkpoint in the server's list, or repeats the save.

use std::sync::Arc;

use tinkers_core::retry::BACKOFF;
use tinkers_core::{
    Call, CallPolicy, ClientId, Deduplication, Error, ErrorKind, ProgressCell, RecoveredError,
    Result, RouteClass, Sent, SessionContext,
};
use tinkers_wire::{CheckpointList, TinkerPath, routes};

use crate::name_conflict::{is_name_taken, name_taken, says_exists};
use crate::refusal::leaves_number_free;
use crate::requests::{OnLostReply, SavedName};
use crate::submission_queue::SubmissionQueue;
use crate::submit::{Outgoing, Submitted};

/// Submits a named save. Records in `queue` that a checkpoint of this name may exist, unless the server certainly saved nothing.
pub(crate) async fn send_named(
    queue: &SubmissionQueue,
    save: &Outgoing<'_>,
    name: SavedName,
) -> Result<Submitted> {
    // If this model never saved under this name, a checkpoint of this name can only come from this call.
    let is_new = !queue.may_have_saved(&name);
    let sent = send(save, is_new.then_some(&name)).await;
    let sent = sent.map(|mut submitted| {
        if let Submitted::Accepted { is_fresh, .. } = &mut submitted {
            *is_fresh = is_new;
        }
        submitted
    });
    let sent = sent.map_err(|error| match is_name_taken(&error) {
        true => name_taken(&name, error),
        false => error,
    });
    if !matches!(&sent, Err(error) if leaves_number_free(error, save.request)) {
        queue.record_save_attempt(name);
    }
    sent
}

/// Submits a save. If the response was lost, looks for the checkpoint by its name, and repeats the save if there is none. `new_name` is the name
/// of the save if only this call can have created a checkpoint of that name. If `new_name` is `None`, the save is repeated without a look-up,
/// since a checkpoint of the same name may come from another call.
pub(crate) async fn send(save: &Outgoing<'_>, new_name: Option<&SavedName>) -> Result<Submitted> {
    let error = match save.send(save.policy()).await {
        Ok(submitted) => return Ok(submitted),
        Err(error) => error,
    };
    let can_look_up = save.request.on_lost_reply() == OnLostReply::LookUp;
    let is_lost = error.kind() == ErrorKind::OutcomeUnknown && can_look_up;
    let is_own_conflict = is_own_conflict(&error);
    if is_lost || is_own_conflict {
        let recovered_errors = &save.session.caller().recovered_errors;
        recovered_errors.record(RecoveredError::LostSave, &error);
    }
    if is_lost {
        return look_up_or_repeat(save, new_name, error).await;
    }
    if is_own_conflict {
        return handle_conflict(save, new_name, error).await;
    }
    Err(error)
}

/// Returns whether the server may have rejected a retry of a save because an earlier attempt of the same save succeeded.
fn is_own_conflict(error: &Error) -> bool {
    let is_conflict = error.kind() == ErrorKind::Conflict || is_name_taken(error);
    is_conflict && error.sent() == Sent::MaybeSent
}

/// Looks for the checkpoint of a save after the response to the save was lost. Repeats the save if there is no such checkpoint, or if `new_name`
/// is `None`. `lost` is the error of the save, returned if the look-up fails.
async fn look_up_or_repeat(
    save: &Outgoing<'_>,
    new_name: Option<&SavedName>,
    lost: Error,
) -> Result<Submitted> {
    if let Some(name) = new_name {
        match SaveLookup::of(save).find(name).await {
            Ok(Some(path)) => return Ok(Submitted::Found(path)),
            Ok(None) => {}
            Err(failed) => return Err(lookup_failed(lost, &failed)),
        }
    }
    let error = match save.send(save.repeating()).await {
        Ok(submitted) => return Ok(submitted.after_lost_reply()),
        Err(error) => error,
    };
    // Whatever the error of the retry is, the first attempt may have been applied.
    let error = error.with_sent(Sent::MaybeSent);
    if error.kind() == ErrorKind::Closed {
        return Err(error);
    }
    if is_own_conflict(&error) {
        return handle_conflict(save, new_name, error).await;
    }
    Err(error.with_context("the response to the save was lost, and its retry failed, too"))
}

/// Finds out the outcome of a save whose retry the server rejected because the sequence number or the name is in use, probably by the first
/// attempt. `conflict` is the error of the retry.
async fn handle_conflict(
    save: &Outgoing<'_>,
    new_name: Option<&SavedName>,
    conflict: Error,
) -> Result<Submitted> {
    let session = save.session;
    if let Some(renewed) = save.request.with_new_sampling_number(session) {
        // A server that deduplicates all requests responds to the same number with the outcome of the first attempt.
        if session.profile().deduplicates == Deduplication::Everything {
            return Err(conflict);
        }
        let renewed = Outgoing {
            request: &*renewed,
            ..*save
        };
        let sent = renewed.send(renewed.repeating()).await;
        return sent.map_err(|error| error.with_sent(Sent::MaybeSent));
    }
    let Some(name) = new_name.filter(|_| says_exists(&conflict)) else {
        return Err(conflict);
    };
    let found = SaveLookup::of(save).find_eventually(name, conflict).await;
    found.map(Submitted::Found)
}

/// Returns the error of a save whose response was lost (`lost`), after the look-up of its checkpoint failed with `failed`. If the client was
/// closed during the look-up, returns `failed` in place of `lost`.
fn lookup_failed(lost: Error, failed: &Error) -> Error {
    if failed.kind() == ErrorKind::Closed {
        return failed.clone().with_sent(Sent::MaybeSent);
    }
    lost.with_context(format!(
        "the response was lost, and the list of checkpoints could not be read ({failed})"
    ))
}

/// A search for the checkpoints of saves, in the server's list of the model's checkpoints.
pub(crate) struct SaveLookup<'a> {
    pub(crate) session: &'a dyn SessionContext,
    pub(crate) model_id: &'a str,
    pub(crate) client: ClientId,
    pub(crate) operation: &'static str,
    pub(crate) progress: &'a Arc<ProgressCell>,
}

impl<'a> SaveLookup<'a> {
    fn of(save: &Outgoing<'a>) -> Self {
        Self {
            session: save.session,
            model_id: save.model_id,
            client: save.client,
            operation: save.operation,
            progress: save.progress,
        }
    }

    /// Looks for a checkpoint repeatedly until the server lists it. The list may omit a checkpoint that is still being written.
    ///
    /// # Errors
    /// `conflict` if the server does not list the checkpoint within the time limit for retries. `conflict` is the error with which the server
    /// reported that the checkpoint exists.
    pub(crate) async fn find_eventually(
        &self,
        name: &SavedName,
        conflict: Error,
    ) -> Result<TinkerPath> {
        let caller = self.session.caller();
        let time = &caller.time;
        let began = time.now();
        for repeat in 0.. {
            match self.find(name).await {
                Ok(Some(path)) => return Ok(path),
                Ok(None) => {}
                Err(failed) => {
                    return Err(lookup_failed(Error::outcome_unknown(conflict), &failed));
                }
            }
            if time.now().since(began) >= CallPolicy::PATIENT.window {
                break;
            }
            let paused = (caller.closing).unless_closed(time.sleep(BACKOFF.pause(repeat)));
            let paused = paused.await;
            paused.map_err(|closed| closed.with_sent(Sent::MaybeSent))?;
        }
        Err(conflict)
    }

    /// Requests the list of the model's checkpoints once. Returns the path of the checkpoint with this name and kind, if it is listed.
    async fn find(&self, name: &SavedName) -> Result<Option<TinkerPath>> {
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
        let found = list.checkpoints.iter().find(|listed| name.is_of(listed));
        found
            .map(|listed| match listed.tinker_path.parse() {
                Ok(path) => Ok(path),
                Err(_) => Ok(TinkerPath::new(self.model_id, name.kind, &name.name)?),
            })
            .transpose()
    }
}

//! Sending one part: the form of its body, and the look at what a lost reply left behind.

use tinkers_core::{
    Accepted, BodyFormat, Call, Error, ErrorKind, Fact, Result, RouteClass, SessionContext,
};
use tinkers_wire::{CheckpointList, TinkerPath, routes};

use crate::parts::{Effect, Part};
use crate::turns::{Taken, policy};

/// Sends `part` under `seq_id`. A server that refuses the form of a pass's body before any form was accepted gets the other
/// form, once, and what it takes is remembered.
pub(crate) async fn submit(
    session: &dyn SessionContext,
    part: &dyn Part,
    seq_id: u64,
    prepare: impl Fn(&mut Call) + Send + Sync,
) -> Result<Accepted> {
    let profile = session.profile();
    let sent = send(session, part, seq_id, &profile, &prepare).await;
    if !part.has_formats() || profile.bodies_confirmed {
        return sent;
    }
    match sent {
        Ok(accepted) => {
            session.learn(Fact::Bodies(profile.bodies));
            Ok(accepted)
        }
        Err(first)
            if profile.bodies == BodyFormat::Protobuf
                && matches!(first.status(), Some(415 | 422)) =>
        {
            let json = (*profile).clone().learn(Fact::Bodies(BodyFormat::Json));
            tracing::debug!(error = %first, "the server refused a protobuf body; trying JSON");
            match send(session, part, seq_id, &json, &prepare).await {
                Ok(accepted) => {
                    session.learn(Fact::Bodies(BodyFormat::Json));
                    Ok(accepted)
                }
                // The body was not at fault: what the server said first is what the caller needs.
                Err(second) if matches!(second.status(), Some(415 | 422)) => Err(first),
                Err(second) => Err(second),
            }
        }
        Err(error) => Err(error),
    }
}

async fn send(
    session: &dyn SessionContext,
    part: &dyn Part,
    seq_id: u64,
    profile: &tinkers_core::ServerProfile,
    prepare: &(impl Fn(&mut Call) + Send + Sync),
) -> Result<Accepted> {
    let mut call = part.call(seq_id, profile)?;
    call.policy = policy(profile.deduplicates);
    prepare(&mut call);
    session.caller().call(call).await
}

/// A save's reply was lost and the server does not de-duplicate: what is there already is taken, else it is saved once more.
pub(crate) async fn look_or_repeat(
    session: &dyn SessionContext,
    model_id: &str,
    part: &dyn Part,
    effect: &Effect,
    seq_id: u64,
    lost: Error,
) -> Result<Taken> {
    if let Some(path) = look(session, model_id, effect).await? {
        return Ok(Taken::Found(path));
    }
    match submit(session, part, seq_id, |_| ()).await {
        Ok(accepted) => {
            let elapsed = accepted.elapsed;
            let promise = tinkers_futures::promise(&accepted.response)?;
            Ok(Taken::Promised {
                promise,
                flight: accepted.flight,
                elapsed,
            })
        }
        // It was still being made when we looked.
        Err(error) if error.kind() == ErrorKind::Conflict => look(session, model_id, effect)
            .await?
            .map(Taken::Found)
            .ok_or(lost),
        Err(error) => Err(error),
    }
}

async fn look(
    session: &dyn SessionContext,
    model_id: &str,
    effect: &Effect,
) -> Result<Option<TinkerPath>> {
    let answer = session
        .caller()
        .call(Call::get(
            routes::run_checkpoints(model_id),
            RouteClass::Rest,
        ))
        .await?;
    let list = CheckpointList::read(&answer.response.body).map_err(|error| {
        let message = format!("the list of checkpoints cannot be read: {error}");
        Error::new(ErrorKind::Protocol, tinkers_core::Sent::Answered, message)
    })?;
    let found = list
        .checkpoints
        .into_iter()
        .find(|checkpoint| checkpoint.checkpoint_id == effect.checkpoint_id);
    Ok(found.and_then(|checkpoint| checkpoint.tinker_path.parse().ok()))
}

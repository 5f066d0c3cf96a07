//! The way of one sample: submitted, waited for, fetched, and done anew when the server lost it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tinkers_core::contain::contain;
use tinkers_core::{
    AdmissionRequest, Call, Cost, Entry, Error, ErrorKind, InFlightPermit, Phase, Readmission,
    RecoveredError, Result, RouteClass, Sent,
};
use tinkers_futures::{
    CompletionHandle, CompletionNotice, Operation, Retrieval, after_close, is_promise, promise,
    retrieve_announced,
};
use tinkers_wire::{RequestKind, SampleRequest, SampleResponse, routes, to_json_with_capacity};

use crate::client::Inner;

/// How often a sample that the server lost is sampled anew. Each time is work that somebody pays for.
const MOST_LOST: u32 = 10;
/// Before the first of these; it doubles up to [`LONGEST_PAUSE`]. The pauses of the official SDK.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Submits and waits. A result that the server lost is sampled anew, under a new number, after a pause, ten times at most.
///
/// Many samples wait at once, so what is needed before and after the wait is on the heap only then.
pub(crate) async fn run(
    client: Arc<Inner>,
    mut request: Box<SampleRequest>,
    operation: Operation,
) -> Result<SampleResponse> {
    request.validate()?;
    let mut lost = 0;
    loop {
        client.session.check_open()?;
        operation.progress.enter(Phase::Admission);
        let turn = client
            .session
            .caller()
            .enter(ask(&client, &request, &operation));
        let entry = turn
            .await
            .map_err(|error| refused(&client, &operation, error))?;
        // It may have been closed meanwhile.
        client.session.check_open()?;
        let mut accepted = Box::pin(submit(&client, &mut request, &operation, entry)).await?;
        let announcement = match &accepted.result {
            Awaited::Announced(watch) => watch.announced().await?,
            Awaited::Asked(_) => CompletionNotice::default(),
        };
        let ids = accepted.sequence_ids.take();
        // Nothing of the answer outlives this block, so that it takes up nothing where others wait.
        let pause = {
            let fetched = Box::pin(fetch(&client, accepted, &operation, announcement)).await;
            match fetched {
                Err(error) if lost < times_anew(&error) => {
                    client
                        .session
                        .caller()
                        .recovered_errors
                        .count(RecoveredError::LostSample);
                    contain(
                        || tracing::debug!(recovered_error = RecoveredError::LostSample.name(), error = %error, "the server lost a sample; sampling it anew"),
                    );
                    FIRST_PAUSE.saturating_mul(1 << lost).min(LONGEST_PAUSE)
                }
                Err(error) => return Err(error),
                Ok(response) => return checked(&request, response, ids),
            }
        };
        lost += 1;
        let caller = client.session.caller();
        let pause = caller.time.sleep(pause);
        caller.closing.unless_closed(pause).await?;
    }
}

/// How often a sample that ended with this error is sampled anew, in all.
fn times_anew(error: &Error) -> u32 {
    match error.kind() {
        ErrorKind::ResultLost => MOST_LOST,
        // Some servers say so of a result that they have dropped, others of what the sample needs: once more tells.
        ErrorKind::NotFound if error.request_id().is_some() => 1,
        _ => 0,
    }
}

/// A sample that the server has accepted.
struct Accepted {
    result: Awaited,
    sequence_ids: Option<Box<[String]>>,
    submitted_in: Duration,
    /// Lands when the result is there or is given up.
    _flight: InFlightPermit,
}

/// How its result is learned of.
enum Awaited {
    /// The session's poller waits for it, under the id that the watch knows.
    Announced(CompletionHandle),
    /// It is asked for under this id until it is there.
    Asked(String),
}

impl Awaited {
    fn request_id(&self) -> &str {
        match self {
            Self::Announced(watch) => watch.request_id(),
            Self::Asked(id) => id,
        }
    }
}

/// What it waits for, before anything is made that is sent.
fn ask(client: &Inner, request: &SampleRequest, operation: &Operation) -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: client.client,
        cost: cost(request),
        deadline: operation.deadline,
        flight: None,
        reentry: Readmission::New,
        is_nested: false,
    }
}

fn cost(request: &SampleRequest) -> Cost {
    Cost {
        bytes: request.prompt.sampling_bytes(),
    }
}

/// The error of one that was not let in.
fn refused(client: &Inner, operation: &Operation, error: Error) -> Error {
    after_close(&*client.session, error.with_operation(operation.name))
}

async fn submit(
    client: &Inner,
    request: &mut SampleRequest,
    operation: &Operation,
    entry: Entry,
) -> Result<Accepted> {
    let begun = client.poller.as_ref().map(|poller| poller.begin());
    let begun = begun.transpose()?;
    request.seq_id = Some(client.next_seq());
    request.sampling_session_id = Some(client.sampler_id.clone());
    let body = to_json_with_capacity(request, body_length(request));
    // What each sample has alike takes up nothing while it waits.
    request.sampling_session_id = None;
    let mut call = Call::post(routes::ASAMPLE, body, RouteClass::Sample);
    call.headers.insert(
        HeaderName::from_static("x-tinker-sampling-backpressure"),
        HeaderValue::from_static("1"),
    );
    call.operation = Some(operation.name);
    call.client = client.client;
    call.is_readable = Some(is_promise);
    call.cost = cost(request);
    call.progress = Some(Arc::clone(&operation.progress));
    call.deadline = operation.deadline;
    let session = &*client.session;
    let accepted = session.caller().call_with(entry, call).await;
    let accepted = accepted.map_err(|error| after_close(session, error))?;
    let promise = promise(&accepted.response)?;
    let result = match (&client.poller, begun) {
        (Some(poller), Some(begun)) => {
            Awaited::Announced(poller.watch(begun, &promise.request_id, &operation.progress)?)
        }
        _ => Awaited::Asked(promise.request_id),
    };
    Ok(Accepted {
        result,
        // Without the room that was left for more of them.
        sequence_ids: promise.sample_sequence_ids.map(Vec::into_boxed_slice),
        submitted_in: accepted.elapsed,
        _flight: accepted.flight,
    })
}

/// About as many bytes as the body of `request` has, and no fewer for most: numbers of five digits, and a bit of everything.
fn body_length(request: &SampleRequest) -> usize {
    400 + 6 * request.prompt.len().unwrap_or(0)
}

/// The result of a sample; `accepted` goes with it, so that the server is told that it was fetched.
async fn fetch(
    client: &Inner,
    accepted: Accepted,
    operation: &Operation,
    announcement: CompletionNotice,
) -> Result<SampleResponse> {
    let retrieval = Retrieval {
        operation: operation.clone(),
        client: client.client,
        request_id: accepted.result.request_id().to_owned(),
        kind: RequestKind::Sample,
        submitted_in: accepted.submitted_in,
        queue_log: Some(Arc::clone(&client.queue_log)),
    };
    retrieve_announced(retrieval, announcement).await
}

/// Adds the sequences' ids, and refuses a response that leaves out what was asked for.
fn checked(
    request: &SampleRequest,
    mut response: SampleResponse,
    ids: Option<Box<[String]>>,
) -> Result<SampleResponse> {
    for (sequence, id) in response.sequences.iter_mut().zip(ids.unwrap_or_default()) {
        sequence.sequence_id.get_or_insert(id);
    }
    let wanted = request.num_samples.unwrap_or(1) as usize;
    if response.sequences.len() != wanted {
        return Err(ignored(&format!(
            "{wanted} sequences were asked for and {} came",
            response.sequences.len()
        )));
    }
    if request.prompt_alt_tokens_k.is_some_and(|k| k > 0) && response.prompt_alt_tokens.is_none() {
        return Err(ignored("the server ignored prompt_alt_tokens_k"));
    }
    if let Some(last) = request.prompt_logprobs_last_n
        && let Some(logprobs) = &response.prompt_logprobs
        && logprobs
            .iter()
            .rev()
            .skip(last as usize)
            .any(Option::is_some)
    {
        return Err(ignored("the server ignored prompt_logprobs_last_n"));
    }
    Ok(response)
}

fn ignored(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, Sent::Answered, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_wire::{SampledSequence, StopReason};

    fn response(sequences: usize) -> SampleResponse {
        let mut response = SampleResponse::default();
        response.sequences = (0..sequences)
            .map(|_| SampledSequence::new(StopReason::Stop, vec![1]))
            .collect();
        response
    }

    /// The size of a future, in bytes.
    fn size<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_is_needed_before_and_after_the_wait_takes_up_nothing_during_it() {
        assert!(size(run) <= 512, "{} bytes", size(run));
    }

    #[test]
    fn ids_are_optional_and_come_from_the_promise() {
        let request = SampleRequest {
            num_samples: Some(2),
            ..SampleRequest::default()
        };
        let with = checked(&request, response(2), Some(["a".into(), "b".into()].into())).unwrap();
        assert_eq!(with.sequences[1].sequence_id.as_deref(), Some("b"));
        assert_eq!(
            checked(&request, response(2), None).unwrap().sequences[0].sequence_id,
            None
        );
    }

    #[test]
    fn an_option_that_the_server_ignored_is_an_error() {
        let one = SampleRequest::default();
        assert_eq!(
            checked(&one, response(2), None).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        let alt = SampleRequest {
            prompt_alt_tokens_k: Some(2),
            ..SampleRequest::default()
        };
        assert!(checked(&alt, response(1), None).is_err());
        let last = SampleRequest {
            prompt_logprobs_last_n: Some(1),
            ..SampleRequest::default()
        };
        let mut all = response(1);
        all.prompt_logprobs = Some(vec![None, Some(-1.0), Some(-1.0)]);
        assert!(checked(&last, all.clone(), None).is_err());
        all.prompt_logprobs = Some(vec![None, None, Some(-1.0)]);
        assert!(checked(&last, all, None).is_ok());
    }
}

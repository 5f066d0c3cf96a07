//! The run of one sample: its submission, the wait for its result, and its resubmission if the server loses the result.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    AdmissionRequest, Backoff, Call, CallAdmission, Cost, Error, ErrorKind, InFlightPermit, Phase,
    Readmission, RecoveredError, Result, RouteClass, Sent,
};
use tinkers_futures::{
    CompletionHandle, CompletionNotice, Operation, Retrieval, SubmissionOutcome,
    is_submission_or_result, read_submission_or_result, retrieve_completed, session_error,
};
use tinkers_wire::{RequestKind, SampleRequest, SampleResponse, routes, to_json_with_capacity};

use crate::sampler::Sampler;

/// The maximum number of times that a sample is submitted again after the server has lost its result. The server bills each submission.
const MAX_RESUBMISSIONS: u32 = 10;
/// The pauses before a lost sample is submitted again, with the values of the official SDK: from 0.5 s to 10 s.
const LOST_SAMPLES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Submits a sample and waits for its result. If the server loses the result, submits the sample again with a new sequence number
/// (`seq_id`).
///
/// A program may wait for thousands of samples at once. To keep this future small, the futures of its steps are boxed.
pub(crate) async fn run(
    sampler: Arc<Sampler>,
    mut request: Box<SampleRequest>,
    operation: Operation,
) -> Result<SampleResponse> {
    request.validate()?;
    let mut resubmissions = 0;
    loop {
        sampler.session.check_open()?;
        operation.progress.enter(Phase::Admission);
        let caller = sampler.session.caller();
        let admission = caller
            .admit(admission_request(&sampler, &request, &operation))
            .await
            .map_err(|error| admission_error(&sampler, &operation, error))?;
        // The session may have been closed during the wait.
        sampler.session.check_open()?;
        let submitted = Box::pin(submit(&sampler, &mut request, &operation, admission)).await?;
        let mut accepted = match submitted {
            Submitted::Accepted(accepted) => accepted,
            Submitted::Completed(response) => return checked(&request, *response, None),
        };
        let notice = match &accepted.result {
            PendingResult::Registered(handle) => handle.completed().await?,
            PendingResult::Polled(_) => CompletionNotice::default(),
        };
        let ids = accepted.sequence_ids.take();
        // A block, so that the response is not part of the future during the waits.
        let pause = {
            let result = Box::pin(retrieve(&sampler, accepted, &operation, notice)).await;
            match result {
                Err(error) if resubmissions < max_resubmissions(&error) => {
                    caller.recovered_errors.count(RecoveredError::LostSample);
                    catch_panic(
                        || tracing::debug!(recovered_error = RecoveredError::LostSample.name(), error = %error, "the server lost a sample; it is submitted again"),
                    );
                    LOST_SAMPLES.pause(resubmissions)
                }
                Err(error) => return Err(error),
                Ok(response) => return checked(&request, response, ids),
            }
        };
        resubmissions += 1;
        let pause = caller.time.sleep(pause);
        caller.closing.unless_closed(pause).await?;
    }
}

/// Returns how often a sample that failed with this error may be submitted again in all; 0 if the error is final.
fn max_resubmissions(error: &Error) -> u32 {
    match error.kind() {
        ErrorKind::ResultLost => MAX_RESUBMISSIONS,
        // Some servers report a discarded result with this error, and others a missing sampler. One resubmission shows which it is.
        ErrorKind::NotFound if error.request_id().is_some() => 1,
        _ => 0,
    }
}

/// The response of the server to a submission.
enum Submitted<'a> {
    /// The server has accepted the sample, and the result is to be retrieved.
    Accepted(Accepted<'a>),
    /// The response contained the result.
    Completed(Box<SampleResponse>),
}

/// A sample that the server has accepted and whose result is not retrieved yet.
struct Accepted<'a> {
    /// The sampler of a sample that is still to be cancelled if this value is dropped. `None` after the server has responded with the
    /// result, or with an error that ends the sample.
    unfinished: Option<&'a Sampler>,
    result: PendingResult,
    sequence_ids: Option<Box<[String]>>,
    submitted_in: Duration,
    /// The permit of the rate limiter that counts the sample as in flight. It is returned when the result is retrieved or abandoned.
    _permit: InFlightPermit,
}

impl Accepted<'_> {
    fn request_id(&self) -> &str {
        match &self.result {
            PendingResult::Registered(handle) => handle.request_id(),
            PendingResult::Polled(request_id) => request_id,
        }
    }
}

impl Drop for Accepted<'_> {
    /// Cancels the sample on the server, unless it has ended. The program has then dropped the future of the sample, or the client has
    /// given up the wait for the result.
    fn drop(&mut self) {
        if let Some(sampler) = self.unfinished {
            sampler.session.cancel_sample(self.request_id());
        }
    }
}

/// The way in which the client learns that an accepted sample has ended.
enum PendingResult {
    /// The sampling client polls for all of its samples with one request (shared poll), which reports that this sample has ended.
    Registered(CompletionHandle),
    /// The client polls for this sample alone, with this request id.
    Polled(String),
}

/// Builds the request for admission by the rate limiter. Called before the body of the sample is encoded.
fn admission_request(
    sampler: &Sampler,
    request: &SampleRequest,
    operation: &Operation,
) -> AdmissionRequest {
    AdmissionRequest {
        class: RouteClass::Sample,
        client: sampler.client,
        cost: cost(request),
        deadline: operation.deadline,
        in_flight_permit: None,
        readmission: Readmission::New,
        is_nested: false,
    }
}

fn cost(request: &SampleRequest) -> Cost {
    Cost {
        bytes: request.prompt.sampling_bytes(),
    }
}

/// Builds the error of a sample that the rate limiter did not admit. Reports a lost session as `SessionLost`.
fn admission_error(sampler: &Sampler, operation: &Operation, error: Error) -> Error {
    session_error(&*sampler.session, error.with_operation(operation.name))
}

async fn submit<'a>(
    sampler: &'a Sampler,
    request: &mut SampleRequest,
    operation: &Operation,
    admission: CallAdmission,
) -> Result<Submitted<'a>> {
    let pending = sampler.poller.as_ref().map(|poller| poller.begin());
    let pending = pending.transpose()?;
    request.seq_id = Some(sampler.next_seq());
    request.sampling_session_id = Some(sampler.id.clone());
    let body = to_json_with_capacity(request, estimated_body_len(request));
    // The id is not kept during the wait, since all samples of a client have the same id.
    request.sampling_session_id = None;
    let mut call = Call::post(routes::ASAMPLE, body, RouteClass::Sample);
    call.headers.insert(
        HeaderName::from_static("x-tinker-sampling-backpressure"),
        HeaderValue::from_static("1"),
    );
    call.operation = Some(operation.name);
    call.client = sampler.client;
    call.is_readable = Some(is_submission_or_result::<SampleResponse>);
    call.cost = cost(request);
    call.progress = Some(Arc::clone(&operation.progress));
    call.deadline = operation.deadline;
    let session = &*sampler.session;
    let accepted = session.caller().call_admitted(admission, call).await;
    let accepted = accepted.map_err(|error| session_error(session, error))?;
    let response = match read_submission_or_result(&accepted.response)? {
        SubmissionOutcome::Accepted(response) => response,
        SubmissionOutcome::Completed(result) => return Ok(Submitted::Completed(Box::new(result))),
    };
    let result = match (&sampler.poller, pending) {
        (Some(poller), Some(pending)) => PendingResult::Registered(poller.register(
            pending,
            &response.request_id,
            &operation.progress,
        )?),
        _ => PendingResult::Polled(response.request_id),
    };
    Ok(Submitted::Accepted(Accepted {
        unfinished: Some(sampler),
        result,
        // Boxed to drop the spare capacity.
        sequence_ids: response.sample_sequence_ids.map(Vec::into_boxed_slice),
        submitted_in: accepted.elapsed,
        _permit: accepted.in_flight_permit,
    }))
}

/// Estimates the length of the JSON body in bytes, assuming that each token id has five digits. Most bodies are shorter.
fn estimated_body_len(request: &SampleRequest) -> usize {
    400 + 6 * request.prompt.len().unwrap_or(0)
}

/// Retrieves the result of an accepted sample. Then drops `accepted`: this acknowledges the result, so that the server may discard it, or
/// cancels the sample if it has not ended.
async fn retrieve(
    sampler: &Sampler,
    mut accepted: Accepted<'_>,
    operation: &Operation,
    notice: CompletionNotice,
) -> Result<SampleResponse> {
    let retrieval = Retrieval {
        operation: operation.clone(),
        client: sampler.client,
        request_id: accepted.request_id().to_owned(),
        kind: RequestKind::Sample,
        submitted_in: accepted.submitted_in,
        queue_log: Some(Arc::clone(&sampler.queue_log)),
    };
    let result = retrieve_completed(retrieval, notice).await;
    if result
        .as_ref()
        .map_or_else(|error| error.sent() == Sent::Answered, |_| true)
    {
        accepted.unfinished = None;
    }
    result
}

/// Adds sequence ids, taken from the response to the submission, to the sequences of the result. Fails if the result lacks data that the
/// request asked for.
fn checked(
    request: &SampleRequest,
    mut response: SampleResponse,
    ids: Option<Box<[String]>>,
) -> Result<SampleResponse> {
    for (sequence, id) in response.sequences.iter_mut().zip(ids.unwrap_or_default()) {
        sequence.sequence_id.get_or_insert(id);
    }
    let requested = request.num_samples.unwrap_or(1) as usize;
    if response.sequences.len() != requested {
        return Err(unsupported(&format!(
            "requested {requested} sequences and got {}",
            response.sequences.len()
        )));
    }
    if request.prompt_alt_tokens_k.is_some_and(|k| k > 0) && response.prompt_alt_tokens.is_none() {
        return Err(unsupported("the server ignored prompt_alt_tokens_k"));
    }
    if let Some(last) = request.prompt_logprobs_last_n
        && let Some(logprobs) = &response.prompt_logprobs
        && logprobs
            .iter()
            .rev()
            .skip(last as usize)
            .any(Option::is_some)
    {
        return Err(unsupported("the server ignored prompt_logprobs_last_n"));
    }
    Ok(response)
}

fn unsupported(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, Sent::Answered, message)
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

    /// Returns the size in bytes of the future that a function returns, without calling the function.
    fn size<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn sample_future_is_at_most_520_bytes() {
        assert!(size(run) <= 520, "{} bytes", size(run));
    }

    #[test]
    fn sequence_ids_are_taken_from_the_submission_response() {
        let request = SampleRequest {
            num_samples: Some(2),
            ..SampleRequest::default()
        };
        let checked_response =
            checked(&request, response(2), Some(["a".into(), "b".into()].into())).unwrap();
        assert_eq!(
            checked_response.sequences[1].sequence_id.as_deref(),
            Some("b")
        );
        assert_eq!(
            checked(&request, response(2), None).unwrap().sequences[0].sequence_id,
            None
        );
    }

    #[test]
    fn response_that_ignores_a_requested_option_is_an_error() {
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

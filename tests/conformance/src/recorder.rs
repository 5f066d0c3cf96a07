//! A transport layer that records the last requests and responses. It can also drop a response or
//! send a request twice.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tinkers::Sent;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, Transport, TransportError, TransportErrorKind,
};

/// The maximum number of exchanges that the recorder keeps. It discards older ones.
const MAX_EXCHANGES: usize = 6;
/// The maximum number of bytes of a body that the recorder keeps. The rest of the body is cut off.
const MAX_SHOWN: usize = 400;
/// The ends of the paths whose responses contain a token or a signed address. The recorder keeps
/// only the sizes of these responses, since reports are shared.
const SECRET_RESPONSES: [&str; 2] = ["/auth/token", "/trace_export"];

/// A recorded request and its response.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    /// The method and path of the request.
    pub request: String,
    /// The start of the request body, or its size if it is not text.
    pub sent: String,
    /// The HTTP status of the response, or the transport error if there was no response.
    pub answer: String,
    /// The start of the response body, or its size if it is not text.
    pub received: String,
}

/// A fault that the recorder injects into the next request to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Intervention {
    /// Sends the request to the server and drops the response, so that the client sees a failure.
    LoseReply(String),
    /// Sends the request to the server twice and keeps both responses.
    SendTwice(String),
}

/// A recorder of the requests to a server and their responses. Clones share their state.
#[derive(Clone, Default)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: VecDeque<Exchange>,
    interventions: Vec<Intervention>,
    duplicate_responses: Vec<(HttpResponse, HttpResponse)>,
    lost: usize,
}

impl Recorder {
    /// Returns a transport that sends requests through `inner` and records them, with their
    /// responses, in this recorder.
    pub fn wrap(&self, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Recording {
            recorder: self.clone(),
            inner,
        })
    }

    /// Removes and returns the recorded exchanges, oldest first. Also cancels the requested faults
    /// that have not been injected yet.
    pub fn take(&self) -> Vec<Exchange> {
        let mut state = self.lock();
        state.interventions.clear();
        state.last.drain(..).collect()
    }

    /// Makes the recorder drop the response to the next request to `path`. The server receives the
    /// request, but the client sees a failure.
    pub fn lose_reply(&self, path: &str) {
        self.lock()
            .interventions
            .push(Intervention::LoseReply(path.to_owned()));
    }

    /// Makes the recorder send the next request to `path` twice. The client receives only the first
    /// response.
    pub fn send_twice(&self, path: &str) {
        self.lock()
            .interventions
            .push(Intervention::SendTwice(path.to_owned()));
    }

    /// Removes and returns the two responses to the last request that was sent twice.
    pub fn duplicate_responses(&self) -> Option<(HttpResponse, HttpResponse)> {
        self.lock().duplicate_responses.pop()
    }

    /// Returns the number of responses that the recorder has dropped.
    pub fn lost_replies(&self) -> usize {
        self.lock().lost
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intervention(&self, path: &str) -> Option<Intervention> {
        let mut state = self.lock();
        let at = state.interventions.iter().position(|intervention| {
            let (Intervention::LoseReply(of) | Intervention::SendTwice(of)) = intervention;
            of == path
        })?;
        Some(state.interventions.remove(at))
    }

    fn keep(&self, request: &HttpRequest, outcome: &Result<HttpResponse, TransportError>) {
        let (answer, received) = match outcome {
            Ok(response) => (
                response.status.to_string(),
                format_response(&request.path, &response.body),
            ),
            Err(error) => (error.to_string(), String::new()),
        };
        let mut state = self.lock();
        if state.last.len() == MAX_EXCHANGES {
            state.last.pop_front();
        }
        state.last.push_back(Exchange {
            request: format!("{} {}", request.method, request.path),
            sent: format_body(&request.body),
            answer,
            received,
        });
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// Returns the start of the response to a request as text, or only its size if it may contain a
/// secret.
fn format_response(path: &str, body: &Bytes) -> String {
    let path = path.split('?').next().unwrap_or_default();
    if SECRET_RESPONSES.iter().any(|end| path.ends_with(end)) {
        return format!("({} bytes)", body.len());
    }
    format_body(body)
}

/// Returns the start of a body as text, or its size if the body is not text.
fn format_body(body: &Bytes) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => {
            let mut end = text.len().min(MAX_SHOWN);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let rest = if end < text.len() { " .." } else { "" };
            format!("{}{rest}", &text[..end])
        }
        _ => format!("({} bytes)", body.len()),
    }
}

#[derive(Debug)]
struct Recording {
    recorder: Recorder,
    inner: Arc<dyn Transport>,
}

impl Transport for Recording {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let intervention = self.recorder.intervention(&request.path);
            let outcome = self.inner.send(request.clone()).await;
            self.recorder.keep(&request, &outcome);
            match (intervention, outcome) {
                (Some(Intervention::LoseReply(_)), Ok(_)) => {
                    self.recorder.lock().lost += 1;
                    let message = "the response was dropped by the test";
                    Err(TransportError::new(
                        TransportErrorKind::Broken,
                        Sent::MaybeSent,
                        message,
                    ))
                }
                (Some(Intervention::SendTwice(_)), Ok(first)) => {
                    let again = self.inner.send(request.clone()).await;
                    self.recorder.keep(&request, &again);
                    if let Ok(second) = again {
                        self.recorder
                            .lock()
                            .duplicate_responses
                            .push((first.clone(), second));
                    }
                    Ok(first)
                }
                (_, outcome) => outcome,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_with_tokens_and_signed_addresses_are_not_kept() {
        let body = Bytes::from_static(b"{\"url\": \"s3cret\"}");
        for path in ["/api/v1/auth/token", "/api/v1/sessions/s/trace_export?x=1"] {
            assert_eq!(format_response(path, &body), "(17 bytes)");
        }
        assert!(format_response("/api/v1/sessions/s", &body).contains("s3cret"));
    }
}

//! A layer over the transport that keeps the last exchanges, loses replies and repeats requests when told to.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tinkers::Sent;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, Transport, TransportError, TransportErrorKind,
};

/// How many exchanges are kept.
const KEPT: usize = 6;
/// How many bytes of a body are shown.
const SHOWN: usize = 400;

/// One request and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    /// Method and path.
    pub request: String,
    /// The beginning of the request's body, or its size where it is no text.
    pub sent: String,
    /// The status, or what kept an answer from coming.
    pub answer: String,
    /// The beginning of the answer's body, or its size.
    pub received: String,
}

/// What happens to the next request of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trick {
    /// It is answered, and the answer is lost.
    LoseReply(String),
    /// It is sent twice, and both answers are kept.
    Twice(String),
}

/// What one or more clients exchanged with a server. Clones are the same recorder.
#[derive(Clone, Default)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: VecDeque<Exchange>,
    tricks: Vec<Trick>,
    twins: Vec<(HttpResponse, HttpResponse)>,
    lost: usize,
}

impl Recorder {
    /// `below` with this recorder over it.
    pub fn over(&self, below: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Recording {
            recorder: self.clone(),
            below,
        })
    }

    /// The last exchanges, the oldest first, which are then forgotten.
    pub fn take(&self) -> Vec<Exchange> {
        let mut state = self.lock();
        state.tricks.clear();
        state.last.drain(..).collect()
    }

    /// Loses the reply to the next request of `path`.
    pub fn lose_reply(&self, path: &str) {
        self.lock().tricks.push(Trick::LoseReply(path.to_owned()));
    }

    /// Sends the next request of `path` twice. The client gets the first answer.
    pub fn send_twice(&self, path: &str) {
        self.lock().tricks.push(Trick::Twice(path.to_owned()));
    }

    /// Both answers to the last request that was sent twice.
    pub fn twins(&self) -> Option<(HttpResponse, HttpResponse)> {
        self.lock().twins.pop()
    }

    /// How many replies were lost so far.
    pub fn lost(&self) -> usize {
        self.lock().lost
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trick(&self, path: &str) -> Option<Trick> {
        let mut state = self.lock();
        let at = state.tricks.iter().position(|trick| {
            let (Trick::LoseReply(of) | Trick::Twice(of)) = trick;
            of == path
        })?;
        Some(state.tricks.remove(at))
    }

    fn keep(&self, request: &HttpRequest, outcome: &Result<HttpResponse, TransportError>) {
        let (answer, received) = match outcome {
            Ok(response) => (response.status.to_string(), shown(&response.body)),
            Err(error) => (error.to_string(), String::new()),
        };
        let mut state = self.lock();
        if state.last.len() == KEPT {
            state.last.pop_front();
        }
        state.last.push_back(Exchange {
            request: format!("{} {}", request.method, request.path),
            sent: shown(&request.body),
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

/// The beginning of a text, or the size of anything else.
fn shown(body: &Bytes) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => {
            let mut end = text.len().min(SHOWN);
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
    below: Arc<dyn Transport>,
}

impl Transport for Recording {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let trick = self.recorder.trick(&request.path);
            let outcome = self.below.send(request.clone()).await;
            self.recorder.keep(&request, &outcome);
            match (trick, outcome) {
                (Some(Trick::LoseReply(_)), Ok(_)) => {
                    self.recorder.lock().lost += 1;
                    let message = "the reply was lost on purpose";
                    Err(TransportError::new(
                        TransportErrorKind::Broken,
                        Sent::MaybeSent,
                        message,
                    ))
                }
                (Some(Trick::Twice(_)), Ok(first)) => {
                    let again = self.below.send(request.clone()).await;
                    self.recorder.keep(&request, &again);
                    if let Ok(second) = again {
                        self.recorder.lock().twins.push((first.clone(), second));
                    }
                    Ok(first)
                }
                (_, outcome) => outcome,
            }
        })
    }
}

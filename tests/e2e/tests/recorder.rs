//! A transport that records its requests.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::Value;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};

/// A recorded request.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) path: String,
    pub(crate) class: RouteClass,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
    /// The name of the thread that sent the request.
    pub(crate) thread: Option<String>,
}

/// The requests that a [`RecordingTransport`] has sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Recorded>>>);

impl Recorder {
    /// Returns a transport that records its requests and sends them through `inner`.
    pub(crate) fn wrap(&self, inner: Arc<dyn Transport>) -> RecordingTransport {
        let recorder = self.clone();
        RecordingTransport { inner, recorder }
    }

    /// Returns all recorded requests in the order in which they were sent.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.0.lock().unwrap().clone()
    }

    /// Returns the last recorded request of a path.
    pub(crate) fn last(&self, path: &str) -> Recorded {
        let requests = self.0.lock().unwrap();
        let found = requests.iter().rfind(|request| request.path == path);
        found
            .unwrap_or_else(|| panic!("{path} was not sent"))
            .clone()
    }

    /// Returns the JSON body of the last recorded request of a path.
    pub(crate) fn last_json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.last(path).body).expect("JSON")
    }
}

/// A transport that records its requests in a [`Recorder`].
#[derive(Debug)]
pub(crate) struct RecordingTransport {
    inner: Arc<dyn Transport>,
    recorder: Recorder,
}

impl Transport for RecordingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let content_type = request.headers.get("content-type");
        self.recorder.0.lock().unwrap().push(Recorded {
            path: request.path.clone(),
            class: request.class,
            content_type: content_type
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            body: request.body.clone(),
            thread: std::thread::current().name().map(str::to_owned),
        });
        self.inner.send(request)
    }
}

//! Records the requests that the client sends for one sample. The benchmark loop repeats these
//! requests.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method};
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::{HttpVersions, ServiceClient};

use crate::bare::Load;

/// A recorded request of the client library, to be sent many times. One part of its body, such as
/// the sequence number, is replaced each time.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    before: Bytes,
    after: Bytes,
}

impl Template {
    /// Returns the recorded body, with its variable part (such as the sequence number) replaced by
    /// `part`.
    pub(crate) fn body(&self, part: &str) -> Bytes {
        let mut body = Vec::with_capacity(self.before.len() + part.len() + self.after.len());
        body.extend_from_slice(&self.before);
        body.extend_from_slice(part.as_bytes());
        body.extend_from_slice(&self.after);
        body.into()
    }

    /// Creates a template from `request`. The text `part`, which follows the text `key` in the body
    /// of the request, becomes the part that [`Self::body`] replaces.
    fn new(request: HttpRequest, load: &Load, key: &str, part: &str) -> Result<Self> {
        let text = std::str::from_utf8(&request.body).context("the request body is not UTF-8")?;
        let whole = format!("{key}{part}");
        let at = text
            .find(&whole)
            .with_context(|| format!("no {whole} in the request body {text}"))?;
        let (start, end) = (at + key.len(), at + whole.len());
        let mut headers = request.headers;
        // The recorded request lacks the headers that the transport adds.
        let agent = concat!("tinkers/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        headers.insert("x-api-key", HeaderValue::from_str(&load.api_key)?);
        headers
            .entry(http::header::ACCEPT)
            .or_insert(HeaderValue::from_static("application/json"));
        Ok(Self {
            method: request.method,
            path: request.path,
            before: request.body.slice(..start),
            after: request.body.slice(end..),
            headers,
        })
    }
}

/// The recorded requests. The server accepts them only as long as the session in which they were
/// recorded is open.
pub(crate) struct Recorded {
    /// The request to `asample`, which submits a sample. Its `seq_id` is replaced for each sample.
    pub(crate) submit: Template,
    /// The request to `retrieve_future`, which polls for the result of a sample. Its `request_id`
    /// is replaced for each sample.
    pub(crate) poll: Template,
    /// The first `seq_id` that the recorded session has not used yet.
    pub(crate) next_seq: u64,
    pub(crate) service: ServiceClient,
}

/// Runs one sample with the client library and records its submission and its poll.
pub(crate) async fn record(load: &Load) -> Result<Recorded> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&seen);
    let mut builder = ServiceClient::builder()
        .without_environment()
        .base_url(&load.base_url)
        .api_key(&load.api_key)
        .layer_transport(move |inner| {
            Arc::new(Recorder {
                inner,
                seen: recorder,
            })
        });
    if load.http2 {
        builder = builder.http_versions(HttpVersions::Http2PriorKnowledge);
    }
    let service = builder.connect().await?;
    let models = service.capabilities().await?.supported_models;
    let model = models.into_iter().find_map(|model| model.model_name);
    let sampler = service
        .create_sampling_client(model.context("the server lists no model")?)
        .await?;
    let prompt: Vec<u32> = (0..load.prompt_len).map(|i| i % 100 + 1).collect();
    sampler
        .sample(prompt)
        .num_samples(1)
        .max_tokens(load.max_tokens)
        .await?;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let mut take = |suffix: &str| {
        let at = seen
            .iter()
            .position(|(request, _)| request.path.ends_with(suffix));
        let at = at.with_context(|| format!("the client sent no request to {suffix}"))?;
        anyhow::Ok(seen.swap_remove(at))
    };
    let (submit, submission) = take("/asample")?;
    let (poll, _) = take("/retrieve_future")?;
    let id = request_id(&submission)?;
    Ok(Recorded {
        submit: Template::new(submit, load, "\"seq_id\":", "0")?,
        poll: Template::new(poll, load, "\"request_id\":\"", &id)?,
        next_seq: 1,
        service,
    })
}

/// Extracts the request id, with which the result is polled, from the response to a sample
/// submission.
pub(crate) fn request_id(submission: &[u8]) -> Result<String> {
    let submission: serde_json::Value = serde_json::from_slice(submission)?;
    let id = submission["request_id"].as_str();
    Ok(id
        .context("the response to a submission has no request_id")?
        .to_owned())
}

#[derive(Debug)]
struct Recorder {
    inner: Arc<dyn Transport>,
    seen: Arc<Mutex<Vec<(HttpRequest, Bytes)>>>,
}

impl Transport for Recorder {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let response = self.inner.send(request.clone()).await?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((request, response.body.clone()));
            Ok(response)
        })
    }
}

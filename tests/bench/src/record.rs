//! One sample of the real client, written down: the bytes that the bare loop repeats.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method};
use tinkers::ServiceClient;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};

use crate::bare::Load;

/// A request as it is sent, but for a part that differs each time.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    before: Bytes,
    after: Bytes,
}

impl Template {
    /// The body with `part` in the place that differs.
    pub(crate) fn body(&self, part: &str) -> Bytes {
        let mut body = Vec::with_capacity(self.before.len() + part.len() + self.after.len());
        body.extend_from_slice(&self.before);
        body.extend_from_slice(part.as_bytes());
        body.extend_from_slice(&self.after);
        body.into()
    }

    /// `request` with the place of `part`, which stands in its body behind `key`.
    fn of(request: HttpRequest, load: &Load, key: &str, part: &str) -> Result<Self> {
        let text = std::str::from_utf8(&request.body).context("the body is no text")?;
        let whole = format!("{key}{part}");
        let at = text
            .find(&whole)
            .with_context(|| format!("no {whole} in the body {text}"))?;
        let (start, end) = (at + key.len(), at + whole.len());
        let mut headers = request.headers;
        // What the transport adds, as it adds it.
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

/// What a sample sends, and the session that it belongs to, which must live as long.
pub(crate) struct Recorded {
    /// `asample`, its `seq_id` open.
    pub(crate) submit: Template,
    /// `retrieve_future`, its `request_id` open.
    pub(crate) poll: Template,
    /// The first number that was not used.
    pub(crate) next_seq: u64,
    pub(crate) service: ServiceClient,
}

/// Lets the client make one sample of the kind that `load` is of.
pub(crate) async fn record(load: &Load) -> Result<Recorded> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&seen);
    let mut builder = ServiceClient::builder()
        .without_environment()
        .base_url(&load.base_url)
        .api_key(&load.api_key)
        .layer_transport(move |below| {
            Arc::new(Recorder {
                below,
                seen: recorder,
            })
        });
    if load.http2 {
        builder = builder.http2_prior_knowledge();
    }
    let service = builder.connect().await?;
    let models = service.capabilities().await?.supported_models;
    let model = models.into_iter().find_map(|model| model.model_name);
    let sampler = service
        .sampling(model.context("the server names no model")?)
        .create()
        .await?;
    let prompt: Vec<u32> = (0..load.prompt_len).map(|i| i % 100 + 1).collect();
    sampler
        .sample(prompt)
        .num_samples(1)
        .max_tokens(load.max_tokens)
        .await?;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let mut take = |end: &str| {
        let at = seen
            .iter()
            .position(|(request, _)| request.path.ends_with(end));
        let at = at.with_context(|| format!("the client sent no {end}"))?;
        anyhow::Ok(seen.swap_remove(at))
    };
    let (submit, promise) = take("/asample")?;
    let (poll, _) = take("/retrieve_future")?;
    let id = request_id(&promise)?;
    Ok(Recorded {
        submit: Template::of(submit, load, "\"seq_id\":", "0")?,
        poll: Template::of(poll, load, "\"request_id\":\"", &id)?,
        next_seq: 1,
        service,
    })
}

/// The id that a submission was answered with.
pub(crate) fn request_id(promise: &[u8]) -> Result<String> {
    let promise: serde_json::Value = serde_json::from_slice(promise)?;
    let id = promise["request_id"].as_str();
    Ok(id.context("a promise without a request_id")?.to_owned())
}

#[derive(Debug)]
struct Recorder {
    below: Arc<dyn Transport>,
    seen: Arc<Mutex<Vec<(HttpRequest, Bytes)>>>,
}

impl Transport for Recorder {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let answer = self.below.send(request.clone()).await?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((request, answer.body.clone()));
            Ok(answer)
        })
    }
}

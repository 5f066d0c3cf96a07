//! The list of fuzz targets.

use std::io;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tinkers_core::{BaseUrl, HttpResponse, hint};
use tinkers_local::Faults;
use tinkers_transport::decode_body;
use tinkers_wire::{
    AdamParams, ApiDocument, Capabilities, CheckpointList, ClientConfig, Completions, CreateModel,
    CreateSamplingSession, DynamicConfig, ForwardBackwardOutput, ModelInfo, OperationResult,
    OptimStepResult, PassRequest, PollResponse, RetrieveFuture, RetrieveFutures, SampleRequest,
    SampleResponse, SamplingParams, SaveWeights, SavedSamplerWeights, SavedWeights, SessionCreated,
    Stop, SubmissionResponse, TinkerPath, TrainingRunList, WeightsInfo, error_text, retry_after_ms,
    to_json,
};

use crate::mutate::Mutator;
use crate::{connection, corpus, generate, request_seeds, seeds, server, stops};

/// A fuzz target. It runs one parser of untrusted input on generated inputs.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the target on the command line and of its directory in the corpus.
    pub name: &'static str,
    /// Runs the parser on an input. Panics if the parser violates a checked property, for example
    /// if a parsed value changes when it is written and parsed again.
    pub run: fn(&[u8]),
    /// Returns the seed inputs of the target that are created in code instead of read from corpus
    /// files.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Generates an input from the given seed inputs. Most targets mutate one of them.
    pub generate: fn(&Mutator, &[Vec<u8>]) -> Vec<u8>,
}

/// All fuzz targets.
pub const TARGETS: [Target; 15] = [
    Target {
        name: "json-responses",
        run: json_answers,
        seeds: seeds::json,
        generate: Mutator::next,
    },
    Target {
        name: "json-requests",
        run: json_requests,
        seeds: seeds::json,
        generate: Mutator::next,
    },
    Target {
        name: "poll-responses",
        run: poll_answers,
        seeds: seeds::polls,
        generate: Mutator::next,
    },
    Target {
        name: "protobuf-results",
        run: protobuf_results,
        seeds: seeds::protobuf,
        generate: Mutator::next,
    },
    Target {
        name: "protobuf-pass",
        run: protobuf_pass,
        seeds: seeds::protobuf,
        generate: Mutator::next,
    },
    Target {
        name: "compressed-bodies",
        run: compressed_bodies,
        seeds: seeds::compressed,
        generate: Mutator::next,
    },
    Target {
        name: "hints",
        run: hints,
        seeds: seeds::hints,
        generate: Mutator::next,
    },
    Target {
        name: "sampling-params",
        run: sampling_params,
        seeds: seeds::json,
        generate: Mutator::next,
    },
    Target {
        name: "checkpoint-paths",
        run: checkpoint_paths,
        seeds: seeds::texts,
        generate: Mutator::next,
    },
    Target {
        name: "base-urls",
        run: base_urls,
        seeds: seeds::texts,
        generate: Mutator::next,
    },
    Target {
        name: "server",
        run: server::run_requests,
        seeds: request_seeds::requests,
        generate: generate::requests,
    },
    Target {
        name: "server-connection",
        run: connection::run_connection,
        seeds: request_seeds::connections,
        generate: generate::requests,
    },
    Target {
        name: "openapi",
        run: openapi,
        seeds: seeds::documents,
        generate: Mutator::next,
    },
    Target {
        name: "stops",
        run: stops::run_sample,
        seeds: seeds::stops,
        generate: Mutator::next,
    },
    Target {
        name: "fault-scripts",
        run: fault_scripts,
        seeds: seeds::scripts,
        generate: Mutator::next,
    },
];

impl Target {
    /// Returns the target with the given name, or `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Returns all seed inputs of the target: first the corpus files, then the inputs that are
    /// created in code.
    ///
    /// # Errors
    /// Returns an error if the corpus files cannot be read.
    pub fn inputs(&self) -> io::Result<Vec<Vec<u8>>> {
        let files = corpus::files(self.name)?;
        let mut inputs: Vec<_> = files.into_iter().map(|file| file.input).collect();
        inputs.extend((self.seeds)());
        Ok(inputs)
    }
}

/// Parses a value from bytes, and asserts that writing and parsing the value again does not change
/// it.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = to_json(&read);
    match serde_json::from_slice::<T>(&written) {
        Ok(again) => assert_eq!(again, read, "{}", String::from_utf8_lossy(&written)),
        Err(error) => panic!(
            "cannot parse what was written: {error}: {}",
            String::from_utf8_lossy(&written)
        ),
    }
}

fn json_answers(bytes: &[u8]) {
    let _ = error_text(bytes);
    let _ = retry_after_ms(bytes);
    let _ = SubmissionResponse::read(bytes);
    let _ = Completions::read(bytes);
    let _ = serde_json::from_slice::<Capabilities>(bytes);
    let _ = ModelInfo::read(bytes);
    let _ = ForwardBackwardOutput::from_json(bytes);
    let _ = OptimStepResult::from_json(bytes);
    let _ = SampleResponse::from_json(bytes);
    let _ = SavedWeights::from_json(bytes);
    let _ = SavedSamplerWeights::from_json(bytes);
    let _ = serde_json::from_slice::<SessionCreated>(bytes);
    let _ = CheckpointList::read(bytes);
    let _ = serde_json::from_slice::<TrainingRunList>(bytes);
    let _ = serde_json::from_slice::<WeightsInfo>(bytes);
    round_trip::<SubmissionResponse>(bytes);
    let _ = serde_json::from_slice::<ClientConfig>(bytes);
    let _ = serde_json::from_slice::<DynamicConfig>(bytes);
}

fn json_requests(bytes: &[u8]) {
    if let Ok(pass) = PassRequest::from_json(bytes) {
        let written = pass.to_json();
        let again = PassRequest::from_json(&written).expect("what was written can be parsed");
        assert_eq!(again.to_json(), written, "{pass:?}");
    }
    let _ = serde_json::from_slice::<SampleRequest>(bytes).map(|request| request.validate());
    let _ = serde_json::from_slice::<CreateModel>(bytes);
    let _ = serde_json::from_slice::<SaveWeights>(bytes);
    let _ = serde_json::from_slice::<CreateSamplingSession>(bytes);
    let _ = serde_json::from_slice::<RetrieveFutures>(bytes);
    let _ = serde_json::from_slice::<AdamParams>(bytes).map(|params| params.validate());
    round_trip::<AdamParams>(bytes);
    round_trip::<RetrieveFuture>(bytes);
}

fn poll_answers(bytes: &[u8]) {
    for kind in [
        None,
        Some("application/json"),
        Some("application/x-protobuf"),
    ] {
        let _ = PollResponse::read(kind, Bytes::copy_from_slice(bytes));
    }
}

fn protobuf_results(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(output) = ForwardBackwardOutput::from_protobuf(bytes.clone()) {
        let written = output.to_protobuf();
        // A result that has only default values is encoded as an empty body, which the parser
        // refuses.
        if !written.is_empty() {
            let again = ForwardBackwardOutput::from_protobuf(written.clone());
            let again = again.expect("what was written can be parsed");
            assert_eq!(again.to_protobuf(), written, "{output:?}");
        }
    }
    if let Ok(samples) = SampleResponse::from_protobuf(bytes) {
        let written = samples.to_protobuf();
        if !written.is_empty() {
            let again = SampleResponse::from_protobuf(written.clone());
            let again = again.expect("what was written can be parsed");
            assert_eq!(again.to_protobuf(), written, "{samples:?}");
        }
    }
}

fn protobuf_pass(bytes: &[u8]) {
    let Ok(pass) = PassRequest::from_protobuf(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    for datum in &pass.data {
        let _ = datum.validate();
        let _ = datum.estimated_bytes();
    }
    // The encoder refuses some requests that the parser accepts.
    if let Ok(written) = pass.to_protobuf() {
        let again = PassRequest::from_protobuf(written.clone());
        let again = again.expect("what was written can be parsed");
        assert_eq!(again.to_protobuf().ok(), Some(written), "{pass:?}");
    }
}

/// The maximum size of a response body after decompression, in bytes.
const MAX_RESPONSE: usize = 1 << 20;

fn compressed_bodies(bytes: &[u8]) {
    for encoding in ["gzip", "zstd", "identity"] {
        if let Ok(body) = decode_body(encoding, bytes, MAX_RESPONSE) {
            assert!(body.len() <= MAX_RESPONSE, "{} bytes", body.len());
        }
    }
}

fn hints(bytes: &[u8]) {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    let value = HeaderValue::from_bytes(bytes).ok();
    for name in ["retry-after-ms", "retry-after", "date"] {
        let mut headers = HeaderMap::new();
        if let Some(value) = &value {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
        let answer = HttpResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers,
            body: Bytes::copy_from_slice(bytes),
        };
        if let Some(hint) = hint::retry_after(&answer, wall) {
            // Adding the parsed delay to a late time must not overflow.
            let late = tinkers_core::Timestamp::from_origin(Duration::MAX / 2);
            assert!(late.after(hint) >= late, "{hint:?}");
        }
    }
}

fn sampling_params(bytes: &[u8]) {
    if let Ok(params) = serde_json::from_slice::<SamplingParams>(bytes) {
        let _ = params.validate();
    }
    let _ = serde_json::from_slice::<Stop>(bytes);
}

fn checkpoint_paths(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(path) = TinkerPath::from_str(&text) {
        let again = TinkerPath::from_str(path.as_ref()).expect("a displayed path can be parsed");
        assert_eq!(again, path);
        if let Some(run) = path.run_id() {
            for part in [run, path.name()] {
                assert!(!matches!(part, "" | "." | ".."), "{path}");
            }
        }
    }
}

fn base_urls(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = BaseUrl::parse(&text) {
        let again = BaseUrl::parse(&url.to_string()).expect("a normalised URL can be parsed");
        assert_eq!(again, url, "normalisation is idempotent");
    }
}

fn fault_scripts(bytes: &[u8]) {
    let _ = Faults::from_script(&String::from_utf8_lossy(bytes));
}

fn openapi(bytes: &[u8]) {
    let _ = ApiDocument::read(bytes);
}

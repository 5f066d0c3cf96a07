//! The table of quirks: their names, descriptions, and the ones that are settings of the dialect.

use std::str::FromStr;

use crate::dialect::{Dialect, OpenApi, OtherBodies, PassBodies, ResultForm};

macro_rules! quirks {
    ($($variant:ident $name:literal $summary:literal;)*) => {
        /// One difference from the official service that was seen in a server of another make.
        ///
        /// ```
        /// # use tinkers_local::{LocalConfig, Quirk};
        /// let config = LocalConfig::default().with_quirk("no-config".parse::<Quirk>()?);
        /// assert!(config.quirks.contains(&Quirk::NoConfig));
        /// # Ok::<(), tinkers_local::UnknownQuirk>(())
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Quirk {
            $(#[doc = $summary] $variant,)*
        }

        impl Quirk {
            /// All quirks, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name by which `tinkers serve --quirk` selects this quirk.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns the description of this quirk: one sentence.
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$variant => $summary,)*
                }
            }
        }
    };
}

quirks! {
    Http10 "http-1.0" "Responses have the version HTTP/1.0, and the connection ends after each response.";
    IntIds "int-ids" "Session ids and request ids are JSON integers.";
    LongPromise "long-promise" "Responses to submissions contain additional fields: `future_id`, `operation`, `status` and, except for a new model, a null `model_id`.";
    MissingAsPage "missing-page" "Routes that the server does not have return 200 with an HTML page.";
    Missing400 "missing-400" "Routes that the server does not have return 400.";
    Missing403 "missing-403" "Routes that the server does not have return 403.";
    Missing405 "missing-405" "Routes that the server does not have return 405.";
    Missing500 "missing-500" "Routes that the server does not have return 500.";
    Missing501 "missing-501" "Routes that the server does not have return 501.";
    DocumentElsewhere "document-elsewhere" "The OpenAPI document is at /api/v1/openapi.json.";
    DocumentRelative "document-relative" "The OpenAPI document is at /api/v1/openapi.json, and its paths are relative to /api/v1.";
    DocumentPage "document-page" "The route of the OpenAPI document returns an HTML page.";
    Protobuf400 "protobuf-400" "Protobuf request bodies get a 400 that says that the body cannot be parsed.";
    Protobuf415 "protobuf-415" "Protobuf request bodies get a 415.";
    Protobuf422 "protobuf-422" "Protobuf request bodies get a 422 that says that the body cannot be parsed.";
    Protobuf500 "protobuf-500" "Protobuf request bodies get a 500 with a validation error in JSON.";
    Protobuf500Bare "protobuf-500-bare" "Protobuf request bodies get a 500 in plain text without a reason.";
    Protobuf500Opaque "protobuf-500-opaque" "Protobuf request bodies get a 500 in JSON whose reason does not mention the body.";
    NoConfig "no-config" "There is no route `client/config`.";
    ConfigGet "config-get" "The route `client/config` allows only GET, and returns 405 to POST.";
    ConfigFloats "config-floats" "Integers in the client configuration are floats, such as 3600.0.";
    ConfigStrings "config-strings" "Numbers in the client configuration are strings.";
    ConfigNegative "config-negative" "A limit in the client configuration is -1.";
    ConfigList "config-list" "The client configuration is a JSON list.";
    NoDynamicConfig "no-dynamic-config" "There is no route `client/dynamic_config`.";
    NoHeartbeat "no-heartbeat" "There is no route for heartbeats.";
    HeartbeatUnknownSession "heartbeat-unknown-session" "Heartbeats get a 404 that says that the session is unknown.";
    NoCapabilities "no-capabilities" "There is no route for the capabilities of the server.";
    CapabilitiesStrings "capabilities-strings" "The capabilities list the models as strings.";
    CapabilitiesModelId "capabilities-model-id" "The capabilities name the models in the field `model_id`.";
    CreateError200 "create-error-200" "Creating a model returns 200 with `error` and `category`.";
    CreateErrorBody "create-error-body" "Creating a model returns 400 with a `RequestFailedResponse` and `error_message`.";
    CreateErrorNested "create-error-nested" "Creating a model returns 404 with the reason in `detail.error.reason`.";
    CreateErrorText "create-error-text" "Creating a model returns 400 with the reason as plain text.";
    CreateErrorPage "create-error-page" "Creating a model returns 502 with an HTML page.";
    ModelDirect "model-direct" "Creating a model returns the model in place of a request id.";
    NoGetInfo "no-get-info" "There is no route `get_info`.";
    ThinInfo "thin-info" "The response to `get_info` contains only the model id.";
    ListLogprobs "list-logprobs" "Tensors in results are plain lists.";
    NoShape "no-shape" "Tensors in results have no `shape`.";
    NoDtype "no-dtype" "Tensors in results have no `dtype`.";
    Float64Dtype "float64-dtype" "Tensors in results have the dtype `float64`.";
    NullTensor "null-tensor" "Tensors in results contain null.";
    OddMetrics "odd-metrics" "The metrics of a pass contain integers, booleans, strings and null.";
    NullMetrics "null-metrics" "The metrics of passes and steps are null.";
    NanMetric "nan-metric" "A metric of a pass is the literal NaN, and another the literal -Infinity.";
    NullMetric "null-metric" "A metric of a pass is null.";
    NoOutputType "no-output-type" "Results of passes have no `loss_fn_output_type`.";
    StepFailedType "step-failed-type" "The result of a step is a `RequestFailedResponse` with `error_message`.";
    StepFailedNull "step-failed-null" "The result of a step has a null `error` and a category.";
    StepFailedStatus "step-failed-status" "The result of a step has the status `failed` and a message.";
    StepFailedDetail "step-failed-detail" "The result of a step has only the field `detail`.";
    StepPendingForever "step-pending-forever" "Polls for the result of a step return 200 with the status `pending`, without end.";
    StepStatusOk "step-status-ok" "The result of a step has only the status `ok`.";
    StepStringMetrics "step-string-metrics" "The metrics of a step are numbers in strings.";
    StepNeedsGradients "step-needs-gradients" "A step without accumulated gradients gets a 400.";
    StepFailsWithoutGradients "step-fails-without-gradients" "A step without accumulated gradients is accepted, and fails.";
    PathCheckpoints "path-checkpoints" "Checkpoint paths are `tinker://RUN/checkpoints/NAME`.";
    PathTwinkle "path-twinkle" "Checkpoint paths have the scheme `twinkle://`.";
    PathShort "path-short" "Checkpoint paths are `tinker://RUN-KIND-NAME`, in one segment.";
    PathFile "path-file" "Checkpoint paths are paths of files.";
    PathRelative "path-relative" "Checkpoint paths are `sessions/RUN/KIND/NAME`, without a scheme.";
    PathMint "path-mint" "Checkpoint paths have the scheme `mint://`.";
    PathDeep "path-deep" "Checkpoint paths have an additional segment: `tinker://RUN:train:0/KIND/run/NAME`.";
    PathAndSampler "path-and-sampler" "The result of an unnamed save contains a path besides the sampler.";
    PathOnly "path-only" "The result of an unnamed save contains a path in place of the sampler.";
    SamplerPromise "sampler-promise" "Creating a sampler returns a request id in place of the sampler.";
    Sampler500 "sampler-500" "Creating a sampler returns 500, always with the same reason.";
    UnloadDirect "unload-direct" "Unloading a model takes the model id from the query, and returns the result in place of a request id.";
    HatcheryClient "hatchery-client" "There are the routes `save_state` and `forward_only`, a sampler needs no session, and samples may name a model.";
    StopEos "stop-eos" "The stop reason of samples is `eos`.";
    StopNull "stop-null" "The stop reason of samples is null.";
    StopMissing "stop-missing" "Samples have no stop reason.";
    NoLogprobs "no-logprobs" "Samples have no log-probabilities.";
    NullLogprobs "null-logprobs" "The first log-probability of a sample is null.";
    NanLogprobs "nan-logprobs" "Log-probabilities of samples are the literals NaN and -Infinity.";
    SampleDirect "sample-direct" "A sample request returns the result in place of a request id.";
    PollFutureId "poll-future-id" "Polls must name the operation as `future_id`; others get a 422.";
    StrictPoll "strict-poll" "Polls must contain no other field than `request_id`; others get a 422.";
    Late404 "late-404" "The first poll for each result returns 404.";
    Pending202 "pending-202" "The first polls for each result return 202 with the status `pending`.";
    Pending204 "pending-204" "The first polls for each result return 204.";
    PendingStatus "pending-status" "The first polls for each result return 200 with the status `pending`.";
    PendingType "pending-type" "The first polls for each result return 200 with the type `TryAgainResponse`.";
    Pending404 "pending-404" "The first polls for each result return 404 `not ready`.";
    Pending408 "pending-408" "The first polls for each result return 408 with `try_again` and a Retry-After header.";
    Pending408Empty "pending-408-empty" "The first polls for each result return 408 without a body.";
    Pending425 "pending-425" "The first polls for each result return 425 with a Retry-After header.";
    Failed400 "failed-400" "Polls return 400 with a `RequestFailedResponse`.";
    FailedType "failed-type" "Polls return 200 with a `RequestFailedResponse`.";
    FailedCategory "failed-category" "Polls return 200 with an error and the category `Server`.";
    FailedNull "failed-null" "Polls return 200 with a null error and a category.";
    Failed500 "failed-500" "Polls return 500 with the reason in `detail`.";
    Unknown200 "unknown-200" "Polls return 200 with an error that says that the request id is unknown.";
    WrappedResult "wrapped-result" "Results are wrapped in an object with the status `completed`.";
}

impl Quirk {
    /// Changes the settings of a dialect that this quirk needs. Some quirks are nothing else.
    pub(crate) fn apply(self, dialect: &mut Dialect) {
        match self {
            Self::Protobuf415 => {
                dialect.pass_bodies = PassBodies::Json;
                dialect.other_bodies = OtherBodies::Unsupported;
            }
            Self::Protobuf500Bare => {
                dialect.pass_bodies = PassBodies::Json;
                dialect.other_bodies = OtherBodies::Crash;
            }
            // The document would name the body formats.
            Self::DocumentPage => dialect.open_api = OpenApi::Absent,
            _ => {}
        }
        if self.rewrites_results() {
            dialect.results = ResultForm::Json;
        }
    }

    /// Returns whether this quirk rewrites results, which must then be JSON.
    fn rewrites_results(self) -> bool {
        matches!(
            self,
            Self::ListLogprobs
                | Self::NoShape
                | Self::NoDtype
                | Self::Float64Dtype
                | Self::NullTensor
                | Self::OddMetrics
                | Self::NullMetrics
                | Self::NanMetric
                | Self::NullMetric
                | Self::NoOutputType
                | Self::StopEos
                | Self::StopNull
                | Self::StopMissing
                | Self::NoLogprobs
                | Self::NullLogprobs
                | Self::NanLogprobs
                | Self::SampleDirect
                | Self::WrappedResult
        )
    }
}

impl std::fmt::Display for Quirk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a name that is no quirk. Its text lists all quirks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownQuirk(String);

impl std::fmt::Display for UnknownQuirk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = Quirk::ALL.iter().map(|quirk| quirk.name()).collect();
        write!(
            f,
            "unknown quirk {:?}; the quirks are {}",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownQuirk {}

impl FromStr for Quirk {
    type Err = UnknownQuirk;

    /// Parses the name of a quirk, such as `no-config`. Underscores count as hyphens.
    fn from_str(text: &str) -> Result<Self, UnknownQuirk> {
        let name = text.trim().replace('_', "-");
        let mut all = Self::ALL.iter().copied();
        all.find(|quirk| quirk.name() == name)
            .ok_or_else(|| UnknownQuirk(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn quirks_have_distinct_names_that_are_parsed() {
        let names: BTreeSet<&str> = Quirk::ALL.iter().map(|quirk| quirk.name()).collect();
        assert_eq!(names.len(), Quirk::ALL.len());
        for quirk in Quirk::ALL {
            assert_eq!(quirk.name().parse(), Ok(*quirk));
            assert!(quirk.summary().ends_with('.'), "{quirk}");
        }
    }

    #[test]
    fn unknown_quirk_is_refused_with_the_list_of_quirks() {
        let error = "no_such".parse::<Quirk>().unwrap_err().to_string();
        assert!(
            error.contains("\"no_such\"") && error.contains("no-config, "),
            "{error}"
        );
    }
}

//! What the client does on servers with each quirk.

use tinkers::ErrorKind;
use tinkers_local::Quirk;

use super::tour::Step;

/// The expected outcome of a tour of the API.
#[derive(Debug)]
pub(super) enum Expected {
    /// All calls succeed.
    Works,
    /// The call at this step fails with an error of this kind, whose text contains the words of the server.
    Fails {
        at: Step,
        kind: ErrorKind,
        says: &'static str,
    },
}

use Expected::Works;

const fn fails(at: Step, kind: ErrorKind, says: &'static str) -> Expected {
    Expected::Fails { at, kind, says }
}

const NOT_SERVED: &str = "the base model is not served here";
const OUT_OF_MEMORY: &str = "CUDA out of memory";

/// The expected outcome for each quirk.
pub(super) const ROWS: &[(Quirk, Expected)] = &[
    (Quirk::Http10, Works),
    (Quirk::IntIds, Works),
    (Quirk::LongPromise, Works),
    (Quirk::MissingAsPage, Works),
    (Quirk::Missing400, Works),
    (Quirk::Missing403, Works),
    (Quirk::Missing405, Works),
    (Quirk::Missing500, Works),
    (Quirk::Missing501, Works),
    (Quirk::DocumentElsewhere, Works),
    (Quirk::DocumentRelative, Works),
    (Quirk::DocumentPage, Works),
    (Quirk::Protobuf400, Works),
    (Quirk::Protobuf415, Works),
    (Quirk::Protobuf422, Works),
    (Quirk::Protobuf500, Works),
    (Quirk::Protobuf500Bare, Works),
    (Quirk::Protobuf500Opaque, Works),
    (Quirk::NoConfig, Works),
    (Quirk::ConfigGet, Works),
    (Quirk::ConfigFloats, Works),
    (Quirk::ConfigStrings, Works),
    (Quirk::ConfigNegative, Works),
    (Quirk::ConfigList, Works),
    (Quirk::NoDynamicConfig, Works),
    (Quirk::NoHeartbeat, Works),
    (Quirk::HeartbeatUnknownSession, Works),
    (
        Quirk::NoCapabilities,
        fails(Step::Capabilities, ErrorKind::NotFound, "Not Found"),
    ),
    (Quirk::CapabilitiesStrings, Works),
    (Quirk::CapabilitiesModelId, Works),
    (
        Quirk::CreateError200,
        fails(Step::Create, ErrorKind::OperationFailed, NOT_SERVED),
    ),
    (
        Quirk::CreateErrorBody,
        fails(Step::Create, ErrorKind::Rejected, NOT_SERVED),
    ),
    (
        Quirk::CreateErrorNested,
        fails(Step::Create, ErrorKind::NotFound, NOT_SERVED),
    ),
    (
        Quirk::CreateErrorText,
        fails(Step::Create, ErrorKind::Rejected, NOT_SERVED),
    ),
    (
        Quirk::CreateErrorPage,
        fails(Step::Create, ErrorKind::Server, "502"),
    ),
    (Quirk::ModelDirect, Works),
    (Quirk::NoGetInfo, Works),
    (Quirk::ThinInfo, Works),
    (Quirk::ListLogprobs, Works),
    (Quirk::NoShape, Works),
    (Quirk::NoDtype, Works),
    (Quirk::Float64Dtype, Works),
    (Quirk::NullTensor, Works),
    (Quirk::OddMetrics, Works),
    (Quirk::NullMetrics, Works),
    (Quirk::NanMetric, Works),
    (Quirk::NullMetric, Works),
    (Quirk::NoOutputType, Works),
    (
        Quirk::StepFailedType,
        fails(Step::Optimizer, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::StepFailedNull,
        fails(Step::Optimizer, ErrorKind::OperationFailed, "system"),
    ),
    (
        Quirk::StepFailedStatus,
        fails(Step::Optimizer, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::StepFailedDetail,
        fails(Step::Optimizer, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::StepPendingForever,
        fails(Step::Optimizer, ErrorKind::Timeout, ""),
    ),
    (Quirk::StepStatusOk, Works),
    (Quirk::StepStringMetrics, Works),
    (Quirk::StepNeedsGradients, Works),
    (Quirk::StepFailsWithoutGradients, Works),
    (Quirk::PathCheckpoints, Works),
    (Quirk::PathTwinkle, Works),
    (Quirk::PathShort, Works),
    (Quirk::PathFile, Works),
    (Quirk::PathRelative, Works),
    (Quirk::PathMint, Works),
    (Quirk::PathDeep, Works),
    (Quirk::PathAndSampler, Works),
    (Quirk::PathOnly, Works),
    (Quirk::SamplerPromise, Works),
    (
        Quirk::Sampler500,
        fails(
            Step::Sampler,
            ErrorKind::Server,
            "the sampling backend is not configured",
        ),
    ),
    (Quirk::UnloadDirect, Works),
    (Quirk::HatcheryClient, Works),
    (Quirk::StopEos, Works),
    (Quirk::StopNull, Works),
    (Quirk::StopMissing, Works),
    (Quirk::NoLogprobs, Works),
    (Quirk::NullLogprobs, Works),
    (Quirk::NanLogprobs, Works),
    (Quirk::SampleDirect, Works),
    (
        Quirk::PollFutureId,
        fails(
            Step::Create,
            ErrorKind::OperationFailed,
            "future_id: Field required",
        ),
    ),
    (Quirk::StrictPoll, Works),
    (Quirk::Late404, Works),
    (Quirk::Pending202, Works),
    (Quirk::Pending204, Works),
    (Quirk::PendingStatus, Works),
    (Quirk::PendingType, Works),
    (Quirk::Pending404, Works),
    (Quirk::Pending408, Works),
    (Quirk::Pending408Empty, Works),
    (Quirk::Pending425, Works),
    (
        Quirk::Failed400,
        fails(Step::Create, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::FailedType,
        fails(Step::Create, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::FailedCategory,
        fails(Step::Create, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::FailedNull,
        fails(Step::Create, ErrorKind::OperationFailed, "system"),
    ),
    (
        Quirk::Failed500,
        fails(Step::Create, ErrorKind::OperationFailed, OUT_OF_MEMORY),
    ),
    (
        Quirk::Unknown200,
        fails(
            Step::Create,
            ErrorKind::OperationFailed,
            "unknown request_id",
        ),
    ),
    (Quirk::WrappedResult, Works),
];

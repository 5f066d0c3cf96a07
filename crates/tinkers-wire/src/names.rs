//! `Display` and serde traits of the types that are names on the wire.

/// Implements `Display` for a type: writes the result of its method `name`, with the padding and alignment of the format string.
macro_rules! display_name {
    ($($type:ty),* $(,)?) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    )*};
}

/// Implements the serde traits for a type: it is serialised as the string that its method `name` returns, and deserialised by `From<&str>`.
macro_rules! serde_name {
    ($($type:ty),* $(,)?) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <String as serde::Deserialize>::deserialize(deserializer)?;
                Ok(Self::from(name.as_str()))
            }
        }
    )*};
}

pub(crate) use {display_name, serde_name};

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::{
        CheckpointKind, CheckpointType, CompletionState, DType, FailureCategory, FinishReason,
        LossFn, PollTargetKind, QueueState, RequestKind, SamplerSaveKind, SpanKind, StopReason,
    };

    /// Checks that a value is displayed and serialised as `name`, and decoded from `name`.
    fn check<T>(value: T, name: &str)
    where
        T: Display + Debug + PartialEq + Serialize + DeserializeOwned,
    {
        assert_eq!(value.to_string(), name);
        let json = serde_json::to_value(&value).unwrap();
        assert_eq!(json, name);
        assert_eq!(serde_json::from_value::<T>(json).unwrap(), value);
    }

    #[test]
    fn enum_of_the_api_is_displayed_as_its_name_in_json() {
        check(CheckpointKind::Sampler, "sampler");
        check(CheckpointType::Known(CheckpointKind::External), "external");
        check(CheckpointType::Other("merged".into()), "merged");
        check(CompletionState::Finished, "finished");
        check(CompletionState::Failed, "failed");
        check(DType::Int64, "int64");
        check(FailureCategory::User, "user");
        check(FailureCategory::Server, "server");
        check(FailureCategory::Unknown, "unknown");
        check(LossFn::ImportanceSampling, "importance_sampling");
        check(LossFn::Other("my_loss".into()), "my_loss");
        check(PollTargetKind::SamplingSession, "sampling_session");
        check(QueueState::PausedRateLimit, "paused_rate_limit");
        check(QueueState::Other("paused".into()), "paused");
        check(RequestKind::SaveWeightsForSampler, "SaveWeightsForSampler");
        check(SamplerSaveKind::Inflight, "inflight");
        check(SpanKind::Sampled, "sampled");
        check(StopReason::Length, "length");
        check(StopReason::Other("cancelled".into()), "cancelled");
    }

    #[test]
    fn finish_reason_is_displayed_as_its_json_type_field() {
        for reason in [
            FinishReason::Success,
            FinishReason::Errored,
            FinishReason::Interrupted,
        ] {
            let json = serde_json::to_value(reason).unwrap();
            assert_eq!(json["type"], reason.to_string());
            assert_eq!(
                serde_json::from_value::<FinishReason>(json).unwrap(),
                reason
            );
        }
    }

    #[test]
    fn format_width_pads_a_displayed_name() {
        assert_eq!(format!("{:<8}|", DType::Int64), "int64   |");
        assert_eq!(format!("{:>8}|", StopReason::Stop), "    stop|");
    }
}

//! Rewrites of the results that polls return.

use serde_json::{Map, Value, json};
use tinkers_wire::routes;

use super::table::Quirk;

/// Rewrites the result of the operation that was submitted to `route`.
pub(super) fn rewrite(quirk: Quirk, route: &str, result: &mut Value) {
    match route {
        routes::FORWARD | routes::FORWARD_BACKWARD => pass(quirk, result),
        routes::OPTIM_STEP => step(quirk, result),
        routes::ASAMPLE => sample(quirk, result),
        _ => {}
    }
    if quirk == Quirk::WrappedResult {
        *result = json!({ "status": "completed", "result": result.take() });
    }
}

fn pass(quirk: Quirk, result: &mut Value) {
    match quirk {
        Quirk::ListLogprobs => each_tensor(result, |tensor| *tensor = tensor["data"].take()),
        Quirk::NoShape => each_tensor(result, |tensor| remove(tensor, "shape")),
        Quirk::NoDtype => each_tensor(result, |tensor| remove(tensor, "dtype")),
        Quirk::Float64Dtype => each_tensor(result, |tensor| tensor["dtype"] = "float64".into()),
        Quirk::NullTensor => each_tensor(result, |tensor| tensor["data"][0] = Value::Null),
        Quirk::OddMetrics => {
            result["metrics"] = json!({
                "loss:sum": 3.0, "tokens/sec": 5, "ok": true, "name": "x", "nothing": null
            });
        }
        Quirk::NullMetrics => result["metrics"] = Value::Null,
        Quirk::NanMetric => result["metrics"] = json!({ "loss:sum": NAN, "low:min": NEGATIVE }),
        Quirk::NullMetric => {
            result["metrics"] = json!({ "loss:sum": null, "grad_norm:mean": 1.0 });
        }
        Quirk::NoOutputType => remove(result, "loss_fn_output_type"),
        _ => {}
    }
}

fn step(quirk: Quirk, result: &mut Value) {
    let oom = "CUDA out of memory";
    *result = match quirk {
        Quirk::StepFailedType => json!({ "type": "RequestFailedResponse", "error_message": oom }),
        Quirk::StepFailedNull => json!({ "error": null, "category": "system" }),
        Quirk::StepFailedStatus => json!({ "status": "failed", "message": oom }),
        Quirk::StepFailedDetail => json!({ "detail": oom }),
        Quirk::StepPendingForever => json!({ "status": "pending" }),
        Quirk::StepStatusOk => json!({ "status": "ok" }),
        Quirk::StepStringMetrics => json!({ "metrics": { "lr": "0.1" } }),
        Quirk::NullMetrics => json!({ "metrics": null }),
        _ => return,
    };
}

fn sample(quirk: Quirk, result: &mut Value) {
    let Some(sequences) = result["sequences"].as_array_mut() else {
        return;
    };
    for sequence in sequences {
        match quirk {
            Quirk::StopEos => sequence["stop_reason"] = "eos".into(),
            Quirk::StopNull => sequence["stop_reason"] = Value::Null,
            Quirk::StopMissing => remove(sequence, "stop_reason"),
            Quirk::NoLogprobs => remove(sequence, "logprobs"),
            Quirk::NullLogprobs => sequence["logprobs"][0] = Value::Null,
            Quirk::NanLogprobs => {
                sequence["logprobs"][0] = NAN.into();
                sequence["logprobs"][1] = NEGATIVE.into();
            }
            _ => {}
        }
    }
}

/// The placeholders of the literals NaN and -Infinity, which [`serde_json`] cannot write.
const NAN: &str = "\u{1}NaN";
const NEGATIVE: &str = "\u{1}-Infinity";

/// Encodes a body as JSON, with the literals NaN and -Infinity in the places of their placeholders.
pub(super) fn encode(body: &Value) -> Vec<u8> {
    let text = body.to_string();
    let text = text.replace("\"\\u0001NaN\"", "NaN");
    text.replace("\"\\u0001-Infinity\"", "-Infinity").into()
}

fn each_tensor(result: &mut Value, change: impl Fn(&mut Value)) {
    let outputs = result["loss_fn_outputs"].as_array_mut();
    for output in outputs.into_iter().flatten() {
        output
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut)
            .for_each(&change);
    }
}

fn remove(value: &mut Value, field: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(field);
    }
}

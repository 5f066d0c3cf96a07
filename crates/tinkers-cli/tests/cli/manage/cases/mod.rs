//! One row for each management command: its request, the response, and the exact output in each format.

mod account;
mod checkpoints;
mod sessions;

use serde_json::json;

use super::responder::Answer;

/// A management command, and what it prints.
pub(crate) struct Case {
    /// The names of the command.
    pub(crate) command: &'static [&'static str],
    /// Valid arguments.
    pub(crate) arguments: &'static [&'static str],
    /// Whether the command changes something, so that the server must be named on the command line.
    pub(crate) changes: bool,
    pub(crate) answers: Vec<Answer>,
    /// The requests that the command sends.
    pub(crate) requests: &'static [&'static str],
    pub(crate) table: &'static str,
    pub(crate) json: &'static str,
    pub(crate) csv: &'static str,
    /// Wrong arguments in place of the valid ones, and a part of the error message.
    pub(crate) wrong: (&'static [&'static str], &'static str),
}

const RUN: &str = "s-1:train:0";
const STEP: &str = "tinker://s-1:train:0/weights/step-1";
const SAMPLER: &str = "tinker://s-1:train:0/sampler_weights/step-2";

fn step() -> serde_json::Value {
    json!({
        "checkpoint_id": "weights/step-1", "checkpoint_type": "training", "time": "2020-01-02T03:04:05Z",
        "tinker_path": STEP, "size_bytes": 1536, "public": false,
    })
}

fn sampler() -> serde_json::Value {
    json!({
        "checkpoint_id": "sampler_weights/step-2", "checkpoint_type": "sampler", "time": "2020-01-03 03:04:05",
        "tinker_path": SAMPLER, "size_bytes": null, "public": true, "expires_at": "2120-01-03T00:00:00Z",
        "user_metadata": {"a": "b"}, "later": 1,
    })
}

fn run() -> serde_json::Value {
    json!({
        "training_run_id": RUN, "base_model": "org/model", "model_owner": "tml:user:a", "is_lora": true,
        "lora_rank": 8, "last_request_time": "2020-01-02T03:04:05Z", "last_checkpoint": step(),
    })
}

fn checkpoints() -> serde_json::Value {
    json!({
        "checkpoints": [sampler(), step()],
        "cursor": {"offset": 0, "limit": 21, "total_count": 2},
    })
}

/// Returns the rows of all management commands.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = vec![models(), runs(), run_info()];
    all.extend(checkpoints::cases());
    all.extend(sessions::cases());
    all.extend([account::usage(), account::storage(), account::audit()]);
    // The official names of two commands.
    all.push(Case {
        command: &["billing", "usage"],
        ..account::usage()
    });
    all.push(Case {
        command: &["billing", "checkpoint-storage"],
        ..account::storage()
    });
    all
}

fn models() -> Case {
    let models = json!({"supported_models": [
        {"model_name": "org/small", "max_context_length": 4096, "trainable": true, "sampleable": true},
        {"model_name": "org/Other"},
        {"model_name": "else/large", "max_context_length": 1, "trainable": false, "sampleable": true},
    ]});
    Case {
        command: &["model", "list"],
        arguments: &["ORG/"],
        changes: false,
        answers: vec![Answer::ok("GET /get_server_capabilities", models)],
        requests: &["GET /get_server_capabilities"],
        table: "\
Model      Max Context  Trainable  Sampleable
org/small  4096         Yes        Yes
org/Other  N/A          N/A        N/A
",
        json: r#"{
  "models": [
    {
      "model_name": "org/small",
      "max_context_length": 4096,
      "trainable": true,
      "sampleable": true
    },
    {
      "model_name": "org/Other",
      "max_context_length": null,
      "trainable": null,
      "sampleable": null
    }
  ]
}
"#,
        csv: "\
model_name,max_context_length,trainable,sampleable
org/small,4096,true,true
org/Other,,,
",
        wrong: (&["--limit", "-1"], "--limit"),
    }
}

fn runs() -> Case {
    let list = json!({
        "training_runs": [run(), {"training_run_id": "r2", "base_model": "m", "corrupted": true}],
        "cursor": {"offset": 0, "limit": 21, "total_count": 2},
    });
    Case {
        command: &["run", "list"],
        arguments: &["--columns", "id,lora,status,checkpoint,checkpoint_time"],
        changes: false,
        answers: vec![Answer::ok("GET /training_runs", list)],
        requests: &["GET /training_runs?limit=21&offset=0&access_scope=owned"],
        table: "\
Run ID       LoRA    Status     Last Checkpoint  Checkpoint Time
s-1:train:0  rank 8  ok         weights/step-1   2020-01-02
r2           No      corrupted  N/A              N/A
",
        json: r#"{
  "runs": [
    {
      "training_run_id": "s-1:train:0",
      "base_model": "org/model",
      "model_owner": "tml:user:a",
      "is_lora": true,
      "lora_rank": 8,
      "corrupted": false,
      "last_request_time": "2020-01-02T03:04:05Z",
      "last_checkpoint": {
        "checkpoint_id": "weights/step-1",
        "checkpoint_type": "training",
        "expires_at": null,
        "public": false,
        "size_bytes": 1536,
        "time": "2020-01-02T03:04:05Z",
        "tinker_path": "tinker://s-1:train:0/weights/step-1",
        "user_metadata": null
      },
      "last_sampler_checkpoint": null,
      "user_metadata": null
    },
    {
      "training_run_id": "r2",
      "base_model": "m",
      "model_owner": "",
      "is_lora": false,
      "lora_rank": null,
      "corrupted": true,
      "last_request_time": "",
      "last_checkpoint": null,
      "last_sampler_checkpoint": null,
      "user_metadata": null
    }
  ]
}
"#,
        csv: "\
training_run_id,base_model,model_owner,is_lora,lora_rank,corrupted,last_request_time,last_checkpoint_path,last_checkpoint_time,last_sampler_checkpoint_path,last_sampler_checkpoint_time,user_metadata
s-1:train:0,org/model,tml:user:a,true,8,false,2020-01-02T03:04:05Z,tinker://s-1:train:0/weights/step-1,2020-01-02T03:04:05Z,,,
r2,m,,false,,true,,,,,,
",
        wrong: (&["--columns", "id,colour"], "checkpoint_time"),
    }
}

fn run_info() -> Case {
    Case {
        command: &["run", "info"],
        arguments: &[RUN],
        changes: false,
        answers: vec![Answer::ok("GET /training_runs/s-1:train:0", run())],
        requests: &["GET /training_runs/s-1:train:0?access_scope=owned"],
        table: "\
Run ID           s-1:train:0
Base Model       org/model
Owner            tml:user:a
LoRA             rank 8
Last Update      2020-01-02
Status           ok
Last Checkpoint  weights/step-1
Checkpoint Time  2020-01-02
",
        json: r#"{
  "training_run_id": "s-1:train:0",
  "base_model": "org/model",
  "model_owner": "tml:user:a",
  "is_lora": true,
  "lora_rank": 8,
  "corrupted": false,
  "last_request_time": "2020-01-02T03:04:05Z",
  "last_checkpoint": {
    "checkpoint_id": "weights/step-1",
    "checkpoint_type": "training",
    "expires_at": null,
    "public": false,
    "size_bytes": 1536,
    "time": "2020-01-02T03:04:05Z",
    "tinker_path": "tinker://s-1:train:0/weights/step-1",
    "user_metadata": null
  },
  "last_sampler_checkpoint": null,
  "user_metadata": null
}
"#,
        csv: "\
training_run_id,base_model,model_owner,is_lora,lora_rank,corrupted,last_request_time,last_checkpoint_path,last_checkpoint_time,last_sampler_checkpoint_path,last_sampler_checkpoint_time,user_metadata
s-1:train:0,org/model,tml:user:a,true,8,false,2020-01-02T03:04:05Z,tinker://s-1:train:0/weights/step-1,2020-01-02T03:04:05Z,,,
",
        wrong: (&[], "RUN_ID"),
    }
}

//! One row for each management command: its request, the response, and the exact output in each format.

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
    all.extend(checkpoint_commands());
    all.extend(session_commands());
    all.extend([usage(), storage(), audit()]);
    // The official names of two commands.
    all.push(Case {
        command: &["billing", "usage"],
        ..usage()
    });
    all.push(Case {
        command: &["billing", "checkpoint-storage"],
        ..storage()
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

fn checkpoint_commands() -> Vec<Case> {
    let path = &["tinker://s-1:train:0/weights/step-1"];
    let change = |command, request, method: &str| Case {
        command,
        arguments: path,
        changes: true,
        answers: vec![Answer::ok(
            &format!("{method} /training_runs/s-1:train:0/checkpoints/weights/step-1/publish"),
            "{}",
        )],
        requests: request,
        table: "",
        json: "",
        csv: "",
        wrong: (&["weights/step-1"], "tinker://RUN/KIND/NAME"),
    };
    vec![
        Case {
            command: &["checkpoint", "list"],
            arguments: &[],
            changes: false,
            answers: vec![Answer::ok("GET /checkpoints", checkpoints())],
            requests: &["GET /checkpoints?limit=21&offset=0"],
            table: "\
Checkpoint ID           Type      Size    Public  Created     Expires     Path
sampler_weights/step-2  sampler   N/A     Yes     2020-01-03  2120-01-03  tinker://s-1:train:0/sampler_weights/step-2
weights/step-1          training  1.5 KB  No      2020-01-02  Never       tinker://s-1:train:0/weights/step-1
",
            json: r#"{
  "checkpoints": [
    {
      "checkpoint_id": "sampler_weights/step-2",
      "checkpoint_type": "sampler",
      "time": "2020-01-03 03:04:05",
      "tinker_path": "tinker://s-1:train:0/sampler_weights/step-2",
      "size_bytes": null,
      "public": true,
      "user_metadata": {
        "a": "b"
      },
      "expires_at": "2120-01-03T00:00:00Z",
      "base_model": null
    },
    {
      "checkpoint_id": "weights/step-1",
      "checkpoint_type": "training",
      "time": "2020-01-02T03:04:05Z",
      "tinker_path": "tinker://s-1:train:0/weights/step-1",
      "size_bytes": 1536,
      "public": false,
      "user_metadata": null,
      "expires_at": null,
      "base_model": null
    }
  ]
}
"#,
            csv: "\
checkpoint_id,checkpoint_type,time,tinker_path,size_bytes,public,user_metadata,expires_at,base_model
sampler_weights/step-2,sampler,2020-01-03 03:04:05,tinker://s-1:train:0/sampler_weights/step-2,,true,\"{\"\"a\"\":\"\"b\"\"}\",2120-01-03T00:00:00Z,
weights/step-1,training,2020-01-02T03:04:05Z,tinker://s-1:train:0/weights/step-1,1536,false,,,
",
            wrong: (&["--before", "yesterday"], "2026-06-01"),
        },
        Case {
            command: &["checkpoint", "info"],
            arguments: path,
            changes: false,
            answers: vec![
                Answer::ok("GET /training_runs/s-1:train:0", run()),
                Answer::ok("GET /training_runs/s-1:train:0/checkpoints", checkpoints()),
            ],
            requests: &[
                "GET /training_runs/s-1:train:0?access_scope=owned",
                "GET /training_runs/s-1:train:0/checkpoints",
            ],
            table: "\
Checkpoint ID  weights/step-1
Type           training
Path           tinker://s-1:train:0/weights/step-1
Size           1.5 KB
Public         No
Created        2020-01-02
Expires        Never
Base Model     org/model
LoRA           Yes
LoRA Rank      8
",
            json: r#"{
  "checkpoint_id": "weights/step-1",
  "checkpoint_type": "training",
  "time": "2020-01-02T03:04:05Z",
  "tinker_path": "tinker://s-1:train:0/weights/step-1",
  "size_bytes": 1536,
  "public": false,
  "user_metadata": null,
  "expires_at": null,
  "base_model": "org/model",
  "is_lora": true,
  "lora_rank": 8
}
"#,
            csv: "\
checkpoint_id,checkpoint_type,time,tinker_path,size_bytes,public,user_metadata,expires_at,base_model,is_lora,lora_rank
weights/step-1,training,2020-01-02T03:04:05Z,tinker://s-1:train:0/weights/step-1,1536,false,,,org/model,true,8
",
            wrong: (&["tinker://s-1:train:0/step-1"], "sampler_weights"),
        },
        Case {
            table: "published: tinker://s-1:train:0/weights/step-1\n",
            json: "{\n  \"tinker_path\": \"tinker://s-1:train:0/weights/step-1\",\n  \"change\": \"published\",\n  \"ttl_seconds\": null\n}\n",
            csv: "tinker_path,change,ttl_seconds\ntinker://s-1:train:0/weights/step-1,published,\n",
            ..change(
                &["checkpoint", "publish"],
                &["POST /training_runs/s-1:train:0/checkpoints/weights/step-1/publish"],
                "POST",
            )
        },
        Case {
            table: "unpublished: tinker://s-1:train:0/weights/step-1\n",
            json: "{\n  \"tinker_path\": \"tinker://s-1:train:0/weights/step-1\",\n  \"change\": \"unpublished\",\n  \"ttl_seconds\": null\n}\n",
            csv: "tinker_path,change,ttl_seconds\ntinker://s-1:train:0/weights/step-1,unpublished,\n",
            ..change(
                &["checkpoint", "unpublish"],
                &["DELETE /training_runs/s-1:train:0/checkpoints/weights/step-1/publish"],
                "DELETE",
            )
        },
        Case {
            command: &["checkpoint", "set-ttl"],
            arguments: &["tinker://s-1:train:0/weights/step-1", "--ttl", "3600"],
            changes: true,
            answers: vec![Answer::ok(
                "PUT /training_runs/s-1:train:0/checkpoints/weights/step-1/ttl",
                "{}",
            )],
            requests: &[
                "PUT /training_runs/s-1:train:0/checkpoints/weights/step-1/ttl {\"ttl_seconds\":3600}",
            ],
            table: "ttl set: tinker://s-1:train:0/weights/step-1\n",
            json: "{\n  \"tinker_path\": \"tinker://s-1:train:0/weights/step-1\",\n  \"change\": \"ttl set\",\n  \"ttl_seconds\": 3600\n}\n",
            csv: "tinker_path,change,ttl_seconds\ntinker://s-1:train:0/weights/step-1,ttl set,3600\n",
            // Less than an hour.
            wrong: (
                &["tinker://s-1:train:0/weights/step-1", "--ttl", "60"],
                "ttl_seconds",
            ),
        },
        Case {
            command: &["checkpoint", "delete"],
            arguments: &["tinker://s-1:train:0/weights/step-1", "--yes"],
            changes: true,
            answers: vec![Answer::ok(
                "DELETE /training_runs/s-1:train:0/checkpoints/weights/step-1",
                "{}",
            )],
            requests: &["DELETE /training_runs/s-1:train:0/checkpoints/weights/step-1"],
            table: "deleted 1 checkpoint\n",
            json: "{\n  \"deleted_count\": 1,\n  \"failed\": []\n}\n",
            csv: "tinker_path,deleted,error\ntinker://s-1:train:0/weights/step-1,true,\n",
            wrong: (&["--yes"], "--pattern"),
        },
    ]
}

fn session_commands() -> Vec<Case> {
    vec![
        Case {
            command: &["session", "list"],
            arguments: &["--limit", "2"],
            changes: false,
            answers: vec![
                Answer::ok(
                    "GET /sessions?limit=3&offset=0&access_scope=owned",
                    json!({"sessions": ["s-1", "s-2"]}),
                ),
                Answer::ok(
                    "GET /sessions?limit=3&offset=1&access_scope=owned",
                    json!({"sessions": ["s-2"]}),
                ),
            ],
            requests: &[
                "GET /sessions?limit=3&offset=0&access_scope=owned",
                "GET /sessions?limit=3&offset=1&access_scope=owned",
            ],
            table: "Session ID\ns-1\ns-2\n",
            json: "{\n  \"sessions\": [\n    {\n      \"session_id\": \"s-1\"\n    },\n    {\n      \"session_id\": \"s-2\"\n    }\n  ]\n}\n",
            csv: "session_id\ns-1\ns-2\n",
            wrong: (&["--all", "--limit", "1"], "--all"),
        },
        Case {
            command: &["session", "info"],
            arguments: &["s-1"],
            changes: false,
            answers: vec![Answer::ok(
                "GET /sessions/s-1",
                json!({
                    "training_run_ids": ["s-1:train:0", "s-1:train:1"], "sampler_ids": [],
                    "display_name": "my run", "user_metadata": {"a": "b"},
                }),
            )],
            requests: &["GET /sessions/s-1?access_scope=owned"],
            table: "\
Session ID     s-1
Name           my run
Training Runs  s-1:train:0 s-1:train:1
Samplers       none
Metadata       {\"a\":\"b\"}
",
            json: r#"{
  "session_id": "s-1",
  "display_name": "my run",
  "training_run_ids": [
    "s-1:train:0",
    "s-1:train:1"
  ],
  "sampler_ids": [],
  "user_metadata": {
    "a": "b"
  }
}
"#,
            csv: "\
session_id,display_name,training_run_ids,sampler_ids,user_metadata
s-1,my run,\"[\"\"s-1:train:0\"\",\"\"s-1:train:1\"\"]\",[],\"{\"\"a\"\":\"\"b\"\"}\"
",
            wrong: (&["s-1", "s-2"], "s-2"),
        },
        Case {
            command: &["session", "trace"],
            arguments: &["s-1", "--url-only"],
            changes: false,
            answers: vec![Answer::ok(
                "GET /sessions/s-1/trace_export",
                json!({"status": "ready", "url": "http://127.0.0.1:9/signed/trace?sig=x"}),
            )],
            requests: &["GET /sessions/s-1/trace_export"],
            table: "http://127.0.0.1:9/signed/trace?sig=x\n",
            json: "{\n  \"session_id\": \"s-1\",\n  \"url\": \"http://127.0.0.1:9/signed/trace?sig=x\"\n}\n",
            csv: "session_id,url\ns-1,http://127.0.0.1:9/signed/trace?sig=x\n",
            wrong: (&["s-1", "--url-only", "--output", "f"], "--output"),
        },
    ]
}

fn usage() -> Case {
    let event = |info: serde_json::Value, cost: serde_json::Value| {
        json!({
            "bucket_start": "2026-06-01T00:00:00Z", "bucket_end": "2026-06-01T01:00:00Z",
            "base_model": "org/model", "session_id": "s-1", "estimated_cost_usd": cost, "event_info": info,
        })
    };
    let usage = json!({
        "data": [
            event(json!({"type": "training", "token_count": 12}), json!(0.5)),
            event(json!({"type": "storage", "free": true, "gigabyte_hours": 0.25}), json!(null)),
        ],
        "sessions": {"s-1": {"user_metadata": {"a": "b"}}},
        "cost_data_through": "2026-06-02T00:00:00Z",
    });
    Case {
        command: &["usage"],
        arguments: &["2026-06-01", "2026-06-01T01:00:00+00:00"],
        changes: false,
        answers: vec![Answer::ok("GET /billing/usage/events", usage)],
        requests: &[
            "GET /billing/usage/events?starting_on=2026-06-01T00:00:00.000000Z&ending_before=2026-06-01T01:00:00.000000Z",
        ],
        table: "\
Start                 Type      Amount     Base Model  User  Session  Cost
2026-06-01T00:00:00Z  training  12 tokens  org/model   N/A   s-1      $0.5000
2026-06-01T00:00:00Z  storage   0.25 GB h  org/model   N/A   s-1      N/A
",
        json: r#"{
  "data": [
    {
      "bucket_start": "2026-06-01T00:00:00Z",
      "bucket_end": "2026-06-01T01:00:00Z",
      "base_model": "org/model",
      "user_id": null,
      "user_name": null,
      "session_id": "s-1",
      "project_id": null,
      "estimated_cost_usd": 0.5,
      "effective_rate_usd_per_million_tokens": null,
      "effective_rate_usd_per_gigabyte_month": null,
      "event_info": {
        "token_count": 12,
        "type": "training"
      }
    },
    {
      "bucket_start": "2026-06-01T00:00:00Z",
      "bucket_end": "2026-06-01T01:00:00Z",
      "base_model": "org/model",
      "user_id": null,
      "user_name": null,
      "session_id": "s-1",
      "project_id": null,
      "estimated_cost_usd": null,
      "effective_rate_usd_per_million_tokens": null,
      "effective_rate_usd_per_gigabyte_month": null,
      "event_info": {
        "free": true,
        "gigabyte_hours": 0.25,
        "type": "storage"
      }
    }
  ],
  "sessions": {
    "s-1": {
      "user_metadata": {
        "a": "b"
      }
    }
  },
  "cost_data_through": "2026-06-02T00:00:00Z"
}
"#,
        csv: "\
bucket_start,bucket_end,base_model,user_id,user_name,session_id,project_id,estimated_cost_usd,effective_rate_usd_per_million_tokens,effective_rate_usd_per_gigabyte_month,type,cached,token_count,count,free,gigabyte_hours
2026-06-01T00:00:00Z,2026-06-01T01:00:00Z,org/model,,,s-1,,0.5,,,training,,12,,,
2026-06-01T00:00:00Z,2026-06-01T01:00:00Z,org/model,,,s-1,,,,,storage,,,,true,0.25
",
        // More than 14 days.
        wrong: (&["2026-06-01", "2026-06-30"], "14 days"),
    }
}

fn storage() -> Case {
    let storage = json!({
        "effective_rate_usd_per_gigabyte_month": 0.1,
        "data": [{
            "project_id": "p", "user_name": "Ann", "checkpoint_count": 3, "size_bytes": 2048, "size_gigabytes": 0.5,
            "estimated_monthly_cost_usd": 0.05,
        }],
    });
    Case {
        command: &["storage"],
        arguments: &["--project-id", "p"],
        changes: false,
        answers: vec![Answer::ok(
            "GET /billing/usage/checkpoints/current",
            storage,
        )],
        requests: &["GET /billing/usage/checkpoints/current?project_id=p"],
        table: "\
Project  User  Email  Checkpoints  Size    Cost per Month  Rate per GB and Month
p        Ann   N/A    3            2.0 KB  $0.0500         $0.1000
",
        json: r#"{
  "effective_rate_usd_per_gigabyte_month": 0.1,
  "data": [
    {
      "project_id": "p",
      "org_user_urn": null,
      "user_email": null,
      "user_name": "Ann",
      "checkpoint_count": 3,
      "size_bytes": 2048,
      "size_gigabytes": 0.5,
      "estimated_monthly_cost_usd": 0.05
    }
  ]
}
"#,
        csv: "\
effective_rate_usd_per_gigabyte_month,project_id,org_user_urn,user_email,user_name,checkpoint_count,size_bytes,size_gigabytes,estimated_monthly_cost_usd
0.1,p,,,Ann,3,2048,0.5,0.05
",
        wrong: (&["--project-id", ""], "project_id"),
    }
}

fn audit() -> Case {
    let log = json!({"entries": [
        {"timestamp": "2026-06-01T08:00:00Z", "event": "checkpoint.deleted", "event_details": {"by": "ann"}},
    ]});
    Case {
        command: &["audit"],
        arguments: &["--type", "checkpoints", "--day", "2026-06-01"],
        changes: false,
        answers: vec![Answer::ok("GET /audit", log)],
        requests: &["GET /audit?event_type=checkpoints&day=2026-06-01"],
        table: "\
Time                  Event               Details       Path
2026-06-01T08:00:00Z  checkpoint.deleted  {\"by\":\"ann\"}  N/A
",
        json: r#"{
  "entries": [
    {
      "timestamp": "2026-06-01T08:00:00Z",
      "event": "checkpoint.deleted",
      "event_details": {
        "by": "ann"
      },
      "model_id": null,
      "tinker_path": null,
      "purpose": null
    }
  ]
}
"#,
        csv: "\
timestamp,event,event_details,model_id,tinker_path,purpose
2026-06-01T08:00:00Z,checkpoint.deleted,\"{\"\"by\"\":\"\"ann\"\"}\",,,
",
        wrong: (&["--day", "2026-6-1"], "2026-11-23"),
    }
}

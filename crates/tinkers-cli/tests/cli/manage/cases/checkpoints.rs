//! The rows of `tinkers checkpoint`.

use super::{Case, checkpoints, run};
use crate::manage::responder::Answer;

pub(super) fn cases() -> Vec<Case> {
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

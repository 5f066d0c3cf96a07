//! The rows of `tinkers usage`, `tinkers storage` and `tinkers audit`.

use serde_json::json;

use super::Case;
use crate::manage::responder::Answer;

pub(super) fn usage() -> Case {
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

pub(super) fn storage() -> Case {
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

pub(super) fn audit() -> Case {
    // Newer servers have the path in the details, older ones beside them.
    let log = json!({"entries": [
        {
            "timestamp": "2026-06-01T08:00:00Z", "event": "checkpoint_saved",
            "event_details": {"tinker_path": "tinker://r/weights/a"},
        },
        {
            "timestamp": "2026-06-01T09:00:00Z", "event": "checkpoint_deleted", "event_details": {"by": "ann"},
            "tinker_path": "tinker://r/weights/b",
        },
        {"timestamp": "2026-06-01T10:00:00Z", "event": "project_created", "event_details": null},
    ]});
    Case {
        command: &["audit"],
        arguments: &["--type", "checkpoints", "--day", "2026-06-01"],
        changes: false,
        answers: vec![Answer::ok("GET /audit", log)],
        requests: &["GET /audit?event_type=checkpoints&day=2026-06-01"],
        table: "\
Time                  Event               Details                                 Path
2026-06-01T08:00:00Z  checkpoint_saved    {\"tinker_path\":\"tinker://r/weights/a\"}  tinker://r/weights/a
2026-06-01T09:00:00Z  checkpoint_deleted  {\"by\":\"ann\"}                            tinker://r/weights/b
2026-06-01T10:00:00Z  project_created     N/A                                     N/A
",
        json: r#"{
  "entries": [
    {
      "timestamp": "2026-06-01T08:00:00Z",
      "event": "checkpoint_saved",
      "event_details": {
        "tinker_path": "tinker://r/weights/a"
      },
      "model_id": null,
      "tinker_path": null,
      "purpose": null
    },
    {
      "timestamp": "2026-06-01T09:00:00Z",
      "event": "checkpoint_deleted",
      "event_details": {
        "by": "ann"
      },
      "model_id": null,
      "tinker_path": "tinker://r/weights/b",
      "purpose": null
    },
    {
      "timestamp": "2026-06-01T10:00:00Z",
      "event": "project_created",
      "event_details": null,
      "model_id": null,
      "tinker_path": null,
      "purpose": null
    }
  ]
}
"#,
        csv: "\
timestamp,event,event_details,model_id,tinker_path,purpose
2026-06-01T08:00:00Z,checkpoint_saved,\"{\"\"tinker_path\"\":\"\"tinker://r/weights/a\"\"}\",,,
2026-06-01T09:00:00Z,checkpoint_deleted,\"{\"\"by\"\":\"\"ann\"\"}\",,tinker://r/weights/b,
2026-06-01T10:00:00Z,project_created,,,,
",
        wrong: (&["--day", "2026-6-1"], "2026-11-23"),
    }
}

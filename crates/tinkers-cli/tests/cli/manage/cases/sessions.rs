//! The rows of `tinkers session`.

use serde_json::json;

use super::Case;
use crate::manage::responder::Answer;

pub(super) fn cases() -> Vec<Case> {
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

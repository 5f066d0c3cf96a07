//! `tinkers quickstart` against `tinkers serve` in another process.

use crate::program::Program;
use crate::quickstart::object;

const KEY: &str = "tml-secret";

/// A `tokenizer.json` with a small vocabulary.
const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
    "model":{"type":"WordLevel","vocab":{"light":0,"colour":1,"the":2,"?":3},"unk_token":"?"}}"#;

/// Starts a server that requires the API key [`KEY`] and logs at trace level. Returns the running program and its URL.
fn serve(home: &std::path::Path) -> (Program, String) {
    let mut server = Program::start_with(
        home,
        &["serve", "--port", "0", "--api-key", KEY],
        &[("TINKER_LOG", "trace")],
    );
    let url = server.line("listening on ");
    (server, url)
}

#[cfg(unix)]
#[test]
fn quickstart_over_http_never_logs_the_api_key() {
    let home = tempfile::tempdir().unwrap();
    let (server, url) = serve(home.path());
    let client_home = tempfile::tempdir().unwrap();
    let work = [
        "quickstart",
        "--steps",
        "3",
        "--batch",
        "4",
        "--seq-len",
        "64",
    ];
    let server_options = ["--base-url", &url, "--api-key", KEY];
    let output_options = ["--json", "--log", "trace"];
    let arguments = [&work[..], &server_options, &output_options].concat();
    let outcome = Program::start(client_home.path(), &arguments).finish();
    let value = object(outcome.succeeded());
    let loss = |name: &str| value[name].as_f64().unwrap();
    assert!(loss("held_out_loss_after") < loss("held_out_loss_before"));
    assert_eq!(value["loss"].as_array().unwrap().len(), 3);
    // The checkpoints are stored by the server, not by the client.
    assert!(value["data_dir"].is_null(), "{value}");
    assert_eq!(std::fs::read_dir(client_home.path()).unwrap().count(), 0);
    assert!(home.path().join("tinkers").is_dir());

    server.signal("TERM");
    let served = server.finish();
    served.succeeded();
    assert!(outcome.stderr.contains(" DEBUG ") && served.stderr.contains(" INFO "));
    for (side, text) in [("client", outcome.all()), ("server", served.all())] {
        assert!(!text.contains(KEY), "the {side} wrote the API key");
    }
}

#[test]
fn error_for_a_rejected_api_key_contains_the_http_status() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path());
    let wrong = [
        ("TINKER_BASE_URL", url.as_str()),
        ("TINKER_API_KEY", "tml-wrong"),
    ];
    let outcome = Program::start_with(home.path(), &["quickstart"], &wrong).finish();
    outcome.failed(4, &[&url, "401"]);
    assert!(!outcome.stderr.contains("tml-wrong"), "{outcome:#?}");
    let outcome = Program::start_with(home.path(), &["quickstart"], &wrong[..1]).finish();
    outcome.failed(4, &[&url, "401"]);
}

#[test]
fn quickstart_runs_on_the_scripted_engine() {
    let home = tempfile::tempdir().unwrap();
    let engine = ["serve", "--port", "0", "--engine", "scripted"];
    let script = ["--latency", "1", "--scripted-bytes", "1000"];
    let mut server = Program::start(home.path(), &[&engine[..], &script].concat());
    let url = server.line("listening on ");

    let tokenizer = home.path().join("tokenizer.json");
    std::fs::write(&tokenizer, TOKENIZER).unwrap();
    let model = ["--model", "tinkers/scripted", "--tokenizer"];
    let model = [&model[..], &[tokenizer.to_str().unwrap()]].concat();
    let work = ["quickstart", "--json", "--steps", "5", "--base-url", &url];
    let outcome = Program::start(home.path(), &[&work[..], &model].concat()).finish();
    let value = object(outcome.succeeded());
    assert_eq!(value["model"], "tinkers/scripted");
    assert_eq!(value["loss"].as_array().unwrap().len(), 5);
    let checkpoint = value["checkpoint"].as_str().unwrap();
    assert!(checkpoint.starts_with("tinker://"), "{value}");

    // This server does not have the built-in model, which is the default.
    let outcome = Program::start(home.path(), &work).finish();
    outcome.failed(3, &["tinkers/tiny", "tinkers/scripted"]);
}

//! `tinkers auth` against `tinkers serve` in another process.

use std::path::Path;

use crate::program::{Outcome, Program};
use crate::quickstart::object;

const KEY: &str = "tml-hush-key";

/// The options of a server that exchanges the API key [`KEY`] for tokens.
const EXCHANGE: [&str; 4] = ["--api-key", KEY, "--token-exchange", "600"];

/// Starts a server with these options. Returns the running program and its URL.
fn serve(home: &Path, options: &[&str]) -> (Program, String) {
    let start = ["serve", "--port", "0", "--engine", "scripted"];
    let mut server = Program::start(home, &[&start[..], options].concat());
    let url = server.line("listening on ");
    (server, url)
}

/// Runs `tinkers auth` with these arguments and this input, and checks that it does not print the key.
fn auth(home: &Path, url: &str, arguments: &[&str], input: &str) -> Outcome {
    let options = ["auth", "--base-url", url, "--log", "trace"];
    let arguments = [&options[..], arguments].concat();
    let outcome = Program::start_with_input(home, &arguments, input).finish();
    assert!(!outcome.all().contains("hush"), "{outcome:?}");
    assert!(!outcome.all().contains("eyJ"), "{outcome:?}");
    outcome
}

#[test]
fn stored_key_is_used_until_logout() {
    let (server_home, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_server, url) = serve(server_home.path(), &EXCHANGE);
    let home = home.path();
    let status = auth(home, &url, &["status"], "");
    assert_eq!(status.code, Some(4));
    assert!(
        status.stdout.contains("Credentials available: no"),
        "{status:?}"
    );

    auth(home, &url, &["login"], &format!("  {KEY}\n")).succeeded();
    let file = home.join(".tinker").join("credentials.json");
    let stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(stored["version"], 1);
    assert_eq!(stored["default"], "1");
    assert_eq!(stored["keys"]["1"]["type"], "manual");
    assert_eq!(stored["keys"]["1"]["key"], KEY);
    assert_eq!(
        stored["keys"]["1"]["details"]["user_details"]["email"],
        "local@localhost"
    );
    let again = auth(home, &url, &["login"], KEY);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("already logged in"), "{again:?}");

    let status = auth(home, &url, &["status"], "");
    let text = &status.succeeded().stdout;
    assert!(
        text.contains("Credentials available: yes\nTinker accessible: yes"),
        "{text}"
    );
    let whoami = auth(home, &url, &["whoami", "--format", "json"], "");
    let user = object(whoami.succeeded());
    assert_eq!(user["user_urn"], "tml:user:local");
    assert_eq!(user["org_urn"], "tml:organization:local");
    assert_eq!(user["email"], "local@localhost");
    let whoami = auth(home, &url, &["whoami", "-f", "csv"], "");
    assert_eq!(
        whoami.succeeded().stdout,
        "user_urn,org_urn,email\ntml:user:local,tml:organization:local,local@localhost\n"
    );
    let whoami = auth(home, &url, &["whoami"], "");
    assert!(whoami.succeeded().stdout.contains("Email: local@localhost"));

    let logout = auth(home, &url, &["logout"], "");
    assert!(
        logout
            .succeeded()
            .stdout
            .contains("removed the stored API key 1")
    );
    let logout = auth(home, &url, &["logout"], "");
    assert_eq!(logout.code, Some(1));
}

#[test]
fn login_stores_no_key_that_the_server_rejects() {
    let (server_home, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_server, url) = serve(server_home.path(), &EXCHANGE);
    for (input, code) in [("tml-hush-wrong\n", 4), ("", 2), ("tml-hush hush\n", 2)] {
        let login = auth(home.path(), &url, &["login"], input);
        assert_eq!(login.code, Some(code), "{login:?}");
    }
    assert!(!home.path().join(".tinker").exists());
}

#[test]
fn logout_revokes_a_generated_key_on_the_server() {
    let (server_home, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_server, url) = serve(server_home.path(), &EXCHANGE);
    auth(home.path(), &url, &["login"], KEY).succeeded();
    let file = home.path().join(".tinker").join("credentials.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"manual\"", "\"generated\"")).unwrap();
    let logout = auth(home.path(), &url, &["logout"], "");
    assert!(
        logout
            .succeeded()
            .stdout
            .contains("revoked the key on the server")
    );
    let login = auth(home.path(), &url, &["login"], KEY);
    assert_eq!(login.code, Some(4), "the key is revoked");
}

#[test]
fn server_rejects_requests_without_a_required_header() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &["--require-header", "Modal-Key"]);
    let status = auth(home.path(), &url, &["status"], "");
    assert_eq!(status.code, Some(4));
    assert!(status.stderr.contains("modal-key"), "{status:?}");
}

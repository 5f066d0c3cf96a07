//! Environment variables. All commands read them in the same way, and an invalid variable is an error only if it is used.

use crate::bench::serve;
use crate::program::{Outcome, Program, run};

fn doctor(url: &str, variables: &[(&str, &str)]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    Program::start_with(home.path(), &["doctor", "--base-url", url], variables).finish()
}

#[test]
fn invalid_environment_variables_are_ignored_if_unused() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &[]);
    for variables in [
        &[("ALL_PROXY", "socks5://127.0.0.1:7890")][..],
        &[("all_proxy", "socks://127.0.0.1:7890/"), ("NO_PROXY", "*")],
        &[("HTTPS_PROXY", "socks5h://127.0.0.1:7890")],
        &[("HTTP_PROXY", "no address at all")],
        &[("SSL_CERT_FILE", "/nonexistent/ca.pem")],
        &[("CLOUDFLARE_ACCESS_CLIENT_ID", "half")],
        &[
            ("TINKER_API_KEY", " \n"),
            ("TINKER_LOG", ""),
            ("TINKER_TAGS", " , "),
        ],
        // This value lacks a scheme, but --base-url overrides it.
        &[("TINKER_BASE_URL", "nowhere")],
    ] {
        doctor(&url, variables).succeeded();
    }
    let variables = [
        ("ALL_PROXY", "socks5://127.0.0.1:7890"),
        ("TINKER_TAGS", "a"),
    ];
    let quickstart = ["quickstart", "--steps", "1", "--json"];
    let outcome = Program::start_with(home.path(), &quickstart, &variables).finish();
    outcome.succeeded();
}

#[test]
fn error_names_the_variable_of_an_unusable_proxy() {
    for (variable, value) in [
        ("ALL_PROXY", "socks5://secret:1"),
        ("https_proxy", "https://secret:1"),
    ] {
        let outcome = doctor("https://far.test", &[(variable, value)]);
        outcome.failed(2, &[variable, "far.test:443", "NO_PROXY"]);
        assert!(!outcome.stderr.contains("secret"), "{outcome:#?}");
    }
}

#[test]
fn error_names_the_variable_of_unreadable_certificates() {
    let home = tempfile::tempdir().unwrap();
    let empty = home.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let missing = "/nonexistent/ca";
    for (variable, path) in [
        ("SSL_CERT_FILE", missing),
        ("SSL_CERT_DIR", missing),
        ("SSL_CERT_FILE", empty),
    ] {
        let outcome = doctor("https://127.0.0.1:1", &[(variable, path)]);
        outcome.failed(5, &[variable, path]);
    }
    // An empty variable counts as unset, so the error is that the connection is refused.
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let outcome = doctor("https://127.0.0.1:1", &[(variable, "")]);
        assert!(!outcome.stderr.contains(variable), "{outcome:#?}");
    }
}

#[test]
fn white_space_around_environment_values_is_trimmed() {
    let home = tempfile::tempdir().unwrap();
    let (_server, url) = serve(home.path(), &[]);
    let variables = [
        ("TINKER_BASE_URL", &*format!(" {url}\n")),
        ("TINKER_API_KEY", "tml-x\r\n"),
        ("TINKER_LOG", " debug\n"),
    ];
    let outcome = Program::start_with(home.path(), &["doctor", "--json"], &variables).finish();
    assert!(outcome.succeeded().stderr.contains(" DEBUG "));
}

#[test]
fn error_for_a_missing_server_names_option_and_variable() {
    let home = tempfile::tempdir().unwrap();
    for command in [&["doctor"][..], &["bench", "train"]] {
        run(home.path(), command).failed(2, &["--base-url URL", "TINKER_BASE_URL"]);
        let empty = [("TINKER_BASE_URL", " ")];
        let outcome = Program::start_with(home.path(), command, &empty).finish();
        outcome.failed(2, &["--base-url URL", "TINKER_BASE_URL"]);
    }
}

#[test]
fn error_names_the_variable_of_an_api_key_with_a_line_break() {
    let outcome = doctor("http://127.0.0.1:1", &[("TINKER_API_KEY", "tml-sec\nret")]);
    outcome.failed(2, &["TINKER_API_KEY", "api_key"]);
    assert!(!outcome.stderr.contains("sec"), "{outcome:#?}");
}

//! Redirects: secrets are sent only to the origin of the base URL.

use http::header::{HeaderName, HeaderValue};
use http::{Method, Response};
use tinkers_core::{HttpRequest, RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::{CloudflareAccess, HttpTransport, HttpVersions};

use common::{
    API_KEY, RecordedRequest, ResponseFuture, Server, ServerVersion, client, get, post, respond,
    respond_with, secret,
};

mod common;

const SECRETS: [&str; 5] = [
    "x-api-key",
    "cf-access-client-id",
    "cf-access-client-secret",
    "x-default",
    "x-of-the-request",
];

fn redirect(status: u16, to: &str) -> ResponseFuture {
    respond(
        Response::builder()
            .status(status)
            .header("location", to)
            .body("moved".into())
            .expect("valid"),
    )
}

fn with_secrets(url: &str) -> HttpTransport {
    client(url)
        .default_header(API_KEY, secret("tml-hush"))
        .cloudflare_access(CloudflareAccess::new("hush-id", "hush-secret"))
        .default_header(
            HeaderName::from_static("x-default"),
            HeaderValue::from_static("hush-default"),
        )
        .build()
        .expect("valid")
}

fn secret_get(path: &str) -> HttpRequest {
    let mut request = get(path, RouteClass::Rest);
    request
        .headers
        .insert("x-of-the-request", HeaderValue::from_static("hush-request"));
    request
}

fn carried(recorded: &RecordedRequest) -> Vec<&str> {
    SECRETS
        .into_iter()
        .filter(|name| recorded.headers.contains_key(*name))
        .collect()
}

#[tokio::test]
async fn redirect_to_another_port_carries_no_secret() {
    let other = Server::start(ServerVersion::Http1, |_| respond_with("there"));
    let to = format!("{}/there?signed=1", other.url());
    let server = Server::start(ServerVersion::Http1, move |_| redirect(302, &to));
    let transport = with_secrets(&server.url());
    let response = transport
        .send(secret_get("/here"))
        .await
        .expect("a response");
    assert_eq!(response.body, "there");
    assert_eq!(carried(&server.requests()[0]), SECRETS);
    let recorded = &other.requests()[0];
    assert_eq!(carried(recorded), [""; 0]);
    assert!(
        !format!("{:?}", recorded.headers).contains("hush"),
        "{:?}",
        recorded.headers
    );
    assert_eq!(recorded.uri, "/there?signed=1");
    assert_eq!(
        recorded.header("host"),
        Some(other.address.to_string().as_str())
    );
    assert_eq!(recorded.header("accept"), Some("application/json"));
}

#[tokio::test]
async fn redirect_within_the_origin_carries_secrets() {
    let server = Server::start(ServerVersion::Http1, |recorded| match recorded.uri.path() {
        "/base/here" => redirect(307, "/base/there"),
        _ => respond_with("there"),
    });
    let transport = with_secrets(&format!("{}/base", server.url()));
    let response = transport
        .send(secret_get("/here"))
        .await
        .expect("a response");
    assert_eq!(response.body, "there");
    let recorded = server.requests();
    assert_eq!(recorded[1].uri, "/base/there");
    assert_eq!(
        (carried(&recorded[0]), carried(&recorded[1])),
        (SECRETS.to_vec(), SECRETS.to_vec())
    );
}

#[tokio::test]
async fn redirect_back_to_the_origin_carries_no_secret() {
    let home = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let back = std::sync::Arc::clone(&home);
    let other = Server::start(ServerVersion::Http1, move |_| {
        redirect(302, back.get().expect("set"))
    });
    let to = other.url();
    let server = Server::start(ServerVersion::Http1, move |recorded| {
        match recorded.uri.path() {
            "/here" => redirect(302, &to),
            _ => respond_with("home"),
        }
    });
    home.set(format!("{}/again", server.url())).expect("once");
    let response = with_secrets(&server.url())
        .send(secret_get("/here"))
        .await
        .expect("a response");
    assert_eq!(response.body, "home");
    let recorded = server.requests();
    assert_eq!((recorded.len(), carried(&recorded[1])), (2, Vec::new()));
}

#[tokio::test]
async fn post_is_redirected_only_within_the_origin() {
    let other = Server::start(ServerVersion::Http1, |_| respond_with("there"));
    let to = other.url();
    let server = Server::start(ServerVersion::Http1, move |recorded| {
        match recorded.uri.path() {
            "/308" => redirect(308, "/end"),
            "/302" => redirect(302, "/end"),
            "/away" => redirect(307, &to),
            _ => respond_with(recorded.body),
        }
    });
    let transport = with_secrets(&server.url());
    let response = transport
        .send(post("/308", RouteClass::Train, "data"))
        .await
        .expect("a response");
    assert_eq!(response.body, "data");
    assert_eq!(server.requests()[1].method, Method::POST);
    for path in ["/302", "/away"] {
        let error = transport
            .send(post(path, RouteClass::Train, "data"))
            .await
            .expect_err(path);
        assert_eq!(
            (error.kind, error.sent),
            (TransportErrorKind::Redirect, Sent::Answered),
            "{path}"
        );
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn http2_prior_knowledge_does_not_apply_to_redirects() {
    let other = Server::start(ServerVersion::Http1, |_| respond_with("there"));
    let to = format!("{}/there", other.url());
    let server = Server::start(ServerVersion::Http2, move |_| redirect(302, &to));
    let transport = client(&server.url())
        .http_versions(HttpVersions::Http2PriorKnowledge)
        .build()
        .expect("valid");
    let response = transport
        .send(secret_get("/here"))
        .await
        .expect("a response");
    assert_eq!(response.body, "there");
    assert_eq!(other.requests().len(), 1);
}

#[tokio::test]
async fn redirect_loop_is_an_error() {
    let server = Server::start(ServerVersion::Http1, |_| redirect(302, "/round"));
    let error = with_secrets(&server.url())
        .send(secret_get("/round"))
        .await
        .expect_err("a loop");
    assert_eq!(error.kind, TransportErrorKind::Redirect);
    assert_eq!(server.requests().len(), 6);
}

//! Secrets go to the base URL's origin and to no other, whatever a server answers.

use http::header::{HeaderName, HeaderValue};
use http::{Method, Response};
use secrecy::SecretString;
use tinkers_core::{HttpRequest, RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_transport::{CloudflareAccess, Credential, HttpTransport, Protocol};

use common::{Answer, Seen, Server, Speak, answer, client, get, post, respond};

mod common;

const SECRETS: [&str; 5] = [
    "x-api-key",
    "cf-access-client-id",
    "cf-access-client-secret",
    "x-default",
    "x-of-the-request",
];

fn redirect(status: u16, to: &str) -> Answer {
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
        .credential(Credential::api_key("tml-hush"))
        .cloudflare_access(CloudflareAccess {
            client_id: SecretString::from("hush-id"),
            client_secret: SecretString::from("hush-secret"),
        })
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

fn carried(seen: &Seen) -> Vec<&str> {
    SECRETS
        .into_iter()
        .filter(|name| seen.headers.contains_key(*name))
        .collect()
}

#[tokio::test]
async fn a_redirect_to_another_port_carries_no_secret() {
    let other = Server::start(Speak::Http1, |_| answer("there"));
    let to = format!("{}/there?signed=1", other.url());
    let server = Server::start(Speak::Http1, move |_| redirect(302, &to));
    let transport = with_secrets(&server.url());
    let response = transport.send(secret_get("/here")).await.expect("answered");
    assert_eq!(response.body, "there");
    assert_eq!(carried(&server.seen()[0]), SECRETS);
    let seen = &other.seen()[0];
    assert_eq!(carried(seen), [""; 0]);
    assert!(
        !format!("{:?}", seen.headers).contains("hush"),
        "{:?}",
        seen.headers
    );
    assert_eq!(seen.uri, "/there?signed=1");
    assert_eq!(
        seen.header("host"),
        Some(other.address.to_string().as_str())
    );
    assert_eq!(seen.header("accept"), Some("application/json"));
}

#[tokio::test]
async fn a_redirect_within_the_origin_carries_them() {
    let server = Server::start(Speak::Http1, |seen| match seen.uri.path() {
        "/base/here" => redirect(307, "/base/there"),
        _ => answer("there"),
    });
    let transport = with_secrets(&format!("{}/base", server.url()));
    let response = transport.send(secret_get("/here")).await.expect("answered");
    assert_eq!(response.body, "there");
    let seen = server.seen();
    assert_eq!(seen[1].uri, "/base/there");
    assert_eq!(
        (carried(&seen[0]), carried(&seen[1])),
        (SECRETS.to_vec(), SECRETS.to_vec())
    );
}

#[tokio::test]
async fn who_left_once_gets_no_secret_back_at_home() {
    let home = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let back = std::sync::Arc::clone(&home);
    let other = Server::start(Speak::Http1, move |_| {
        redirect(302, back.get().expect("set"))
    });
    let to = other.url();
    let server = Server::start(Speak::Http1, move |seen| match seen.uri.path() {
        "/here" => redirect(302, &to),
        _ => answer("home"),
    });
    home.set(format!("{}/again", server.url())).expect("once");
    let response = with_secrets(&server.url())
        .send(secret_get("/here"))
        .await
        .expect("answered");
    assert_eq!(response.body, "home");
    let seen = server.seen();
    assert_eq!((seen.len(), carried(&seen[1])), (2, Vec::new()));
}

#[tokio::test]
async fn a_post_keeps_its_body_within_the_origin_and_goes_nowhere_else() {
    let other = Server::start(Speak::Http1, |_| answer("there"));
    let to = other.url();
    let server = Server::start(Speak::Http1, move |seen| match seen.uri.path() {
        "/308" => redirect(308, "/end"),
        "/302" => redirect(302, "/end"),
        "/away" => redirect(307, &to),
        _ => answer(seen.body),
    });
    let transport = with_secrets(&server.url());
    let response = transport
        .send(post("/308", RouteClass::Train, "data"))
        .await
        .expect("answered");
    assert_eq!(response.body, "data");
    assert_eq!(server.seen()[1].method, Method::POST);
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
async fn prior_knowledge_of_the_own_server_is_none_of_another() {
    let other = Server::start(Speak::Http1, |_| answer("there"));
    let to = format!("{}/there", other.url());
    let server = Server::start(Speak::Http2, move |_| redirect(302, &to));
    let transport = client(&server.url())
        .protocol(Protocol::Http2PriorKnowledge)
        .build()
        .expect("valid");
    let response = transport.send(secret_get("/here")).await.expect("answered");
    assert_eq!(response.body, "there");
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn a_circle_ends() {
    let server = Server::start(Speak::Http1, |_| redirect(302, "/round"));
    let error = with_secrets(&server.url())
        .send(secret_get("/round"))
        .await
        .expect_err("a circle");
    assert_eq!(error.kind, TransportErrorKind::Redirect);
    assert_eq!(server.seen().len(), 6);
}

//! Secrets do not occur in logs, spans, errors or `Debug`, at the level `TRACE`, in this crate and its dependencies.

use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine;
use http::Response;
use tinkers_core::call::response_error;
use tinkers_core::{ErrorKind, RouteClass, Transport};
use tinkers_transport::{CloudflareAccess, HttpVersions, ProxyConfig};

use common::{
    API_KEY, RecordedRequest, ResponseFuture, Server, ServerVersion, client, get, listen, post,
    read_head, respond, respond_with, secret, write,
};

mod common;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn secrets_never_occur_in_logs_errors_or_responses() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the first in this process");

    let mut shown = String::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for versions in [HttpVersions::Http1, HttpVersions::Http2PriorKnowledge] {
        let server_version = if versions == HttpVersions::Http1 {
            ServerVersion::Http1
        } else {
            ServerVersion::Http2
        };
        let server = Server::start(server_version, |_| respond_with("fine"));
        let echo = Server::start(server_version, echo);
        let (broken, _) = listen(|mut stream, _| async move {
            let _ = read_head(&mut stream).await;
            write(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            )
            .await;
        });
        let proxies = ProxyConfig::from_variables(|name| {
            (name == "ALL_PROXY").then(|| format!("http://hushuser:hushpass@{broken}"))
        });
        for url in [
            server.url(),
            echo.url(),
            format!("http://{broken}"),
            "http://far.invalid".to_owned(),
        ] {
            let builder = client(&url)
                .cloudflare_access(CloudflareAccess::new("hush-id", "hush-secret"))
                .proxy(proxies.clone())
                .http_versions(versions);
            shown.push_str(&format!("{builder:?}"));
            let transport = builder.build().expect("valid");
            for request in [
                get("/x?token=hush-query", RouteClass::Rest),
                post("/x", RouteClass::Train, "hush-body"),
            ] {
                let mut request = request;
                request.headers.insert(API_KEY, secret("tml-hush-key"));
                let outcome = runtime.block_on(transport.send(request));
                shown.push_str(&format!("{outcome:?}"));
                if let Ok(response) = &outcome {
                    let body = String::from_utf8_lossy(&response.body);
                    let answered = response_error(ErrorKind::Authentication, response);
                    shown.push_str(&format!(
                        "{body} {:?} {answered} {answered:?}",
                        response.headers
                    ));
                    shown.push_str(&String::from_utf8_lossy(answered.body()));
                }
                if let Err(error) = outcome {
                    let source = error
                        .source
                        .as_ref()
                        .map(|source| format!("{source} {source:?}"));
                    shown.push_str(&format!("{error} {source:?}"));
                }
            }
            shown.push_str(&format!("{transport:?} {:?}", transport.base_url()));
        }
        assert_eq!(
            echo.requests().len(),
            2,
            "the echo server received the requests"
        );
        assert!(
            server
                .requests()
                .iter()
                .all(|recorded| recorded.header("x-api-key") == Some("tml-hush-key"))
        );
        assert_eq!(server.requests().len(), 2, "the key was sent");
    }

    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    assert!(
        log.contains("method=GET path=\"/x\" class=\"rest\""),
        "the span is logged:\n{log}"
    );
    assert!(
        log.contains("response received") && log.contains("request failed"),
        "both outcomes are logged"
    );
    for text in [&log, &shown] {
        let found = text.lines().find(|line| line.contains("hush"));
        assert_eq!(found, None);
    }
    assert!(
        shown.contains("no such key: ************ (for ***********)"),
        "the echo is shown with masked secrets"
    );
    // The password of the proxy, and the key at each alignment of base64.
    for base64 in [
        "aHVzaHVzZXI",
        "aHVzaA",
        "dG1sLWh1c2gta",
        "RtbC1odXNoLWtle",
        "0bWwtaHVzaC1rZX",
    ] {
        assert!(!log.contains(base64) && !shown.contains(base64), "{base64}");
    }
}

/// Responds with status 401, and echoes the secrets of the request in several encodings.
fn echo(recorded: RecordedRequest) -> ResponseFuture {
    let (key, secret) = (
        recorded.header("x-api-key").expect("a key"),
        recorded
            .header("cf-access-client-secret")
            .expect("a secret"),
    );
    let base64 = base64::engine::general_purpose::STANDARD.encode(format!("key {key}"));
    let body = format!(r#"{{"detail": "no such key: {key} (for {secret}), {base64}"}}"#);
    respond(
        Response::builder()
            .status(401)
            .header("www-authenticate", format!("Key realm=\"{key}\""))
            .body(body.into())
            .expect("valid"),
    )
}

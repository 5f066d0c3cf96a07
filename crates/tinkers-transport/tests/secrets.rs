//! No key in any log, span, error or `Debug`, at the most talkative level, of this crate or those below.

use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine;
use http::Response;
use secrecy::SecretString;
use tinkers_core::call::answer_error;
use tinkers_core::{ErrorKind, RouteClass, Transport};
use tinkers_transport::{CloudflareAccess, Credential, Protocol, ProxyConfig};

use common::{
    Answer, Seen, Server, Speak, answer, client, get, listen, post, read_head, respond, write,
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
fn no_secret_is_ever_shown() {
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
    for protocol in [Protocol::Http1, Protocol::Http2PriorKnowledge] {
        let speak = if protocol == Protocol::Http1 {
            Speak::Http1
        } else {
            Speak::Http2
        };
        let server = Server::start(speak, |_| answer("fine"));
        let echo = Server::start(speak, echo);
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
                .credential(Credential::api_key("tml-hush-key"))
                .cloudflare_access(CloudflareAccess {
                    client_id: SecretString::from("hush-id"),
                    client_secret: SecretString::from("hush-secret"),
                })
                .proxy(proxies.clone())
                .protocol(protocol);
            shown.push_str(&format!("{builder:?}"));
            let transport = builder.build().expect("valid");
            for request in [
                get("/x?token=hush-query", RouteClass::Rest),
                post("/x", RouteClass::Train, "hush-body"),
            ] {
                let outcome = runtime.block_on(transport.send(request));
                shown.push_str(&format!("{outcome:?}"));
                if let Ok(response) = &outcome {
                    let body = String::from_utf8_lossy(&response.body);
                    let told = answer_error(ErrorKind::Authentication, response);
                    shown.push_str(&format!("{body} {:?} {told} {told:?}", response.headers));
                    shown.push_str(&String::from_utf8_lossy(told.body()));
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
        assert_eq!(echo.seen().len(), 2, "a control: it had what to echo");
        assert!(
            server
                .seen()
                .iter()
                .all(|seen| seen.header("x-api-key") == Some("tml-hush-key"))
        );
        assert_eq!(
            server.seen().len(),
            2,
            "the negative control: the key was in use"
        );
    }

    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    assert!(
        log.contains("method=GET path=\"/x\" class=\"rest\""),
        "the log is there:\n{log}"
    );
    assert!(
        log.contains("answered") && log.contains("failed"),
        "both outcomes are there"
    );
    for text in [&log, &shown] {
        let found = text.lines().find(|line| line.contains("hush"));
        assert_eq!(found, None);
    }
    assert!(
        shown.contains("no such key: ************ (for ***********)"),
        "a control: the echo is there, without what it echoed"
    );
    // Of the proxy's password, and of the key behind one, two or no other bytes.
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

/// A server that refuses, and repeats what it was given in every way it can think of.
fn echo(seen: Seen) -> Answer {
    let (key, secret) = (
        seen.header("x-api-key").expect("a key"),
        seen.header("cf-access-client-secret").expect("a secret"),
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

//! Authentication by API key.

mod support;

use http::Method;
use support::{test_server, test_server_with};
use tinkers_local::{InProcess, LocalConfig, Script};

const SESSIONS: &str = "/api/v1/sessions";

#[tokio::test]
async fn only_the_configured_api_key_is_accepted() {
    let server = test_server_with(
        LocalConfig::default().with_api_key("tml-right"),
        Script::default(),
    );
    let sessions = async |headers: &[(&'static str, &str)]| {
        server.send(Method::GET, SESSIONS, "", headers).await
    };
    let absent = sessions(&[]).await;
    assert_eq!(
        (absent.status, absent.reason().contains("X-API-Key")),
        (401, true),
        "{}",
        absent.reason()
    );
    for wrong in ["", "tml-righ", "tml-right ", "tml-wrong"] {
        let refused = sessions(&[("x-api-key", wrong)]).await;
        assert_eq!(refused.status, 401, "{wrong}");
        assert!(!refused.reason().contains("tml-"), "{}", refused.reason());
    }
    assert_eq!(sessions(&[("x-api-key", "tml-right")]).await.status, 200);
    // Without a key, unknown routes get a 401 too; only the health check needs no key.
    assert_eq!(server.get("nope").await.status, 401);
    assert_eq!(server.get("healthz").await.status, 200);
    let client = InProcess::new(server.local().clone()).with_api_key("tml-right");
    let request =
        tinkers_core::HttpRequest::new(Method::GET, SESSIONS, tinkers_core::RouteClass::Rest);
    assert_eq!(
        tinkers_core::Transport::send(&client, request)
            .await
            .unwrap()
            .status,
        200
    );
    let shown = format!("{client:?} {:?}", server.journal.entries());
    assert!(!shown.contains("tml-"), "{shown}");
}

#[tokio::test]
async fn any_api_key_is_accepted_if_no_api_key_is_configured() {
    let server = test_server();
    for headers in [
        &[][..],
        &[("x-api-key", "tml-any")][..],
        &[("x-api-key", "")][..],
    ] {
        assert_eq!(
            server.send(Method::GET, SESSIONS, "", headers).await.status,
            200
        );
    }
}

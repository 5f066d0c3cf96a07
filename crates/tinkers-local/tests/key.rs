//! Who is let in.

mod support;

use http::Method;
use support::{world, world_with};
use tinkers_local::{InProcess, LocalConfig, Script};

const SESSIONS: &str = "/api/v1/sessions";

#[tokio::test]
async fn with_a_key_only_that_key_is_taken() {
    let world = world_with(
        LocalConfig::default().with_api_key("tml-right"),
        Script::default(),
    );
    let ask = async |headers: &[(&'static str, &str)]| {
        world.send(Method::GET, SESSIONS, "", headers).await
    };
    let absent = ask(&[]).await;
    assert_eq!(
        (absent.status, absent.reason().contains("X-API-Key")),
        (401, true),
        "{}",
        absent.reason()
    );
    for wrong in ["", "tml-righ", "tml-right ", "tml-wrong"] {
        let refused = ask(&[("x-api-key", wrong)]).await;
        assert_eq!(refused.status, 401, "{wrong}");
        assert!(!refused.reason().contains("tml-"), "{}", refused.reason());
    }
    assert_eq!(ask(&[("x-api-key", "tml-right")]).await.status, 200);
    // Without a key nothing is told, not even whether there is such a route, except that the server is up.
    assert_eq!(world.get("nope").await.status, 401);
    assert_eq!(world.get("healthz").await.status, 200);
    let client = InProcess::new(world.client.server().clone()).with_api_key("tml-right");
    let request =
        tinkers_core::HttpRequest::new(Method::GET, SESSIONS, tinkers_core::RouteClass::Rest);
    assert_eq!(
        tinkers_core::Transport::send(&client, request)
            .await
            .unwrap()
            .status,
        200
    );
    let shown = format!("{client:?} {:?}", world.journal.entries());
    assert!(!shown.contains("tml-"), "{shown}");
}

#[tokio::test]
async fn without_a_key_any_is_taken() {
    let world = world();
    for headers in [
        &[][..],
        &[("x-api-key", "tml-any")][..],
        &[("x-api-key", "")][..],
    ] {
        assert_eq!(
            world.send(Method::GET, SESSIONS, "", headers).await.status,
            200
        );
    }
}

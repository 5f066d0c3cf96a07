//! Clients of several owners, and of keys without permissions, over sockets.

use tinkers::prelude::*;
use tinkers_e2e::training::{datum, step};
use tinkers_e2e::{SCRIPTED, SocketServer};
use tinkers_local::{AccessControl, AccessKey, LocalConfig, Permission};

const ALICE: &str = "tml-alice";
const BOB: &str = "tml-bob";

fn server(access: AccessControl) -> SocketServer {
    let mut config = LocalConfig::default();
    config.access = access;
    SocketServer::start(config)
}

async fn client(server: &SocketServer, key: &str) -> ServiceClient {
    let builder = server.client_builder().api_key(key);
    builder.connect().await.expect("connected")
}

/// Trains a model and samples from it. Returns the paths of a training checkpoint and of sampler weights.
async fn train(service: &ServiceClient) -> [String; 2] {
    let training = service.create_lora_training_client(SCRIPTED).await.unwrap();
    for token in 0..3 {
        let pass = training.forward_backward([datum(token)], LossFn::CrossEntropy);
        pass.await.unwrap();
        step(&training).await.unwrap();
    }
    let saved = training.save_state("a").await.unwrap();
    let weights = training.save_weights_for_sampler("b").await.unwrap();
    let weights = weights.path.expect("a path");
    let sampler = service.create_sampling_client(&weights).await.unwrap();
    sampler.sample(vec![1]).await.unwrap();
    [saved.path.to_string(), weights.to_string()]
}

#[tokio::test]
async fn two_owners_train_in_parallel_on_one_server() {
    let exchanged = std::time::Duration::from_secs(600);
    for lifetime in [None, Some(exchanged)] {
        let mut access = AccessControl::default()
            .with_access_key(AccessKey::new(ALICE, "alice"))
            .with_access_key(AccessKey::new(BOB, "bob"));
        if let Some(lifetime) = lifetime {
            access = access.with_token_exchange(lifetime);
        }
        let server = server(access);
        let (alice, bob) = (client(&server, ALICE).await, client(&server, BOB).await);
        let ([state, weights], _) = tokio::join!(train(&alice), train(&bob));
        let error = bob.create_training_client_from_state(&state).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&state), "{error}");
        let error = bob.create_sampling_client(&weights).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        // Another client of the same owner can use both.
        let alice = client(&server, ALICE).await;
        alice
            .create_training_client_from_state(&state)
            .await
            .unwrap();
        alice.create_sampling_client(&weights).await.unwrap();
        server.stop();
    }
}

#[tokio::test]
async fn missing_permission_is_named_in_the_error_of_the_call() {
    let key = AccessKey::new(ALICE, "alice");
    let access =
        AccessControl::default().with_access_key(key.with_permissions([Permission::Sample]));
    let server = server(access);
    let service = client(&server, ALICE).await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    sampler.sample(vec![1]).await.unwrap();
    let error = service.create_lora_training_client(SCRIPTED).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = error.to_string();
    assert!(text.contains("permission \"train\""), "{text}");
    assert!(text.contains("use a key with this permission"), "{text}");
    server.stop();
}

#[tokio::test]
async fn unknown_and_missing_keys_are_authentication_errors() {
    let access = AccessControl::default().with_access_key(AccessKey::new(ALICE, "alice"));
    let server = server(access);
    let unknown = server.client_builder().api_key(BOB).connect().await;
    let missing = server.client().await;
    for error in [unknown.unwrap_err(), missing.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Authentication);
        let text = format!("{error:#}");
        assert!(text.contains("API key") && !text.contains("tml-"), "{text}");
    }
    server.stop();
}

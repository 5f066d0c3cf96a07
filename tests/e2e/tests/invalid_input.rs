//! Invalid input: the error has the right kind and names the field. If the client can detect the
//! mistake, it sends no request.

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::{LoraConfig, Sent};
use tinkers_e2e::training::{datum, model_of};
use tinkers_e2e::{SCRIPTED, SocketServer};
use tinkers_local::LocalConfig;

/// Waits for a call with invalid input, which must fail within a second, and returns its error.
#[expect(
    clippy::disallowed_methods,
    reason = "limits the duration of a call over sockets"
)]
async fn error_of<T>(call: impl Future<Output = Result<T, Error>>) -> Error {
    match tokio::time::timeout(Duration::from_secs(1), call).await {
        Ok(Ok(_)) => panic!("invalid input was accepted"),
        Ok(Err(error)) => error,
        Err(_) => panic!("no error within a second"),
    }
}

#[tokio::test]
async fn calls_with_invalid_arguments_name_the_field_and_send_no_request() {
    let server = SocketServer::start(LocalConfig::default());
    let service = server.client().await.unwrap();
    let training = model_of(&service).await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    // Heartbeats arrive at any time, so they are not counted.
    let request_count = || {
        server
            .journal
            .entries()
            .iter()
            .filter(|e| !e.route.ends_with("heartbeat"))
            .count()
    };
    let count_before = request_count();

    let short = Datum::new(vec![1, 2, 3]).with("target_tokens", vec![2i64, 3]);
    let nan = datum(1).with("weights", vec![1.0, f32::NAN]);
    let floats = Datum::new(vec![1, 2]).with("target_tokens", vec![1.0f32, 2.0]);
    let huge = Datum::new(vec![1, u32::MAX]).with("target_tokens", vec![1i64, 2]);
    let negative = Datum::new(vec![1, 2]).with("target_tokens", vec![1i64, -7]);
    let short_lived = training.save_state("a").ttl(Duration::from_secs(5));
    let rank_0 = service
        .create_lora_training_client(SCRIPTED)
        .lora_config(LoraConfig::rank(0));
    let ce = || LossFn::CrossEntropy;
    let pass = |data: Vec<Datum>, loss| training.forward_backward(data, loss);
    let rows: Vec<(&str, Error)> = vec![
        ("data", error_of(pass(vec![], ce())).await),
        (
            "data[1].loss_fn_inputs.target_tokens",
            error_of(pass(vec![datum(1), short], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.weights.data",
            error_of(pass(vec![nan], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.target_tokens",
            error_of(pass(vec![floats], ce())).await,
        ),
        (
            "data[0].model_input.chunks[0].tokens",
            error_of(pass(vec![huge], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.target_tokens",
            error_of(pass(vec![negative], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.logprobs",
            error_of(pass(vec![datum(1)], LossFn::Ppo)).await,
        ),
        (
            "loss_fn",
            "crossentropy"
                .parse::<LossFn>()
                .map_err(Error::from)
                .unwrap_err(),
        ),
        (
            "learning_rate",
            error_of(training.optim_step(AdamParams::new(f64::NAN))).await,
        ),
        ("name", error_of(training.save_state("a/b").send()).await),
        ("ttl_seconds", error_of(short_lived.send()).await),
        (
            "max_tokens",
            error_of(sampler.sample(vec![1]).max_tokens(0).send()).await,
        ),
        (
            "num_samples",
            error_of(sampler.sample(vec![1]).num_samples(0).send()).await,
        ),
        (
            "temperature",
            error_of(sampler.sample(vec![1]).temperature(-1.0).send()).await,
        ),
        (
            "prompt.chunks",
            error_of(sampler.sample(Vec::new()).max_tokens(1).send()).await,
        ),
        (
            "prompt.chunks[0].tokens",
            error_of(sampler.sample(vec![u32::MAX]).max_tokens(1).send()).await,
        ),
        (
            "path",
            error_of(service.create_training_client_from_state(" ").send()).await,
        ),
        (
            "path",
            error_of(
                service
                    .create_sampling_client("tinker://run/weights/\n")
                    .send(),
            )
            .await,
        ),
        (
            "source",
            error_of(service.create_sampling_client("").send()).await,
        ),
        (
            "base_model",
            error_of(service.create_lora_training_client("").send()).await,
        ),
        ("lora_config.rank", error_of(rank_0.send()).await),
    ];
    for (field, error) in rows {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert_eq!(error.field(), Some(field), "{error}");
        assert_eq!(error.sent(), Sent::NotSent, "{error}");
        assert!(error.to_string().contains("expected"), "{error}");
    }
    assert_eq!(request_count(), count_before, "nothing was sent");
    // The failed calls took no sequence numbers, so later calls succeed.
    pass(vec![datum(1)], ce()).await.unwrap();
    server.stop();
}

#[tokio::test]
async fn errors_for_rejections_by_the_server_name_the_field() {
    let server = SocketServer::start(LocalConfig::default());
    let service = server.client().await.unwrap();
    let training = model_of(&service).await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    let missing = service.create_training_client_from_state("tinker://run/weights/none");
    let unknown_token = Datum::next_token(&[1, 999, 3], vec![1.0; 2]).unwrap();
    let rows = [
        (
            "tokens",
            error_of(training.forward_backward([unknown_token], LossFn::CrossEntropy)).await,
        ),
        (
            "prompt",
            error_of(sampler.sample(vec![999]).max_tokens(1).send()).await,
        ),
        (
            "base_model",
            error_of(service.create_lora_training_client("no/such-model").send()).await,
        ),
        ("path", error_of(missing.send()).await),
    ];
    for (field, error) in rows {
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert!(
            matches!(error.kind(), ErrorKind::Rejected | ErrorKind::NotFound),
            "{error:?}"
        );
        assert!(error.status().is_some());
    }
    training.recover().unwrap();
    let unknown_loss = LossFn::Other("mystery".into());
    let error = error_of(training.forward_backward([datum(1)], unknown_loss)).await;
    assert!(error.to_string().contains("loss_fn"), "{error}");
    server.stop();
}

#[tokio::test]
async fn invalid_address_or_key_has_a_typed_error() {
    let connect = |url: &str, key: &str| {
        ServiceClient::builder()
            .without_environment()
            .base_url(url)
            .api_key(key)
            .connect()
    };

    let error = error_of(connect("127.0.0.1:8000", "tml-x")).await;
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::InvalidInput, Some("base_url"))
    );

    let hosted = "https://tinker.thinkingmachines.dev/services/tinker-prod";
    let error = error_of(connect(hosted, "sk-not-a-tinker-key")).await;
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::InvalidInput, Some("api_key"))
    );
    assert_eq!(error.sent(), Sent::NotSent);
    assert!(
        !format!("{error} {error:?}").contains("sk-not"),
        "the key must not be in the error"
    );

    // No process listens on this port, because its listener is closed.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = error_of(connect(&format!("http://127.0.0.1:{port}"), "tml-x")).await;
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Connection, Sent::NotSent)
    );

    let server = SocketServer::start(LocalConfig::default().with_api_key("tml-right"));
    let error = error_of(server.client()).await;
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Authentication, Some(401))
    );
    let error = error_of(connect(&server.url, "tml-wrong")).await;
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Authentication, Some(401))
    );
    assert!(!format!("{error} {error:?}").contains("tml-wrong"));
    connect(&server.url, "tml-right").await.unwrap();
    server.stop();
}

#[tokio::test]
async fn response_of_a_server_that_is_not_tinker_has_a_typed_error() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot Found",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
        "220 smtp.example.org ESMTP\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
        });
        let error = error_of(
            ServiceClient::builder()
                .without_environment()
                .base_url(&url)
                .connect(),
        )
        .await;
        assert!(
            matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Connection),
            "{response}: {error:?}"
        );
        server.join().unwrap();
    }
}

//! Bad input: a clear typed error that names the field, and nothing sent where the caller is at fault.

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::{LoraConfig, Sent};
use tinkers_e2e::{SCRIPTED, Served};
use tinkers_local::LocalConfig;

/// The error of `work`, which must come within a second.
#[expect(
    clippy::disallowed_methods,
    reason = "real time over real sockets, and a promise about it"
)]
async fn soon<T>(work: impl Future<Output = Result<T, Error>>) -> Error {
    match tokio::time::timeout(Duration::from_secs(1), work).await {
        Ok(Ok(_)) => panic!("bad input was taken"),
        Ok(Err(error)) => error,
        Err(_) => panic!("no error within a second"),
    }
}

fn next_token() -> Datum {
    Datum::next_token(&[1, 2, 3], vec![1.0; 2]).unwrap()
}

#[tokio::test]
async fn the_callers_faults_are_named_and_nothing_is_sent() {
    let served = Served::start(LocalConfig::default());
    let service = served.client().await.unwrap();
    let training = service
        .lora_training(SCRIPTED)
        .rank(4)
        .create()
        .await
        .unwrap();
    let sampler = service.sampling(SCRIPTED).create().await.unwrap();
    // A heartbeat may come at any time; anything else that is asked from here on would be a fault.
    let asked = || {
        served
            .parts
            .journal
            .entries()
            .iter()
            .filter(|e| !e.route.ends_with("heartbeat"))
            .count()
    };
    let before = asked();

    let short = Datum::new(vec![1, 2, 3]).with("target_tokens", vec![2i64, 3]);
    let nan = next_token().with("weights", vec![1.0, f32::NAN]);
    let floats = Datum::new(vec![1, 2]).with("target_tokens", vec![1.0f32, 2.0]);
    let huge = Datum::new(vec![1, u32::MAX]).with("target_tokens", vec![1i64, 2]);
    let negative = Datum::new(vec![1, 2]).with("target_tokens", vec![1i64, -7]);
    let short_lived = SaveState::named("a").ttl(Duration::from_secs(5));
    let rank_0 = service
        .lora_training(SCRIPTED)
        .lora_config(LoraConfig::rank(0));
    let ce = || LossFn::CrossEntropy;
    let pass = |data: Vec<Datum>, loss| training.forward_backward(data, loss);
    let rows: Vec<(&str, Error)> = vec![
        ("data", soon(pass(vec![], ce())).await),
        (
            "data[1].loss_fn_inputs.target_tokens",
            soon(pass(vec![next_token(), short], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.weights.data",
            soon(pass(vec![nan], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.target_tokens",
            soon(pass(vec![floats], ce())).await,
        ),
        (
            "data[0].model_input.chunks[0].tokens",
            soon(pass(vec![huge], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.target_tokens",
            soon(pass(vec![negative], ce())).await,
        ),
        (
            "data[0].loss_fn_inputs.logprobs",
            soon(pass(vec![next_token()], LossFn::Ppo)).await,
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
            soon(training.optim_step(AdamParams::new(f64::NAN))).await,
        ),
        ("name", soon(training.save_state("a/b")).await),
        ("ttl_seconds", soon(training.save_state(short_lived)).await),
        (
            "max_tokens",
            soon(sampler.sample(vec![1]).max_tokens(0).send()).await,
        ),
        (
            "num_samples",
            soon(sampler.sample(vec![1]).num_samples(0).send()).await,
        ),
        (
            "temperature",
            soon(sampler.sample(vec![1]).temperature(-1.0).send()).await,
        ),
        (
            "prompt.chunks",
            soon(sampler.sample(Vec::new()).max_tokens(1).send()).await,
        ),
        (
            "prompt.chunks[0].tokens",
            soon(sampler.sample(vec![u32::MAX]).max_tokens(1).send()).await,
        ),
        (
            "path",
            soon(
                service
                    .training_from_state("weights/x", RestoreOptimizer::No)
                    .create(),
            )
            .await,
        ),
        (
            "path",
            soon(service.sampling("http://run/weights/x").create()).await,
        ),
        ("source", soon(service.sampling("").create()).await),
        ("base_model", soon(service.lora_training("").create()).await),
        ("lora_config.rank", soon(rank_0.create()).await),
    ];
    for (field, error) in rows {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert_eq!(error.field(), Some(field), "{error}");
        assert_eq!(error.sent(), Sent::NotSent, "{error}");
        assert!(error.to_string().contains("expected"), "{error}");
    }
    assert_eq!(asked(), before, "something was sent");
    // No number was used up either: training goes on.
    pass(vec![next_token()], ce()).await.unwrap();
    served.stop();
}

#[tokio::test]
async fn what_only_the_server_knows_it_says_by_field() {
    let served = Served::start(LocalConfig::default());
    let service = served.client().await.unwrap();
    let training = service
        .lora_training(SCRIPTED)
        .rank(4)
        .create()
        .await
        .unwrap();
    let sampler = service.sampling(SCRIPTED).create().await.unwrap();
    let nowhere = service.training_from_state("tinker://run/weights/none", RestoreOptimizer::No);
    let outside = Datum::next_token(&[1, 999, 3], vec![1.0; 2]).unwrap();
    let rows = [
        (
            "tokens",
            soon(training.forward_backward([outside], LossFn::CrossEntropy)).await,
        ),
        (
            "prompt",
            soon(sampler.sample(vec![999]).max_tokens(1).send()).await,
        ),
        (
            "base_model",
            soon(service.lora_training("no/such-model").create()).await,
        ),
        ("path", soon(nowhere.create()).await),
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
    let mystery = LossFn::Other("mystery".into());
    let error = soon(training.forward_backward([next_token()], mystery)).await;
    assert!(error.to_string().contains("loss_fn"), "{error}");
    served.stop();
}

#[tokio::test]
async fn a_wrong_address_or_key_says_so() {
    let connect = |url: &str, key: &str| {
        ServiceClient::builder()
            .without_environment()
            .base_url(url)
            .api_key(key)
            .connect()
    };

    let error = soon(connect("127.0.0.1:8000", "tml-x")).await;
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::InvalidInput, Some("base_url"))
    );

    let hosted = "https://tinker.thinkingmachines.dev/services/tinker-prod";
    let error = soon(connect(hosted, "sk-not-a-tinker-key")).await;
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::InvalidInput, Some("api_key"))
    );
    assert_eq!(error.sent(), Sent::NotSent);
    assert!(
        !format!("{error} {error:?}").contains("sk-not"),
        "the key is not repeated"
    );

    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = soon(connect(&format!("http://127.0.0.1:{port}"), "tml-x")).await;
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Connection, Sent::NotSent)
    );

    let served = Served::start(LocalConfig::default().with_api_key("tml-right"));
    let error = soon(served.client()).await;
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Authentication, Some(401))
    );
    let error = soon(connect(&served.url, "tml-wrong")).await;
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Authentication, Some(401))
    );
    assert!(!format!("{error} {error:?}").contains("tml-wrong"));
    connect(&served.url, "tml-right").await.unwrap();
    served.stop();
}

#[tokio::test]
async fn a_server_that_is_no_tinker_server_is_told_from_one() {
    for answer in [
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
            let _ = stream.write_all(answer.as_bytes());
        });
        let error = soon(
            ServiceClient::builder()
                .without_environment()
                .base_url(&url)
                .connect(),
        )
        .await;
        assert!(
            matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Connection),
            "{answer}: {error:?}"
        );
        server.join().unwrap();
    }
}

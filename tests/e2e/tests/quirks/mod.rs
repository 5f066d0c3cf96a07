//! Clients of servers with each quirk that the embedded server can imitate.

mod table;
mod tour;

use std::time::Duration;

use tinkers::Sent;
use tinkers::wire::routes;
use tinkers_e2e::SocketServer;
use tinkers_local::{LocalConfig, Quirk};

use table::{Expected, ROWS};
use tour::{Tour, foreign};

use crate::options_builder::with_timeout;

/// The longest time that a tour may take. A retry for minutes exceeds it.
const LONGEST: Duration = Duration::from_secs(90);

#[test]
fn each_quirk_has_one_row() {
    for quirk in Quirk::ALL {
        let rows = ROWS.iter().filter(|(named, _)| named == quirk);
        assert_eq!(rows.count(), 1, "{quirk}");
    }
}

/// Checks all rows of the table, and reports all that do not hold.
#[tokio::test(start_paused = true)]
async fn client_handles_each_quirk_as_its_row_says() {
    let mut failures = Vec::new();
    for (quirk, expected) in ROWS {
        let tour = Tour::take(foreign(&[*quirk])).await;
        if let Err(why) = check(&tour, expected) {
            failures.push(format!("{quirk}: {why}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Checks the rows again for servers that also reject protobuf bodies, as servers with JSON bodies do.
#[tokio::test(start_paused = true)]
async fn client_handles_each_quirk_of_a_json_server() {
    let mut failures = Vec::new();
    for (quirk, expected) in ROWS {
        let config = foreign(&[*quirk, Quirk::Protobuf415]);
        let tour = Tour::take(config).await;
        if let Err(why) = check(&tour, expected) {
            failures.push(format!("{quirk}: {why}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn check(tour: &Tour, expected: &Expected) -> Result<(), String> {
    if tour.took > LONGEST {
        return Err(format!("the tour took {:?}: {:?}", tour.took, tour.failure));
    }
    match (expected, &tour.failure) {
        (Expected::Works, None) => Ok(()),
        (Expected::Fails { at, kind, says }, Some((step, error))) => {
            let is_expected =
                step == at && error.kind() == *kind && error.to_string().contains(says);
            match is_expected {
                true => Ok(()),
                false => Err(format!("failed at {step} with {:?}: {error}", error.kind())),
            }
        }
        (Expected::Fails { at, .. }, None) => Err(format!("did not fail at {at}")),
        (Expected::Works, Some((step, error))) => {
            Err(format!("failed at {step} with {:?}: {error}", error.kind()))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sampler_creation_with_a_repeated_500_is_attempted_three_times() {
    let tour = Tour::take(foreign(&[Quirk::Sampler500])).await;
    assert_eq!(tour.journal.of(routes::CREATE_SAMPLING_SESSION).len(), 3);
    let (_, error) = tour.failure.expect("no sampler");
    // Each attempt may have created a sampler.
    assert_eq!(error.sent(), Sent::MaybeSent, "{error}");
    assert!(tour.took < Duration::from_secs(10), "{:?}", tour.took);
}

#[tokio::test(start_paused = true)]
async fn rejected_body_format_adds_no_gradients_and_stops_no_model() {
    for quirk in [
        Quirk::Protobuf400,
        Quirk::Protobuf422,
        Quirk::Protobuf500,
        Quirk::Protobuf500Bare,
        Quirk::Protobuf500Opaque,
    ] {
        let tour = Tour::take(foreign(&[quirk])).await;
        assert!(tour.failure.is_none(), "{quirk}: {:?}", tour.failure);
        // The probe comes first, and finds the format with one pass in protobuf and at most one in JSON.
        let passes = tour.journal.of(routes::FORWARD_BACKWARD);
        assert_eq!(passes.len(), 2, "{quirk}: the probe and the pass in JSON");
        let probes = tour.journal.of(routes::FORWARD).len();
        assert!(probes <= 1, "{quirk}: {probes}");
    }
}

#[tokio::test(start_paused = true)]
async fn body_format_is_not_probed_if_the_openapi_document_lists_it() {
    for quirk in [Quirk::DocumentElsewhere, Quirk::DocumentRelative] {
        // The document lists only JSON, so the first pass is not sent in protobuf.
        let tour = Tour::take(foreign(&[quirk, Quirk::Protobuf415])).await;
        assert!(tour.failure.is_none(), "{quirk}: {:?}", tour.failure);
        assert_eq!(
            tour.journal.of(routes::FORWARD_BACKWARD).len(),
            1,
            "{quirk}"
        );
    }
}

#[tokio::test]
async fn client_talks_to_a_server_of_http_1_0() {
    let config = LocalConfig::default().with_quirk(Quirk::Http10);
    let server = SocketServer::start(config);
    let work = async {
        let service = server.client().await.unwrap();
        let training = tinkers_e2e::training::model_of(&service).await;
        tinkers_e2e::training::step(&training).await.unwrap();
    };
    with_timeout(work).await;
    server.stop();
}

//! Whole clients before a server that takes so many samples at once and refuses the rest, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{HintForm, LocalConfig, Window};
use tinkers_session::SessionOptions;

const SAMPLE: Duration = Duration::from_millis(200);
const AT_ONCE: u32 = 20;
const SAMPLES: u32 = 1000;

#[tokio::test(start_paused = true)]
async fn a_thousand_samples_at_once_all_come_back_with_few_refusals() {
    for (hint, form) in [
        (Duration::from_millis(200), HintForm::Milliseconds),
        (Duration::from_secs(1), HintForm::Seconds),
        (Duration::from_secs(1), HintForm::Body),
        (Duration::from_secs(1), HintForm::None),
    ] {
        let mut config = LocalConfig::default();
        config.window = Some(Window::fixed(AT_ONCE).with_hint(hint, form));
        let options = SessionOptions::default();
        let world = InMemory::slow(SAMPLE, config, options, |direct| Arc::new(direct)).await;
        let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
        let mut events = world.service.limiter_events();
        let all: Vec<_> = (0..SAMPLES)
            .map(|i| sampler.sample(vec![i % 200]).max_tokens(1).send())
            .collect();
        for (i, sample) in all.into_iter().enumerate() {
            let reply = sample.await.unwrap();
            assert_eq!(reply.sequences[0].tokens[..], [i as u32 % 200 + 1]);
        }
        let counts = world.server.window_counts().expect("it has a window");
        let what = format!("{form:?} {hint:?}: {counts:?}");
        assert_eq!(counts.accepted, u64::from(SAMPLES), "{what}");
        assert!(counts.refused > 0, "inconclusive: {what}");
        assert!(counts.refused * 20 <= counts.accepted, "{what}");
        assert!(counts.most_in_flight <= u64::from(AT_ONCE), "{what}");
        for event in &counts.events {
            assert!(event.refused <= event.in_flight, "{what}");
        }
        let lane = world.service.limits().sample;
        assert_eq!(
            (lane.waiting, lane.slots, lane.in_flight, lane.bytes),
            (0, 0, 0, 0),
            "{what}"
        );
        assert_eq!(lane.counts.refusals, counts.refused, "{what}");
        assert!(events.try_next().is_some(), "{what}");
    }
}

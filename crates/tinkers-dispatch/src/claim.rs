//! Limits that clients ask for: the strictest of all holds, for as long as somebody asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::Clock;

use crate::limiter::Limiter;
use crate::settings::LimiterSettings;
use crate::sync::{Mutex, lock};

/// Limits that somebody asks for, until it is dropped.
#[derive(Debug)]
#[must_use = "dropped, it asks for nothing"]
pub struct LimitRequest {
    limiter: Arc<Limiter>,
    number: u64,
    time: Arc<dyn Clock>,
}

impl LimitRequest {
    pub(crate) fn new(
        limiter: Arc<Limiter>,
        settings: LimiterSettings,
        time: Arc<dyn Clock>,
    ) -> Self {
        let number = limiter.claims.add(settings);
        let claim = Self {
            limiter,
            number,
            time,
        };
        claim.apply();
        claim
    }

    /// Other limits in place of these, such as those that a server's configuration names.
    pub fn replace(&self, settings: LimiterSettings) {
        self.limiter.claims.replace(self.number, settings);
        self.apply();
    }

    /// Applies what is asked for. Others may do so at the same time with what was asked for before: whoever applies looks again
    /// afterwards, so that the last one to apply leaves what holds.
    fn apply(&self) {
        let claims = &self.limiter.claims;
        let mut effective = claims.effective();
        loop {
            self.limiter.apply(&effective, self.time.now());
            let now = claims.effective();
            if now == effective {
                return;
            }
            effective = now;
        }
    }
}

impl Drop for LimitRequest {
    fn drop(&mut self) {
        self.limiter.claims.remove(self.number);
        self.apply();
    }
}

/// All that is asked for.
#[derive(Debug)]
pub(crate) struct Claims {
    /// What holds while nobody asks.
    usual: LimiterSettings,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    by_number: BTreeMap<u64, LimiterSettings>,
    numbers: u64,
}

impl Claims {
    pub(crate) fn new(usual: LimiterSettings) -> Self {
        Self {
            usual,
            asked: Mutex::new(Asked::default()),
        }
    }

    /// What holds now.
    pub(crate) fn effective(&self) -> LimiterSettings {
        let asked = lock(&self.asked);
        let strictest = asked
            .by_number
            .values()
            .copied()
            .reduce(LimiterSettings::stricter);
        strictest.unwrap_or(self.usual)
    }

    fn add(&self, settings: LimiterSettings) -> u64 {
        let mut asked = lock(&self.asked);
        asked.numbers += 1;
        let number = asked.numbers;
        let differs = asked.by_number.values().any(|other| *other != settings);
        asked.by_number.insert(number, settings);
        drop(asked);
        if differs {
            tracing::warn!(
                "clients of one server and key ask for different limits; the strictest value of each holds for all of them"
            );
        }
        number
    }

    fn replace(&self, number: u64, settings: LimiterSettings) {
        lock(&self.asked).by_number.insert(number, settings);
    }

    fn remove(&self, number: u64) {
        lock(&self.asked).by_number.remove(&number);
    }
}

//! What all sessions of one server and key share: the limits, the retry budget, its outages, the billing pause, what is known of it.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use tinkers_core::{BillingPause, DeprecationNotices, Fact, Outages, ServerProfile};
use tinkers_dispatch::{Limiter, LimiterSettings, SharedRetryBudget};
use tinkers_registry::{Handle, Registry};

use crate::address::EndpointKey;
use crate::reachability::Reachability;

/// A share in an [`EndpointState`], which lives as long as somebody has one.
pub type Endpoint = Handle<EndpointKey, EndpointState>;

/// What is shared between the sessions of one server and key.
#[derive(Debug)]
pub struct EndpointState {
    limiter: Arc<Limiter>,
    budget: Arc<SharedRetryBudget>,
    outages: Arc<Outages>,
    notices: Arc<DeprecationNotices>,
    billing: Arc<BillingPause>,
    profile: ArcSwap<ServerProfile>,
    reachability: Arc<Reachability>,
}

impl EndpointState {
    /// The state of a server of which nothing is known yet.
    pub fn new(limits: LimiterSettings) -> Self {
        Self {
            limiter: Arc::new(Limiter::new(limits)),
            budget: Arc::new(SharedRetryBudget::default()),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Arc::new(BillingPause::default()),
            profile: ArcSwap::default(),
            reachability: Arc::default(),
        }
    }

    /// The limits.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// The allowance for repeats.
    pub fn budget(&self) -> &Arc<SharedRetryBudget> {
        &self.budget
    }

    /// What is known of a server that fails.
    pub fn outages(&self) -> &Arc<Outages> {
        &self.outages
    }

    /// What it said of routes that will go.
    pub fn notices(&self) -> &Arc<DeprecationNotices> {
        &self.notices
    }

    /// The pause for missing money.
    pub fn billing(&self) -> &Arc<BillingPause> {
        &self.billing
    }

    /// Whether the server answers.
    pub(crate) fn reachability(&self) -> &Arc<Reachability> {
        &self.reachability
    }

    /// What is known of the server.
    pub fn profile(&self) -> Arc<ServerProfile> {
        self.profile.load_full()
    }

    /// Remembers something about the server.
    pub fn learn(&self, fact: Fact) {
        self.profile.rcu(|known| {
            let known: &ServerProfile = known;
            known.clone().learn(fact.clone())
        });
    }
}

/// The endpoints in use.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    registry: Registry<EndpointKey, EndpointState>,
}

static SHARED: LazyLock<Endpoints> = LazyLock::new(Endpoints::new);

impl Endpoints {
    /// Endpoints of their own, for tests and for those who want limits that nobody else shares.
    pub fn new() -> Self {
        Self::default()
    }

    /// The endpoints of this process.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// The endpoint of `key`: the one in use, or a new one with the default limits.
    pub fn get_or_create(&self, key: EndpointKey) -> Endpoint {
        self.registry
            .get_or_create(key, || EndpointState::new(LimiterSettings::default()))
    }

    /// How many are in use.
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Whether none is in use.
    pub fn is_empty(&self) -> bool {
        self.registry.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::{BaseUrl, BodyFormat, Deduplication};

    fn key(base_url: &str, credential: &str) -> EndpointKey {
        let address = BaseUrl::parse(base_url).expect("valid");
        EndpointKey::new(address, credential.as_bytes())
    }

    #[test]
    fn two_spellings_of_a_server_share_one_limiter_and_two_keys_do_not() {
        let endpoints = Endpoints::new();
        let one = endpoints.get_or_create(key("http://host:80/", "tml-a"));
        let same = endpoints.get_or_create(key("HTTP://Host", "tml-a"));
        let other = endpoints.get_or_create(key("http://host", "tml-b"));
        assert!(Arc::ptr_eq(one.limiter(), same.limiter()));
        assert!(!Arc::ptr_eq(one.limiter(), other.limiter()));
        drop((one, other));
        assert_eq!(endpoints.len(), 1);
        drop(same);
        assert!(endpoints.is_empty());
    }

    #[test]
    fn what_one_session_learns_the_others_know() {
        let endpoints = Endpoints::new();
        let one = endpoints.get_or_create(key("http://host", ""));
        let other = endpoints.get_or_create(key("http://host", ""));
        one.learn(Fact::Bodies(BodyFormat::Json));
        other.learn(Fact::Deduplicates(Deduplication::Everything));
        assert_eq!(one.profile().bodies, BodyFormat::Json);
        assert_eq!(one.profile().deduplicates, Deduplication::Everything);
    }
}

//! The state that all sessions of one server and key share.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use tinkers_core::{
    BillingPause, DeprecationNotices, Outages, ProfileUpdate, RetryBudget, ServerProfile,
};
use tinkers_dispatch::{Limiter, LimiterSettings};
use tinkers_registry::{Handle, Registry};

use crate::endpoint_key::EndpointKey;
use crate::reachability::Reachability;

/// A shared handle of an [`EndpointState`], which is dropped with its last handle.
pub type Endpoint = Handle<EndpointKey, EndpointState>;

/// The shared state of the sessions of one server and key: limits, retry budget, outages, billing pause and profile.
#[derive(Debug)]
pub struct EndpointState {
    limiter: Arc<Limiter>,
    budget: Arc<RetryBudget>,
    outages: Arc<Outages>,
    notices: Arc<DeprecationNotices>,
    billing: Arc<BillingPause>,
    profile: ArcSwap<ServerProfile>,
    reachability: Arc<Reachability>,
}

impl EndpointState {
    /// Creates the state of a server with an empty profile.
    pub fn new(limits: LimiterSettings) -> Self {
        Self {
            limiter: Arc::new(Limiter::new(limits)),
            budget: Arc::new(RetryBudget::default()),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Arc::new(BillingPause::default()),
            profile: ArcSwap::default(),
            reachability: Arc::default(),
        }
    }

    /// Returns the limiter.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Returns the retry budget.
    pub fn budget(&self) -> &Arc<RetryBudget> {
        &self.budget
    }

    /// Returns the outage detectors.
    pub fn outages(&self) -> &Arc<Outages> {
        &self.outages
    }

    /// Returns the deprecation notices of the server.
    pub fn notices(&self) -> &Arc<DeprecationNotices> {
        &self.notices
    }

    /// Returns the pause after unpaid bills.
    pub fn billing(&self) -> &Arc<BillingPause> {
        &self.billing
    }

    /// Returns the reachability of the server.
    pub(crate) fn reachability(&self) -> &Arc<Reachability> {
        &self.reachability
    }

    /// Returns the profile of the server, as learned so far.
    pub fn profile(&self) -> Arc<ServerProfile> {
        self.profile.load_full()
    }

    /// Adds a fact to the profile.
    pub fn learn(&self, fact: ProfileUpdate) {
        self.profile.rcu(|known| {
            let known: &ServerProfile = known;
            known.clone().learn(fact.clone())
        });
    }
}

/// A registry of the endpoints in use.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    registry: Registry<EndpointKey, EndpointState>,
}

static SHARED: LazyLock<Endpoints> = LazyLock::new(Endpoints::new);

impl Endpoints {
    /// Creates a separate registry, for tests and for limits that are not shared with the rest of the process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the registry of this process.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Returns the endpoint of `key`, or creates it with the default limits.
    pub fn get_or_create(&self, key: EndpointKey) -> Endpoint {
        self.registry
            .get_or_create(key, || EndpointState::new(LimiterSettings::default()))
    }

    /// Returns the number of endpoints in use.
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Returns whether no endpoint is in use.
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
    fn equal_addresses_share_a_limiter_and_different_keys_do_not() {
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
    fn facts_are_shared_by_all_sessions() {
        let endpoints = Endpoints::new();
        let one = endpoints.get_or_create(key("http://host", ""));
        let other = endpoints.get_or_create(key("http://host", ""));
        one.learn(ProfileUpdate::BodyFormat(BodyFormat::Json));
        other.learn(ProfileUpdate::Deduplicates(Deduplication::Everything));
        assert_eq!(one.profile().body_format, BodyFormat::Json);
        assert_eq!(one.profile().deduplicates, Deduplication::Everything);
    }
}

//! Endpoints: the state that all sessions with the same server and API key share.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use tinkers_core::{
    BillingPause, DeprecationNotices, Outages, ProfileUpdate, RetryBudget, ServerProfile,
};
use tinkers_dispatch::{Limiter, LimiterSettings};
use tinkers_registry::{Handle, Registry};

use crate::endpoint_key::EndpointKey;
use crate::reachability::Reachability;

/// A shared handle of an [`EndpointState`]. The state is dropped with its last handle.
pub type Endpoint = Handle<EndpointKey, EndpointState>;

/// The state that all sessions with the same server and API key share: rate limits, retry budget, outage detection, billing pause and server
/// profile.
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
    /// Creates the state of an endpoint with these limits and an empty server profile.
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

    /// Returns the rate limiter that admits the requests of all sessions of the endpoint.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Returns the retry budget, which limits the rate of retries of all sessions of the endpoint when many requests fail.
    pub fn budget(&self) -> &Arc<RetryBudget> {
        &self.budget
    }

    /// Returns the outage detectors of the route classes. When the server responds again after an outage, they end the backoffs of the
    /// requests that wait for their retry.
    pub fn outages(&self) -> &Arc<Outages> {
        &self.outages
    }

    /// Returns the deprecation notices that the server has sent. Each notice is logged once.
    pub fn notices(&self) -> &Arc<DeprecationNotices> {
        &self.notices
    }

    /// Returns the billing pause, which makes all requests wait while the server requires payment (402).
    pub fn billing(&self) -> &Arc<BillingPause> {
        &self.billing
    }

    /// Returns the detector of whether the server is reachable, which decides when an outage is logged.
    pub(crate) fn reachability(&self) -> &Arc<Reachability> {
        &self.reachability
    }

    /// Returns the server profile: the features of the server that are known so far, such as the body formats that it accepts.
    pub fn profile(&self) -> Arc<ServerProfile> {
        self.profile.load_full()
    }

    /// Adds a newly discovered feature of the server to the server profile, which all sessions of the endpoint share.
    pub fn learn(&self, fact: ProfileUpdate) {
        self.profile.rcu(|known| {
            let known: &ServerProfile = known;
            known.clone().learn(fact.clone())
        });
    }
}

/// A registry of the endpoints in use, by which sessions with the same server and API key share one endpoint. Clones share the registry.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    registry: Registry<EndpointKey, EndpointState>,
}

static SHARED: LazyLock<Endpoints> = LazyLock::new(Endpoints::new);

impl Endpoints {
    /// Creates a separate registry, for tests and for sessions that share no rate limits with other sessions of the process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the registry that all sessions of the process use by default.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Returns the endpoint with this key. If no session uses such an endpoint yet, creates it with the default rate limits.
    pub fn get_or_create(&self, key: EndpointKey) -> Endpoint {
        self.registry
            .get_or_create(key, || EndpointState::new(LimiterSettings::default()))
    }

    /// Returns the number of endpoints in the registry. An endpoint is in the registry as long as a session uses it.
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Returns whether the registry contains no endpoint. An endpoint is in the registry as long as a session uses it.
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
    fn equal_base_urls_share_a_limiter_and_different_api_keys_do_not() {
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
    fn server_profile_is_shared_by_all_sessions_of_an_endpoint() {
        let endpoints = Endpoints::new();
        let one = endpoints.get_or_create(key("http://host", ""));
        let other = endpoints.get_or_create(key("http://host", ""));
        one.learn(ProfileUpdate::BodyFormat(BodyFormat::Json));
        other.learn(ProfileUpdate::Deduplicates(Deduplication::Everything));
        assert_eq!(one.profile().body_format, BodyFormat::Json);
        assert_eq!(one.profile().deduplicates, Deduplication::Everything);
    }
}

//! The configurations that imitate servers whose behaviour is a dialect and quirks together.

use http::HeaderName;

use crate::config::LocalConfig;
use crate::dialect::Dialect;
use crate::quirks::Quirk;

/// The quirks of hatchery-core 0.3.0.
const HATCHERY: &[Quirk] = &[
    Quirk::LongPromise,
    Quirk::CapabilitiesModelId,
    Quirk::StepFailsWithoutGradients,
    Quirk::PathCheckpoints,
    Quirk::SamplerPromise,
    Quirk::UnloadDirect,
    Quirk::HatcheryClient,
];

/// The quirks of Twinkle 0.5.1.
const TWINKLE: &[Quirk] = &[
    Quirk::DocumentRelative,
    Quirk::NoConfig,
    Quirk::StepFailsWithoutGradients,
    Quirk::PathTwinkle,
];

impl LocalConfig {
    /// Makes the server imitate hatchery-core 0.3.0: sets the dialect [`Dialect::hatchery`], and adds the quirks of that server. Hatchery
    /// accepts a key in `X-API-Key` and in `Authorization: Bearer`; this server accepts only the former, or with
    /// [`AccessControl::with_bearer_only`](crate::AccessControl::with_bearer_only), for hatchery-client, only the latter.
    pub fn set_hatchery(&mut self) {
        self.dialect = Dialect::hatchery();
        self.quirks.extend(HATCHERY);
    }

    /// Makes the server imitate Twinkle 0.5.1: sets the dialect [`Dialect::twinkle`], adds the quirks of that server, and requires the header
    /// `X-Request-Id`.
    pub fn set_twinkle(&mut self) {
        self.dialect = Dialect::twinkle();
        self.quirks.extend(TWINKLE);
        let request_id = HeaderName::from_static("x-request-id");
        self.access = self.access.clone().with_required_header(request_id);
    }
}

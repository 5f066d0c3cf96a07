//! The profile of a server: the body formats, deduplication and routes that it supports.

use std::collections::BTreeSet;
use std::sync::Arc;

use tinkers_wire::{ApiDocument, routes};

/// The format of a `forward_backward` request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyFormat {
    /// `application/x-protobuf`, which SDK 0.25 and later, the hosted service, TuFT, and SkyRL from August 2026 use.
    Protobuf,
    /// `application/json`, which earlier SDKs and SkyRL 0.3 use.
    Json,
}

impl BodyFormat {
    /// Returns the other of the two body formats, protobuf and JSON.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Protobuf => Self::Json,
            Self::Json => Self::Protobuf,
        }
    }
}

/// Which requests a server deduplicates: it applies such a request only once if the request is sent again with the same `(model, seq_id)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Deduplication {
    /// It is not known whether the server deduplicates any requests.
    Unknown,
    /// The server deduplicates forward-backward passes and optimizer steps, but not saves and loads. This is the behaviour of SkyRL from
    /// August 2026.
    PassesAndSteps,
    /// The server deduplicates all requests. This holds for the hosted service, the embedded server, and servers that declare it in their
    /// configuration.
    Everything,
}

/// Whether a server has an OpenAPI document, as far as the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// The client has not requested the OpenAPI document yet.
    NotAsked,
    /// The OpenAPI document is missing or unreadable.
    Absent,
    /// The client has read the OpenAPI document.
    Read,
}

/// A fact that the client found out about a server, and that updates its [`ServerProfile`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfileUpdate {
    /// The server supports this body format: it accepted a request in this format, or rejected one in the other format.
    BodyFormat(BodyFormat),
    /// The server deduplicates these requests: it applies such a request only once, even if the request is sent again.
    Deduplicates(Deduplication),
    /// The server accepts zstd-compressed bodies of forward-backward passes.
    ZstdBodies,
    /// The name of the server software, as `name/version`.
    Software(String),
    /// The server rejects polls that ask for the size of a large result (`allow_metadata_only`).
    PollsWithoutSize,
    /// The server has no OpenAPI document.
    NoDocument,
    /// The server has this OpenAPI document.
    Document(Box<ApiDocument>),
}

/// The known properties of a server, such as the body formats that it accepts. The default values are safe for every server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerProfile {
    /// The server software as `name/version`, if known.
    pub software: Option<String>,
    /// The format of the request bodies of forward-backward passes.
    pub body_format: BodyFormat,
    /// Whether `body_format` is confirmed by a response of the server or by a choice of the user. If not, it is only assumed.
    pub body_format_confirmed: bool,
    /// The requests that the server is known to deduplicate, that is, to apply only once even if they are sent again.
    pub deduplicates: Deduplication,
    /// Whether the server accepts zstd-compressed bodies of forward-backward passes.
    pub zstd_bodies: bool,
    /// Whether polls may ask for the size of a large result (`allow_metadata_only`) before they fetch the result.
    pub polls_for_size: bool,
    /// Whether the server rejects request bodies with unknown fields. `None` if its OpenAPI document does not say.
    pub is_strict: Option<bool>,
    /// Whether the server has an OpenAPI document, as far as the client knows.
    pub document: Document,
    /// The API paths that the server's OpenAPI document lists.
    paths: Arc<BTreeSet<String>>,
    /// The body formats of forward-backward passes that the server's OpenAPI document lists.
    listed_formats: Vec<BodyFormat>,
}

impl Default for ServerProfile {
    fn default() -> Self {
        Self {
            software: None,
            body_format: BodyFormat::Protobuf,
            body_format_confirmed: false,
            deduplicates: Deduplication::Unknown,
            zstd_bodies: false,
            polls_for_size: true,
            is_strict: None,
            document: Document::NotAsked,
            paths: Arc::default(),
            listed_formats: Vec::new(),
        }
    }
}

/// The title of SkyRL's OpenAPI document, by which the client recognizes that server.
const SKYRL: &str = "Tinker API Mock";

impl ServerProfile {
    /// Returns this profile with the fact `update` added.
    #[must_use]
    pub fn learn(mut self, update: ProfileUpdate) -> Self {
        match update {
            // The first confirmed format stays, since other clients may use it already.
            ProfileUpdate::BodyFormat(_) if self.body_format_confirmed => {}
            ProfileUpdate::BodyFormat(format) => return self.with_body_format(format),
            ProfileUpdate::Deduplicates(which) => self.deduplicates = self.deduplicates.max(which),
            ProfileUpdate::ZstdBodies => self.zstd_bodies = true,
            ProfileUpdate::Software(name) => self.software = Some(name),
            ProfileUpdate::PollsWithoutSize => self.polls_for_size = false,
            ProfileUpdate::NoDocument => self.document = Document::Absent,
            ProfileUpdate::Document(document) => self.read(*document),
        }
        self
    }

    /// Returns this profile with `format` as the body format of forward-backward passes. The format counts as confirmed.
    #[must_use]
    pub fn with_body_format(mut self, format: BodyFormat) -> Self {
        self.body_format = format;
        self.body_format_confirmed = true;
        self
    }

    /// Returns whether the server's OpenAPI document lists this body format for forward-backward passes.
    pub fn lists_body_format(&self, format: BodyFormat) -> bool {
        self.listed_formats.contains(&format)
    }

    /// Returns whether nothing is known about the body formats that the server accepts: the server is of an unknown make, has no OpenAPI
    /// document or one without the route of passes, and no response has shown a format.
    pub fn body_format_is_unknown(&self) -> bool {
        let has_no_route = match self.document {
            Document::Absent => true,
            Document::Read => !self.lists_route(routes::FORWARD_BACKWARD),
            Document::NotAsked => false,
        };
        !self.body_format_confirmed && has_no_route
    }

    /// Returns whether the server's OpenAPI document lists this route.
    pub fn lists_route(&self, route: &str) -> bool {
        self.paths.contains(route)
    }

    fn read(&mut self, document: ApiDocument) {
        let takes = |kind: &str| document.pass_bodies.iter().any(|body| body.contains(kind));
        let listed = [
            (takes("protobuf"), BodyFormat::Protobuf),
            (takes("json"), BodyFormat::Json),
        ];
        let listed = listed.into_iter().filter(|(is, _)| *is);
        self.listed_formats = listed.map(|(_, format)| format).collect();
        // The document may be incomplete, so a confirmed format is kept.
        if !self.body_format_confirmed {
            let first = self.listed_formats.first();
            self.body_format = first.copied().unwrap_or(BodyFormat::Protobuf);
        }
        if document.title == SKYRL && document.optim_step_has_seq_id {
            self.deduplicates = self.deduplicates.max(Deduplication::PassesAndSteps);
        }
        let named = || format!("{}/{}", document.title, document.version);
        self.software.get_or_insert_with(named);
        // A document that does not forbid unknown fields does not promise to accept them.
        self.is_strict = document.forbids_unknown_fields.then_some(true);
        self.document = Document::Read;
        self.paths = Arc::new(document.paths);
    }

    /// Returns the API routes that the server's OpenAPI document does not list. Empty if there is no document.
    pub fn unlisted_routes(&self) -> Vec<&'static str> {
        if self.document != Document::Read {
            return Vec::new();
        }
        let listed = |route: &str| {
            let with_id = format!("{route}/{{");
            self.lists_route(route) || self.paths.iter().any(|path| path.starts_with(&with_id))
        };
        let all = routes::ALL.iter().copied();
        all.filter(|route| !listed(route)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(title: &str, bodies: &[&str], optim_step_has_seq_id: bool) -> ProfileUpdate {
        let mut document = ApiDocument::default();
        document.title = title.to_owned();
        document.version = "1".to_owned();
        document.pass_bodies = bodies.iter().map(|&body| body.to_owned()).collect();
        document.optim_step_has_seq_id = optim_step_has_seq_id;
        document.paths = [routes::ASAMPLE, "/api/v1/samplers/{sampler_id}"]
            .map(str::to_owned)
            .into();
        ProfileUpdate::Document(Box::new(document))
    }

    #[test]
    fn confirmed_body_format_is_not_replaced_by_the_other_format() {
        let profile = ServerProfile::default().learn(ProfileUpdate::BodyFormat(BodyFormat::Json));
        assert_eq!(profile.body_format, BodyFormat::Json);
        let profile = profile.learn(document("x", &["application/x-protobuf"], false));
        assert!(profile.body_format_confirmed && profile.body_format == BodyFormat::Json);
        let profile = profile.learn(ProfileUpdate::BodyFormat(BodyFormat::Protobuf));
        assert_eq!(profile.body_format, BodyFormat::Json);
        // An explicit choice of the user replaces the confirmed format.
        let chosen = profile.with_body_format(BodyFormat::Protobuf);
        assert_eq!(chosen.body_format, BodyFormat::Protobuf);
    }

    #[test]
    fn body_format_is_unknown_without_a_document_that_lists_passes() {
        let profile = ServerProfile::default();
        assert!(!profile.body_format_is_unknown());
        let absent = profile.clone().learn(ProfileUpdate::NoDocument);
        assert!(absent.body_format_is_unknown());
        let other = profile.clone().learn(document("x", &[], false));
        assert!(other.body_format_is_unknown());
        let learned = other.learn(ProfileUpdate::BodyFormat(BodyFormat::Json));
        assert!(!learned.body_format_is_unknown());
        // Some documents list the route of passes without its body.
        let mut listed = ApiDocument::default();
        listed.paths.insert(routes::FORWARD_BACKWARD.to_owned());
        let listed = profile.learn(ProfileUpdate::Document(Box::new(listed)));
        assert!(!listed.body_format_is_unknown());
    }

    #[test]
    fn openapi_document_selects_a_body_format_without_confirming_the_format() {
        let (json, protobuf) = ("application/json", "application/x-protobuf");
        for (listed, expected) in [
            (vec![json], BodyFormat::Json),
            (vec![protobuf], BodyFormat::Protobuf),
            (vec![json, protobuf], BodyFormat::Protobuf),
            // A document that lists no format does not change the default.
            (vec![], BodyFormat::Protobuf),
        ] {
            let profile = ServerProfile::default().learn(document("x", &listed, false));
            assert_eq!(
                (profile.body_format, profile.body_format_confirmed),
                (expected, false)
            );
        }
    }

    #[test]
    fn only_known_servers_are_assumed_to_deduplicate_requests() {
        for (title, numbered, expected) in [
            (SKYRL, true, Deduplication::PassesAndSteps),
            (SKYRL, false, Deduplication::Unknown),
            ("TuFT", true, Deduplication::Unknown),
        ] {
            let profile = ServerProfile::default().learn(document(title, &[], numbered));
            assert_eq!(profile.deduplicates, expected, "{title}");
            let updated = profile.learn(ProfileUpdate::Deduplicates(Deduplication::Everything));
            assert_eq!(updated.deduplicates, Deduplication::Everything);
        }
    }

    #[test]
    fn unlisted_routes_are_those_missing_in_the_openapi_document() {
        assert!(ServerProfile::default().unlisted_routes().is_empty());
        let profile = ServerProfile::default().learn(document("x", &[], false));
        let missing = profile.unlisted_routes();
        assert!(missing.contains(&routes::RETRIEVE_FUTURES));
        assert!(!missing.contains(&routes::ASAMPLE) && !missing.contains(&routes::SAMPLERS));
        assert_eq!(profile.software.as_deref(), Some("x/1"));
    }
}

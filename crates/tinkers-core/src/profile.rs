//! What was found out about a server: which bodies it takes, what it promises, what it lacks.

use std::collections::BTreeSet;
use std::sync::Arc;

use tinkers_wire::{ApiDocument, routes};

/// The form of a `forward_backward` body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyFormat {
    /// `application/x-protobuf`: SDK 0.25 and later, the hosted service, TuFT, SkyRL from August 2026.
    Protobuf,
    /// `application/json`: earlier SDKs, SkyRL 0.3.
    Json,
}

impl BodyFormat {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Protobuf => Self::Json,
            Self::Json => Self::Protobuf,
        }
    }
}

/// Which repeats of a (model, seq_id) a server is known to apply once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Deduplication {
    /// None.
    Unknown,
    /// Those of passes and optimizer steps; a repeated save or load is another one. SkyRL from August 2026.
    PassesAndSteps,
    /// All. The hosted service, the embedded server, and whoever says so in its configuration.
    Everything,
}

/// What is known of a server's OpenAPI document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// It was not asked for.
    NotAsked,
    /// There is none, or none that can be read.
    Absent,
    /// It was read.
    Read,
}

/// Something learnt about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact {
    /// A body of this form was accepted, or is the one left after another was refused.
    Bodies(BodyFormat),
    /// The server applies such repeats once.
    Deduplicates(Deduplication),
    /// The server takes zstd-compressed passes.
    ZstdBodies,
    /// What it calls itself, as `name/version`.
    Software(String),
    /// It has no OpenAPI document.
    NoDocument,
    /// It has this one.
    Document(Box<ApiDocument>),
}

/// What is known of a server, as far as it was found out. Starts with what is safe everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerProfile {
    /// What it calls itself, where it says so.
    pub software: Option<String>,
    /// The body form in use for passes.
    pub bodies: BodyFormat,
    /// Whether `bodies` was confirmed by an accepted request.
    pub bodies_confirmed: bool,
    /// Which repeats it is known to apply once.
    pub deduplicates: Deduplication,
    /// Whether passes may be zstd-compressed.
    pub zstd_bodies: bool,
    /// That it refuses fields that it does not know, where its document says so; `None` where it says nothing.
    pub is_strict: Option<bool>,
    /// Its OpenAPI document.
    pub document: Document,
    /// The paths of that document.
    paths: Arc<BTreeSet<String>>,
    /// The forms of a pass's body that it lists.
    listed_bodies: Vec<BodyFormat>,
}

impl Default for ServerProfile {
    fn default() -> Self {
        Self {
            software: None,
            bodies: BodyFormat::Protobuf,
            bodies_confirmed: false,
            deduplicates: Deduplication::Unknown,
            zstd_bodies: false,
            is_strict: None,
            document: Document::NotAsked,
            paths: Arc::default(),
            listed_bodies: Vec::new(),
        }
    }
}

/// What SkyRL calls itself, in the package and in the repository.
const SKYRL: &str = "Tinker API Mock";

impl ServerProfile {
    /// The profile with `fact` taken in.
    #[must_use]
    pub fn learn(mut self, fact: Fact) -> Self {
        match fact {
            // What was accepted first stays: others may rely on it by now.
            Fact::Bodies(_) if self.bodies_confirmed => {}
            Fact::Bodies(format) => return self.with_bodies(format),
            Fact::Deduplicates(which) => self.deduplicates = self.deduplicates.max(which),
            Fact::ZstdBodies => self.zstd_bodies = true,
            Fact::Software(name) => self.software = Some(name),
            Fact::NoDocument => self.document = Document::Absent,
            Fact::Document(document) => self.read(*document),
        }
        self
    }

    /// The profile with this form of a pass's body and no other, whatever was found out.
    #[must_use]
    pub fn with_bodies(mut self, format: BodyFormat) -> Self {
        self.bodies = format;
        self.bodies_confirmed = true;
        self
    }

    /// Whether its OpenAPI document lists this form of a pass's body.
    pub fn lists_bodies(&self, format: BodyFormat) -> bool {
        self.listed_bodies.contains(&format)
    }

    /// Whether its OpenAPI document lists this route.
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
        self.listed_bodies = listed.map(|(_, format)| format).collect();
        // What a document does not list may be taken all the same, and what was accepted once is not doubted.
        if !self.bodies_confirmed {
            let first = self.listed_bodies.first();
            self.bodies = first.copied().unwrap_or(BodyFormat::Protobuf);
        }
        if document.title == SKYRL && document.optim_step_has_seq_id {
            self.deduplicates = self.deduplicates.max(Deduplication::PassesAndSteps);
        }
        let named = || format!("{}/{}", document.title, document.version);
        self.software.get_or_insert_with(named);
        // That it says nothing of them does not mean that it takes them.
        self.is_strict = document.forbids_unknown_fields.then_some(true);
        self.document = Document::Read;
        self.paths = Arc::new(document.paths);
    }

    /// The routes of the API that its OpenAPI document does not list; nothing where there is no document.
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

    fn document(title: &str, bodies: &[&str], optim_step_has_seq_id: bool) -> Fact {
        let mut document = ApiDocument::default();
        document.title = title.to_owned();
        document.version = "1".to_owned();
        document.pass_bodies = bodies.iter().map(|&body| body.to_owned()).collect();
        document.optim_step_has_seq_id = optim_step_has_seq_id;
        document.paths = [routes::ASAMPLE, "/api/v1/samplers/{sampler_id}"]
            .map(str::to_owned)
            .into();
        Fact::Document(Box::new(document))
    }

    #[test]
    fn a_learnt_body_form_stays() {
        let profile = ServerProfile::default().learn(Fact::Bodies(BodyFormat::Json));
        assert_eq!(profile.bodies, BodyFormat::Json);
        let profile = profile.learn(document("x", &["application/x-protobuf"], false));
        assert!(profile.bodies_confirmed && profile.bodies == BodyFormat::Json);
        let profile = profile.learn(Fact::Bodies(BodyFormat::Protobuf));
        assert_eq!(profile.bodies, BodyFormat::Json);
        // The caller's word is another matter.
        let chosen = profile.with_bodies(BodyFormat::Protobuf);
        assert_eq!(chosen.bodies, BodyFormat::Protobuf);
    }

    #[test]
    fn a_document_says_which_body_to_begin_with_and_confirms_none() {
        let (json, protobuf) = ("application/json", "application/x-protobuf");
        for (listed, expected) in [
            (vec![json], BodyFormat::Json),
            (vec![protobuf], BodyFormat::Protobuf),
            (vec![json, protobuf], BodyFormat::Protobuf),
            // Not listed means nothing.
            (vec![], BodyFormat::Protobuf),
        ] {
            let profile = ServerProfile::default().learn(document("x", &listed, false));
            assert_eq!(
                (profile.bodies, profile.bodies_confirmed),
                (expected, false)
            );
        }
    }

    #[test]
    fn only_a_server_that_is_known_for_it_is_taken_to_deduplicate() {
        for (title, numbered, expected) in [
            (SKYRL, true, Deduplication::PassesAndSteps),
            (SKYRL, false, Deduplication::Unknown),
            ("TuFT", true, Deduplication::Unknown),
        ] {
            let profile = ServerProfile::default().learn(document(title, &[], numbered));
            assert_eq!(profile.deduplicates, expected, "{title}");
            let told = profile.learn(Fact::Deduplicates(Deduplication::Everything));
            assert_eq!(told.deduplicates, Deduplication::Everything);
        }
    }

    #[test]
    fn what_a_document_leaves_out_can_be_listed() {
        assert!(ServerProfile::default().unlisted_routes().is_empty());
        let profile = ServerProfile::default().learn(document("x", &[], false));
        let missing = profile.unlisted_routes();
        assert!(missing.contains(&routes::RETRIEVE_FUTURES));
        assert!(!missing.contains(&routes::ASAMPLE) && !missing.contains(&routes::SAMPLERS));
        assert_eq!(profile.software.as_deref(), Some("x/1"));
    }
}

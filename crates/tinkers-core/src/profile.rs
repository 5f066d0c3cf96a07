//! What was found out about a server: which bodies it takes and what it promises.

/// The form of a `forward_backward` body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyFormat {
    /// `application/x-protobuf`: SDK 0.25 and later, the hosted service, TuFT, SkyRL from August 2026.
    Protobuf,
    /// `application/json`: earlier SDKs, SkyRL 0.3.
    Json,
}

/// Something learnt from a server's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact {
    /// A body of this form was accepted, or is the one left after another was refused.
    Bodies(BodyFormat),
    /// The server is known to apply a repeated (model, seq_id) once.
    Deduplicates,
    /// The server takes zstd-compressed passes.
    ZstdBodies,
}

/// What is known of a server, as far as it was found out. Starts with what is safe everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerProfile {
    /// The body form in use for passes.
    pub bodies: BodyFormat,
    /// Whether `bodies` was confirmed by an accepted request.
    pub bodies_confirmed: bool,
    /// Whether a repeated (model, seq_id) is known to be applied once.
    pub deduplicates: bool,
    /// Whether passes may be zstd-compressed.
    pub zstd_bodies: bool,
}

impl Default for ServerProfile {
    fn default() -> Self {
        Self {
            bodies: BodyFormat::Protobuf,
            bodies_confirmed: false,
            deduplicates: false,
            zstd_bodies: false,
        }
    }
}

impl ServerProfile {
    /// The profile with `fact` taken in.
    #[must_use]
    pub fn learn(mut self, fact: Fact) -> Self {
        match fact {
            Fact::Bodies(format) => {
                self.bodies = format;
                self.bodies_confirmed = true;
            }
            Fact::Deduplicates => self.deduplicates = true,
            Fact::ZstdBodies => self.zstd_bodies = true,
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learnt_body_form_stays() {
        let profile = ServerProfile::default().learn(Fact::Bodies(BodyFormat::Json));
        assert_eq!(profile.bodies, BodyFormat::Json);
        assert!(profile.bodies_confirmed);
        assert!(profile.learn(Fact::Deduplicates).deduplicates);
    }
}

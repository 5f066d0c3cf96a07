//! Faults of a server that no client can make good, put in on purpose: the checks have to find each of them.

/// What the engine does wrong, with every tenth job that it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A step is applied twice.
    DoubledStep,
    /// A step is answered and not applied.
    SkippedStep,
    /// A sample gets the tokens of another prompt.
    SwappedSample,
    /// A sample is never answered.
    LostReply,
}

impl Control {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::DoubledStep,
        Self::SkippedStep,
        Self::SwappedSample,
        Self::LostReply,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DoubledStep => "doubled-step",
            Self::SkippedStep => "skipped-step",
            Self::SwappedSample => "swapped-sample",
            Self::LostReply => "lost-reply",
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }
}

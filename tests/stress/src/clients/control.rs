//! Negative controls: faults of the server's engine from which no client can recover. The checks
//! must detect them.

/// A negative control: a deliberate bug in the server's engine that affects every tenth job of a
/// kind. The checks of the stress test must find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The engine applies an optimizer step twice.
    DoubledStep,
    /// The engine reports that an optimizer step is done, but does not apply the step.
    SkippedStep,
    /// A sample returns the tokens for the prompt of another call.
    SwappedSample,
    /// The engine never completes a sample.
    LostReply,
}

impl Control {
    /// All negative controls (deliberate bugs of the server's engine).
    pub const ALL: [Self; 4] = [
        Self::DoubledStep,
        Self::SkippedStep,
        Self::SwappedSample,
        Self::LostReply,
    ];

    /// Returns the name with which the command line selects this negative control (a deliberate
    /// bug).
    pub const fn name(self) -> &'static str {
        match self {
            Self::DoubledStep => "doubled-step",
            Self::SkippedStep => "skipped-step",
            Self::SwappedSample => "swapped-sample",
            Self::LostReply => "lost-reply",
        }
    }

    /// Returns the negative control (a deliberate bug) with the given name on the command line, or
    /// `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }
}

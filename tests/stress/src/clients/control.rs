//! Negative controls: injected server faults that no client can recover from and that the checks must detect.

/// An injected fault of the engine, applied to every tenth job of the affected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A step is applied twice.
    DoubledStep,
    /// A step is reported as done and not applied.
    SkippedStep,
    /// A sample gets the tokens of another prompt.
    SwappedSample,
    /// A sample never ends.
    LostReply,
}

impl Control {
    /// All controls.
    pub const ALL: [Self; 4] = [
        Self::DoubledStep,
        Self::SkippedStep,
        Self::SwappedSample,
        Self::LostReply,
    ];

    /// Returns the name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DoubledStep => "doubled-step",
            Self::SkippedStep => "skipped-step",
            Self::SwappedSample => "swapped-sample",
            Self::LostReply => "lost-reply",
        }
    }

    /// Returns the control with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }
}

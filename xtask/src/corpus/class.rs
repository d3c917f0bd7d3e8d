//! What a site can be taken for, as reports name it.

/// A class of leaktrace's verdicts, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Growing,
    Plateau,
    OneOff,
    Churn,
    Undecided,
    /// The site is listed and has no verdict.
    Without,
    /// The report does not have the site: nothing of it is outstanding, or nothing was sampled.
    Unlisted,
}

impl Class {
    /// All, in the order of the table's columns.
    pub(super) const ALL: [Self; 7] = [
        Self::Growing,
        Self::Plateau,
        Self::OneOff,
        Self::Churn,
        Self::Undecided,
        Self::Without,
        Self::Unlisted,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Plateau => "plateau",
            Self::OneOff => "one-off",
            Self::Churn => "churn",
            Self::Undecided => "undecided",
            Self::Without => "no verdict",
            Self::Unlisted => "not listed",
        }
    }

    /// By the name that reports have.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL[..5].iter().copied().find(|class| class.name() == name)
    }

    /// Whether it says what the site is.
    pub(super) const fn is_decided(self) -> bool {
        matches!(self, Self::Growing | Self::Plateau | Self::OneOff | Self::Churn)
    }
}

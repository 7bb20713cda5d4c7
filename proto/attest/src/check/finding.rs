//! What a check can find, how bad it is, and whose key answers for it.

use std::fmt;
use std::ops::Range;

use crate::Address;
use crate::check::Report;
use crate::keys::BindingError;
use crate::open::{AckError, ChainError, OpenError};
use crate::receipt::ReceiptError;

/// Whose key answers for a fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Blame {
    /// This one.
    Key(Address),
    /// One of two that contradict each other; which one, an opening of the rows decides.
    OneOf(Address, Address),
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Severity {
    /// Somebody did wrong.
    Fault(Blame),
    /// Nobody answers for some rows, or two statements can't be compared.
    Gap,
    /// Worth knowing.
    Note,
}

/// Something that a check found.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What.
    pub what: What,
    /// In which generation.
    pub generation: u32,
    /// At which hop.
    pub hop: Option<u16>,
    /// At which rows.
    pub rows: Option<Range<u32>>,
}

/// Kinds of findings.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum What {
    /// An open that does not hold.
    #[error("{0}")]
    OpenInvalid(OpenError),
    /// An open that does not follow the one before.
    #[error("{0}")]
    OpenChain(ChainError),
    /// An open of another router than the one that shows it.
    #[error("the open is another router's")]
    OpenOfAnother,
    /// The evidence does not begin with the session.
    #[error("opens of earlier generations are missing")]
    EarlierGenerationsMissing,
    /// Fewer tokens than were forced, or more than were asked for.
    #[error("the number of tokens does not fit the open")]
    TokenCount,
    /// An acknowledgement that does not hold.
    #[error("{0}")]
    AckInvalid(AckError),
    /// The router let a hop work that did not agree to it.
    #[error("receipts of a hop that did not acknowledge the open")]
    AckMissing,
    /// A hop agreed to nothing and signed nothing.
    #[error("the hop did not acknowledge the open")]
    Unacknowledged,
    /// A receipt that does not hold.
    #[error("{0}")]
    ReceiptInvalid(ReceiptError),
    /// Two different statements about the same rows by one key.
    #[error("two different receipts for the same rows")]
    Equivocation,
    /// A hop that had ended signed further rows.
    #[error("a receipt after the last one")]
    AfterTheLast,
    /// It does not name the receipt before it.
    #[error("the receipt does not follow the one before it")]
    ReceiptChain,
    /// Two receipts name the same one as theirs before.
    #[error("two receipts follow the same one")]
    Forked,
    /// Kept rows without the receipts that made them.
    #[error("the receipts of kept rows are not known")]
    KeptRowsUncited,
    /// Rows of another session's prefix, in its receipts.
    #[error("rows reused from an earlier session's receipts")]
    Reused,
    /// Rows behind delivered tokens that a hop did not sign for.
    #[error("rows that the hop did not sign for")]
    Unattested,
    /// Two neighbours signed different rows.
    #[error("what a hop sent is not what the next one received")]
    Boundary,
    /// Two neighbours stopped at different rows, and leaves are missing.
    #[error("rows whose two ends can't be compared")]
    BoundaryUnchecked,
    /// Stage 0 signed for other tokens than those it was given.
    #[error("stage 0 computed other tokens")]
    Input,
    /// The tail signed for other tokens than were delivered.
    #[error("other tokens were delivered than the tail signed for")]
    Delivered,
    /// Delivered tokens that no tail signed for.
    #[error("tokens that the tail did not sign for")]
    TokensUnattested,
    /// The sampling terms shown are not those of the open.
    #[error("other sampling terms than the open names")]
    Terms,
    /// A sample that was not committed to.
    #[error("a sample that the tail did not commit to")]
    SampleInvalid,
    /// A token that does not follow from what the tail committed to.
    #[error("the token does not follow from its logits")]
    TokenForged,
    /// A token that the committed logits do not decide.
    #[error("the token depends on logits that were not committed to")]
    TokenUndecided,
    /// A binding that does not hold.
    #[error("{0}")]
    BindingInvalid(BindingError),
    /// Nothing says whose key it is.
    #[error("no binding of the key to its node")]
    Unbound,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.generation)?;
        if let Some(hop) = self.hop {
            write!(f, ", hop {hop}")?;
        }
        if let Some(rows) = &self.rows {
            write!(f, ", rows {}..{}", rows.start, rows.end)?;
        }
        write!(f, ": {}", self.what)?;
        match self.severity {
            Severity::Fault(Blame::Key(key)) => write!(f, " (key {key})"),
            Severity::Fault(Blame::OneOf(a, b)) => write!(f, " (one of the keys {a} and {b})"),
            Severity::Gap | Severity::Note => Ok(()),
        }
    }
}

impl Finding {
    pub(super) fn at(mut self, hop: u16, rows: impl Into<Option<Range<u32>>>) -> Self {
        (self.hop, self.rows) = (Some(hop), rows.into());
        self
    }

    fn new(severity: Severity, what: What, generation: u32) -> Self {
        Self { severity, what, generation, hop: None, rows: None }
    }

    pub(super) fn fault(blame: Blame, what: What, generation: u32) -> Self {
        Self::new(Severity::Fault(blame), what, generation)
    }

    pub(super) fn gap(what: What, generation: u32) -> Self {
        Self::new(Severity::Gap, what, generation)
    }

    pub(super) fn note(what: What, generation: u32) -> Self {
        Self::new(Severity::Note, what, generation)
    }
}

impl Blame {
    /// Of a contradiction between two statements; of one key, if both are its own.
    pub(super) fn between(a: Address, b: Address) -> Self {
        if a == b { Self::Key(a) } else { Self::OneOf(a, b) }
    }
}

impl Report {
    pub(super) fn fault(&mut self, blame: Blame, what: What, generation: u32) {
        self.findings.push(Finding::fault(blame, what, generation));
    }

    pub(super) fn gap(&mut self, what: What, generation: u32) {
        self.findings.push(Finding::gap(what, generation));
    }
}

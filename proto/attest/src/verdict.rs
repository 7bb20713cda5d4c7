//! What an auditor says of a receipt: by which method, with what outcome, against which calibration; and signed.
//!
//! Methods and outcomes are numbered, so that a proof system can join later. Two auditors commit to their verdicts before
//! either is shown, so that neither copies the other's.

mod judge;
mod signed;

pub use judge::{Judgement, judge_equality, judge_rows};
pub use signed::{AuditVerdict, MAX_DEVICE_BYTES, SignedVerdict, VerdictCommit, VerdictError};

/// How it was judged. From 256 on: proof systems.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Method {
    /// Relative L2 of the delta by chunks, each by itself.
    ChunkDelta = 1,
    /// The same over many chunks, by a sequential test.
    Sequential = 2,
    /// Equal bytes: class `exact`.
    Equality = 3,
    /// Seeded choice from committed logits.
    SeededChoice = 4,
    /// Hashes, chains, coverage and price alone.
    Commitments = 5,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Outcome {
    /// As an honest node.
    Pass = 1,
    /// As no honest node.
    Fail = 2,
    /// Beyond honest nodes, by too little to say so.
    Borderline = 3,
    /// Nobody knows what honest nodes do here. Never a pass.
    Uncalibrated = 4,
    /// The node opened nothing by the deadline, which is a fault.
    RefusedToOpen = 5,
    /// What it opened is not what it signed, which is a fault.
    BadOpening = 6,
    /// The auditor could not: a result of its own that is not finite, weights that it lacks.
    Unjudged = 7,
}

impl Method {
    /// All, in order of number.
    pub const ALL: [Self; 5] =
        [Self::ChunkDelta, Self::Sequential, Self::Equality, Self::SeededChoice, Self::Commitments];

    /// The method with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&method| method as u16 == number)
    }
}

impl Outcome {
    /// All, in order of number.
    pub const ALL: [Self; 7] = [
        Self::Pass,
        Self::Fail,
        Self::Borderline,
        Self::Uncalibrated,
        Self::RefusedToOpen,
        Self::BadOpening,
        Self::Unjudged,
    ];

    /// The outcome with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&outcome| outcome as u16 == number)
    }

    /// Whether it speaks against the node. A borderline value does not: nothing follows from mere suspicion.
    pub const fn is_fault(self) -> bool {
        matches!(self, Self::Fail | Self::RefusedToOpen | Self::BadOpening)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept() {
        for (index, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(Method::from_number(index as u16 + 1), Some(method));
        }
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(Outcome::from_number(index as u16 + 1), Some(outcome));
        }
        assert_eq!((Method::from_number(0), Outcome::from_number(8)), (None, None));
    }
}

//! What happened, counted. Plain numbers: the driver mirrors them into Prometheus.

use proto::record::RecordError;

/// Why a record, a contact or a request was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Rejection {
    /// Signature does not fit, or another key signed.
    BadSignature,
    /// Does not parse, too long, or breaks a field's limit.
    Malformed,
    /// Its lease is over.
    Expired,
    /// Issued in the future.
    FromTheFuture,
    /// Does not belong under the key it came with.
    WrongKey,
    /// Brought by somebody else than its signer.
    NotSigner,
    /// An older sequence than the one held.
    Older,
    /// No room under the key or in the store.
    Full,
    /// The peer asks too fast.
    RateLimited,
    /// A contact that must not be dialled, or ourselves.
    BadContact,
    /// A reply of the wrong kind, out of order or without progress.
    BadReply,
}

impl Rejection {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::BadSignature,
        Self::Malformed,
        Self::Expired,
        Self::FromTheFuture,
        Self::WrongKey,
        Self::NotSigner,
        Self::Older,
        Self::Full,
        Self::RateLimited,
        Self::BadContact,
        Self::BadReply,
    ];

    /// Its name as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::FromTheFuture => "from_the_future",
            Self::WrongKey => "wrong_key",
            Self::NotSigner => "not_signer",
            Self::Older => "older",
            Self::Full => "full",
            Self::RateLimited => "rate_limited",
            Self::BadContact => "bad_contact",
            Self::BadReply => "bad_reply",
        }
    }

    /// Whether only a faulty or hostile peer sends such a thing (clocks and races explain the others).
    pub const fn is_misconduct(self) -> bool {
        matches!(self, Self::BadSignature | Self::Malformed | Self::WrongKey | Self::BadReply)
    }
}

impl From<&RecordError> for Rejection {
    fn from(error: &RecordError) -> Self {
        match error {
            RecordError::BadSignature | RecordError::WrongSigner { .. } => Self::BadSignature,
            RecordError::TooLong(_) | RecordError::Malformed(_) | RecordError::Field(_) => Self::Malformed,
            RecordError::FromTheFuture(_) => Self::FromTheFuture,
            RecordError::Expired(_) => Self::Expired,
        }
    }
}

/// Totals since the core was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub sent: u64,
    /// Requests sent that failed or timed out.
    pub failed: u64,
    /// Requests of others answered.
    pub served: u64,
    /// Signatures actually checked (repeats are remembered).
    pub verified: u64,
    rejected: [u64; Rejection::ALL.len()],
}

impl Counters {
    /// How often something was turned away for `reason`.
    pub const fn rejected(&self, reason: Rejection) -> u64 {
        self.rejected[reason as usize]
    }

    pub(crate) const fn reject(&mut self, reason: Rejection) {
        self.rejected[reason as usize] += 1;
    }
}

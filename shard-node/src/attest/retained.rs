//! The rows behind receipts, for whoever may ask to see them. In memory only: what a process forgets it can't open, and
//! what it opened to nobody is gone with it.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use proto_attest::Digest;
use proto_attest::audit::Side;

use crate::session::SessionKey;

/// Rows by receipt, the oldest given up first.
#[derive(Debug)]
pub(super) struct Retained {
    most_bytes: u64,
    bytes: u64,
    rows: HashMap<Digest, Rows>,
    order: VecDeque<Digest>,
}

/// Rows of one receipt.
#[derive(Debug)]
struct Rows {
    key: SessionKey,
    /// The open that the receipt was signed under.
    open: Digest,
    received: Bytes,
    sent: Bytes,
}

impl Retained {
    pub(super) fn new(most_bytes: u64) -> Self {
        Self { most_bytes, bytes: 0, rows: HashMap::new(), order: VecDeque::new() }
    }

    /// Keeps the rows of a receipt of this session.
    pub(super) fn keep(
        &mut self,
        receipt: Digest,
        (key, open): (SessionKey, Digest),
        received: Vec<u8>,
        sent: Vec<u8>,
    ) {
        let rows = Rows { key, open, received: received.into(), sent: sent.into() };
        self.bytes += rows.bytes();
        if self.rows.insert(receipt, rows).is_none() {
            self.order.push_back(receipt);
        }
        while self.bytes > self.most_bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.rows.remove(&oldest).map_or(0, |rows| rows.bytes());
        }
    }

    /// Whose receipt it is, if its rows are kept.
    pub(super) fn session(&self, receipt: &Digest) -> Option<SessionKey> {
        self.rows.get(receipt).map(|rows| rows.key)
    }

    /// The rows on one side of a receipt, for who knows the open that it was signed under.
    pub(super) fn open(&self, receipt: &Digest, side: Side, open: &Digest) -> Option<Bytes> {
        let rows = self.rows.get(receipt).filter(|rows| rows.open == *open)?;
        Some(match side {
            Side::Received => rows.received.clone(),
            Side::Sent => rows.sent.clone(),
        })
    }

    /// Bytes kept.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Rows {
    /// With what the tables take.
    fn bytes(&self) -> u64 {
        (self.received.len() + self.sent.len()) as u64 + 128
    }
}

#[cfg(test)]
mod tests {
    use proto::{NodeId, SessionId};

    use super::*;

    #[test]
    fn the_oldest_rows_go_first() {
        let key = SessionKey { router: NodeId::from_bytes([1; 32]), session: SessionId::new(1) };
        let receipt = |number: u8| Digest::from_bytes([number; 32]);
        let of = (key, Digest::from_bytes([7; 32]));
        let mut retained = Retained::new(1000);
        for number in 0..5 {
            retained.keep(receipt(number), of, vec![number; 100], vec![0; 72]);
            assert!(retained.bytes() <= 1000);
        }
        assert!(retained.open(&receipt(1), Side::Received, &of.1).is_none());
        assert_eq!(retained.open(&receipt(4), Side::Received, &of.1).unwrap(), vec![4; 100]);
        assert_eq!(retained.open(&receipt(4), Side::Sent, &of.1).unwrap().len(), 72);
        assert!(
            retained.open(&receipt(4), Side::Sent, &Digest::ZERO).is_none(),
            "who does not know the open"
        );
        assert_eq!(retained.session(&receipt(4)), Some(key));
        retained.keep(receipt(9), of, vec![0; 2000], Vec::new());
        assert_eq!((retained.bytes(), retained.session(&receipt(9))), (0, None));
    }
}

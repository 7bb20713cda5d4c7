//! The conversation with a node that is audited: its batch, our seed, its rows.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use proto::audit::{AuditBatch, AuditRequest, Challenge, Challenged, OpenRows};
use proto::handshake::ConnectionClass;
use proto::{FrameKind, Message as _, NodeId};
use proto_attest::audit::{
    AuditChallenge, AuditRate, AuditSeed, BatchError, ChallengeError, EpochBatch, OpeningError, Side,
    SignedBatch, check_side,
};
use proto_attest::open::VerifiedOpen;
use proto_attest::receipt::VerifiedReceipt;
use proto_attest::verdict::Outcome;
use proto_attest::{Address, Digest, ReceiptKey};
use proto_transport::blobs::{FetchError, receive_blob};
use proto_transport::{ConnectError, Connection, Peers, RequestError};
use shard_node_stage::StepInput;

use super::{Subject, Work};

/// Asks one node.
#[derive(Debug)]
pub struct Auditor {
    node: NodeId,
    connection: Connection,
}

/// What an audit of one epoch chose.
#[derive(Debug)]
pub struct Asked {
    /// Names the challenge in verdicts.
    pub challenge: Digest,
    /// Receipts of the subject that were chosen.
    pub chosen: Vec<Digest>,
}

/// Rows that hash to what was signed for.
#[derive(Debug)]
pub struct Opened {
    /// All rows received, from position 0 on.
    pub input: StepInput,
    /// Rows sent under the receipt.
    pub sent: Bytes,
}

/// Why nothing can be judged. Some of it speaks against the node: [`AuditError::outcome`].
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It is not there.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It knows nothing of the epoch that it signed in.
    #[error("it shows no batch of epoch {0}")]
    NoBatch(u64),
    /// Its batch does not hold.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The digests that it shows are not those that it signed.
    #[error("its batch of epoch {0} is not of the receipts that it shows")]
    OtherReceipts(u64),
    /// A receipt that it signed in that epoch is not in its batch.
    #[error("receipt {receipt} is not in its batch of epoch {epoch}", receipt = .receipt.short())]
    Withheld {
        /// Which epoch.
        epoch: u64,
        /// The receipt.
        receipt: Digest,
    },
    /// Our own challenge.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// It does not take the challenge.
    #[error("it does not open: {0}")]
    Refused(String),
    /// It does not have the rows, or says so.
    #[error("it does not open the rows of receipt {receipt}: {why}", receipt = .receipt.short())]
    NotOpened {
        /// The receipt.
        receipt: Digest,
        /// Why.
        why: FetchError,
    },
    /// The rows are others than it signed for.
    #[error("it opens other rows than it signed for in receipt {receipt}: {why}", receipt = .receipt.short())]
    Other {
        /// The receipt.
        receipt: Digest,
        /// Why.
        why: OpeningError,
    },
}

impl AuditError {
    /// What it says of the node. Silence is no refusal before the deadline has passed, so a lost connection says nothing.
    pub const fn outcome(&self) -> Outcome {
        match self {
            // Its own batch, our own commitment, a deadline far enough: checked before it was asked.
            Self::NoBatch(_)
            | Self::Withheld { .. }
            | Self::Refused(_)
            | Self::NotOpened { why: FetchError::NotFound, .. } => Outcome::RefusedToOpen,
            Self::Batch(_) | Self::OtherReceipts(_) | Self::Other { .. } => Outcome::BadOpening,
            Self::Connect(_) | Self::Request(_) | Self::Challenge(_) | Self::NotOpened { .. } => {
                Outcome::Unjudged
            }
        }
    }
}

impl Auditor {
    /// Connects.
    pub async fn connect(peers: &Peers, node: NodeId, addrs: &[SocketAddr]) -> Result<Self, ConnectError> {
        let connection = peers.connection(node, addrs, ConnectionClass::Bulk).await?;
        Ok(Self { node, connection })
    }

    /// Has the node sign for an epoch, shows the seed, and says which of the subject's receipts it chooses.
    pub async fn ask(
        &self,
        subject: &Subject,
        (epoch, signer): (u64, Address),
        (seed, rate): (AuditSeed, AuditRate),
        key: &ReceiptKey,
        now_unix_s: u64,
    ) -> Result<Asked, AuditError> {
        let request = AuditRequest { commit: *seed.commit().digest().as_bytes(), epoch };
        let told: AuditBatch = self.connection.request_message(&request, ANSWER).await?;
        if told.batch.is_empty() {
            return Err(AuditError::NoBatch(epoch));
        }
        let batch = SignedBatch::decode(&told.batch)?;
        batch.verify(signer)?;
        let receipts: Vec<Digest> = told.receipts.into_iter().map(Digest::from_bytes).collect();
        let facts = &batch.batch;
        let same = (facts.node, facts.epoch, facts.count as usize) == (self.node, epoch, receipts.len());
        if !same || EpochBatch::root(&receipts) != facts.receipts_root {
            return Err(AuditError::OtherReceipts(epoch));
        }
        if let Some(receipt) = subject.receipts(epoch).find(|receipt| !receipts.contains(receipt)) {
            return Err(AuditError::Withheld { epoch, receipt });
        }
        let challenge = AuditChallenge {
            auditor: key.address(),
            batch: facts.digest(),
            seed,
            rate,
            deadline_unix_s: now_unix_s + DEADLINE_S,
        };
        let signed = challenge.sign(key)?;
        let answer: Challenged =
            self.connection.request_message(&Challenge { epoch, challenge: signed.encode() }, ANSWER).await?;
        if !answer.refusal.is_empty() {
            return Err(AuditError::Refused(answer.refusal));
        }
        let chosen = challenge.indexes(facts).into_iter().map(|index| receipts[index as usize]);
        let ours: Vec<Digest> = subject.receipts(epoch).collect();
        let chosen = chosen.filter(|receipt| ours.contains(receipt)).collect();
        Ok(Asked { challenge: challenge.digest(), chosen })
    }

    /// The rows behind one receipt, checked against what was signed.
    pub async fn open(&self, work: &Work<'_>, row_bytes: usize) -> Result<Opened, AuditError> {
        let sent = self.side(work.open, work.receipt, Side::Sent, row_bytes).await?;
        let first = work.receipt.receipt().hop == 0;
        let width = if first { TOKEN_BYTES } else { row_bytes };
        let mut input = BytesMut::new();
        for (open, receipt, rows) in &work.input {
            let all = self.side(open, receipt, Side::Received, width).await?;
            let start = receipt.receipt().rows.start;
            let at = |row: u32| (row - start) as usize * width;
            input.put(all.slice(at(rows.start)..at(rows.end)));
        }
        let input = input.freeze();
        let input = if first {
            let tokens = input.as_chunks::<TOKEN_BYTES>().0.iter();
            StepInput::Tokens(tokens.map(|&token| u32::from_le_bytes(token)).collect())
        } else {
            StepInput::Activations(input)
        };
        Ok(Opened { input, sent })
    }

    async fn side(
        &self,
        open: &VerifiedOpen,
        receipt: &VerifiedReceipt,
        side: Side,
        width: usize,
    ) -> Result<Bytes, AuditError> {
        let rows = receipt.receipt().rows;
        let count = if side == Side::Sent { rows.sent() } else { rows.computed() } as usize;
        if count == 0 {
            return Ok(Bytes::new());
        }
        let digest = receipt.digest();
        let ask = OpenRows { receipt: *digest.as_bytes(), side: side as u8, open: *open.digest().as_bytes() };
        let mut answer = self.connection.call(FrameKind::OpenRows, ask.encode()).await?;
        let opened = receive_blob(&mut answer, (count * width) as u64).await;
        let opened = opened.map_err(|why| AuditError::NotOpened { receipt: digest, why })?;
        let other = |why| AuditError::Other { receipt: digest, why };
        if opened.len() != count * width {
            return Err(other(OpeningError::NotCovered));
        }
        check_side(receipt, open.open(), side, opened.chunks_exact(width)).map_err(other)?;
        Ok(opened)
    }
}

const TOKEN_BYTES: usize = 4;
/// A node answers beside its steps, behind what it has to hash.
const ANSWER: Duration = Duration::from_secs(10);
/// For the node to open: see [`AuditChallenge::LEAST_S`].
const DEADLINE_S: u64 = 600;

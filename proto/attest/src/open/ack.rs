//! A hop's consent to an open: from then on it owes receipts.

use crate::eip712::{self, Typed, Words};
use crate::keys::SIGNATURE_BYTES;
use crate::layout::{LayoutError, Reader, Writer};
use crate::open::VerifiedOpen;
use crate::{Digest, ReceiptKey, RecoverableSignature, SignatureError};

/// A hop takes part in a generation, at its place and price.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenAck {
    /// The open.
    pub open: Digest,
    /// As which hop.
    pub hop: u16,
}

/// An acknowledgement as it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedAck {
    /// What is acknowledged.
    pub ack: OpenAck,
    /// The hop's signature.
    pub signature: RecoverableSignature,
}

/// Why an acknowledgement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The bytes are not an acknowledgement.
    #[error("acknowledgement does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The signature has not the right form.
    #[error("signature of the acknowledgement: {0}")]
    Form(#[from] SignatureError),
    /// Of another open.
    #[error("acknowledgement of another open")]
    OtherOpen,
    /// The route has no such hop.
    #[error("acknowledgement of hop {0}, which the route has not")]
    UnknownHop(u16),
    /// Not signed by the hop's receipt key.
    #[error("acknowledgement of hop {0} is not signed by its key")]
    NotByHop(u16),
}

impl Typed for OpenAck {
    const TYPE: &'static str = "OpenAck(bytes32 open,uint16 hop)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.open.as_bytes());
        words.uint(self.hop);
    }
}

impl OpenAck {
    /// Signs as the hop.
    pub fn sign(self, key: &ReceiptKey) -> SignedAck {
        SignedAck { ack: self, signature: key.sign(&self.digest()) }
    }

    /// What is signed.
    pub fn digest(&self) -> Digest {
        eip712::digest(eip712::RECEIPTS, self)
    }
}

impl SignedAck {
    /// Bytes of an encoded acknowledgement.
    pub const BYTES: usize = 32 + 2 + SIGNATURE_BYTES;

    /// Checks that it is of this open and by the hop that it names.
    pub fn verify(&self, open: &VerifiedOpen) -> Result<(), AckError> {
        let OpenAck { open: named, hop } = self.ack;
        if named != open.digest() {
            return Err(AckError::OtherOpen);
        }
        let key = open.open().hop(hop).ok_or(AckError::UnknownHop(hop))?.receipt_key;
        if self.signature.is_of(&self.ack.digest(), key) { Ok(()) } else { Err(AckError::NotByHop(hop)) }
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.digest(&self.ack.open);
        writer.u16(self.ack.hop);
        writer.bytes(self.signature.as_bytes());
        writer.finish()
    }

    /// Reads the bytes; checks their form only.
    pub fn decode(bytes: &[u8]) -> Result<Self, AckError> {
        let mut reader = Reader::new(bytes);
        let ack = OpenAck { open: reader.digest("open")?, hop: reader.u16("hop")? };
        let signature = RecoverableSignature::from_bytes(&reader.array("signature")?)?;
        reader.finish()?;
        Ok(Self { ack, signature })
    }
}

//! A receipt's bytes.
//!
//! ```text
//! 0       1     3       7     11           15        47         79           111    143         159     167
//! | flags | hop | start | end | sent_start | in_root | out_root | exec_build | prev | price_due | epoch | signature 65 |
//! with flag 2:  | seed_index 4 | count 1 | tokens 4 each | samples_root 32 | signature 65 |
//! with flag 4:  leaves of the rows received, 32 each; with flag 8: of the rows sent
//! ```
//! Flag 1 says decode. The open's digest is not in it: whoever reads a receipt knows under which open it came, and one
//! of another open does not verify.

use crate::cuts::{Covered, DECODE_ROWS, PREFILL_ROWS, Phase};
use crate::keys::SIGNATURE_BYTES;
use crate::layout::{LayoutError, Reader, Writer};
use crate::open::VerifiedOpen;
use crate::receipt::{HopReceipt, Leaves, ReceiptError, SamplerReceipt, SignedReceipt, SignedSampler};
use crate::{Amount, Digest, Leaf, RecoverableSignature};

const DECODE: u8 = 1;
const SAMPLER: u8 = 2;
const RECEIVED: u8 = 4;
const SENT: u8 = 8;

impl SignedReceipt {
    /// Bytes of a receipt without tokens and leaves.
    pub const BYTES: usize = 167 + SIGNATURE_BYTES;

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// Reads what came under `open`; checks its form only.
    pub fn decode(bytes: &[u8], open: &VerifiedOpen) -> Result<Self, ReceiptError> {
        let mut reader = Reader::new(bytes);
        let receipt = Self::read(&mut reader, open.digest())?;
        reader.finish()?;
        Ok(receipt)
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        let Self { receipt, signature, sampler, leaves } = self;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        writer.u8(flag(receipt.phase == Phase::Decode, DECODE)
            | flag(sampler.is_some(), SAMPLER)
            | flag(!leaves.received.is_empty(), RECEIVED)
            | flag(!leaves.sent.is_empty(), SENT));
        writer.u16(receipt.hop);
        writer.u32(receipt.rows.start);
        writer.u32(receipt.rows.end);
        writer.u32(receipt.rows.sent_start);
        for digest in [&receipt.in_root, &receipt.out_root, &receipt.exec_build, &receipt.prev] {
            writer.digest(digest);
        }
        writer.u128(receipt.price_due.get());
        writer.u64(receipt.epoch);
        writer.bytes(signature.as_bytes());
        if let Some(SignedSampler { sampler, signature }) = sampler {
            writer.u32(sampler.seed_index);
            writer.u8(sampler.tokens.len() as u8);
            sampler.tokens.iter().for_each(|&token| writer.u32(token));
            writer.digest(&sampler.samples_root);
            writer.bytes(signature.as_bytes());
        }
        for leaf in leaves.received.iter().chain(&leaves.sent) {
            writer.bytes(leaf.as_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>, open: Digest) -> Result<Self, ReceiptError> {
        let flags = reader.u8("flags")?;
        if flags & !(DECODE | SAMPLER | RECEIVED | SENT) != 0 {
            return Err(LayoutError::Field("flags").into());
        }
        let hop = reader.u16("hop")?;
        let rows =
            Covered { start: reader.u32("rows")?, end: reader.u32("rows")?, sent_start: reader.u32("rows")? };
        let most = if flags & DECODE == 0 { PREFILL_ROWS } else { DECODE_ROWS };
        let (later, first) = (rows.start.max(rows.sent_start), rows.start.min(rows.sent_start));
        if later > rows.end || rows.end - first > most || rows.end == first {
            return Err(LayoutError::Field("rows").into());
        }
        let receipt = HopReceipt {
            open,
            hop,
            phase: if flags & DECODE == 0 { Phase::Prefill } else { Phase::Decode },
            rows,
            in_root: reader.digest("in_root")?,
            out_root: reader.digest("out_root")?,
            exec_build: reader.digest("exec_build")?,
            prev: reader.digest("prev")?,
            price_due: Amount::new(reader.u128("price")?),
            epoch: reader.u64("epoch")?,
        };
        let signature = read_signature(reader)?;
        let sampler = (flags & SAMPLER != 0).then(|| read_sampler(reader)).transpose()?;
        let mut leaves = |flag: u8, count: u32| {
            let count = if flags & flag == 0 { 0 } else { count as usize };
            // A flag for no leaves is not what a writer writes.
            if flags & flag != 0 && count == 0 {
                return Err(LayoutError::Field("flags"));
            }
            reader.count(count, PREFILL_ROWS as usize, 32, "leaves")?;
            (0..count).map(|_| reader.array("leaf").map(Leaf::from_bytes)).collect()
        };
        let leaves =
            Leaves { received: leaves(RECEIVED, rows.computed())?, sent: leaves(SENT, rows.sent())? };
        Ok(Self { receipt, signature, sampler, leaves })
    }
}

fn read_sampler(reader: &mut Reader<'_>) -> Result<SignedSampler, ReceiptError> {
    let seed_index = reader.u32("seed index")?;
    let count = usize::from(reader.u8("tokens")?);
    let count = reader.count(count, DECODE_ROWS as usize, 4, "tokens")?;
    let tokens = (0..count).map(|_| reader.u32("token")).collect::<Result<_, _>>()?;
    let samples_root = reader.digest("samples root")?;
    let signature = read_signature(reader)?;
    Ok(SignedSampler { sampler: SamplerReceipt { seed_index, tokens, samples_root }, signature })
}

fn read_signature(reader: &mut Reader<'_>) -> Result<RecoverableSignature, ReceiptError> {
    Ok(RecoverableSignature::from_bytes(&reader.array("signature")?)?)
}

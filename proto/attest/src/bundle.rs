//! A session's evidence as a file: whoever has it can check it offline.
//!
//! ```text
//! "LLEV" | version 1 u16 | bindings | tokens | terms | vocabulary u32 | generations | router's signature 65
//! list: count u32, then the entries     generation: open | acks (hop u16, signature) | receipts | samples
//! ```
//! The encoding is explicit and canonical: entries stand in order, numbers are little-endian, and the router's signature
//! is over all bytes before it. So every byte counts: a changed one is refused. What an open says already, the digests
//! of opens and who shows it, is not written again.

use proto::session::{MAX_POSITIONS, MAX_STAGES};

use crate::check::{Evidence, GenerationEvidence, OpenedSample, Report, check};
use crate::eip712::{self, Typed, Words};
use crate::keys::{BindingError, SIGNATURE_BYTES, SignedBinding};
use crate::layout::{LayoutError, Reader, Writer};
use crate::open::{AckError, OpenAck, OpenError, SignedAck, SignedOpen};
use crate::receipt::{ReceiptError, SignedReceipt};
use crate::sample::{SAMPLE_BYTES, Sample, SamplingTerms};
use crate::{Digest, ReceiptKey, RecoverableSignature, SignatureError, tree};

/// Largest file: 2,000 times what an answer of 500 tokens over 3 hops takes.
pub const MAX_BUNDLE_BYTES: usize = 64 << 20;

/// Most generations: a session that broke more often was given up.
pub const MAX_GENERATIONS: usize = 256;

/// Most samples of a file: a hostile one must not keep whoever checks it for long. Judging one takes up to some
/// milliseconds, with a usual vocabulary and no truncation.
pub const MAX_SAMPLES: usize = 4096;

/// Largest vocabulary to judge samples by: four times the largest in use.
pub const MAX_VOCABULARY: u32 = 1 << 20;

/// Why evidence can't be put into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No generation, so nothing was computed.
    #[error("evidence of no generation")]
    Empty,
    /// The key is not the one of the opens.
    #[error("the key is not the one that signed the opens")]
    NotTheRouter,
    /// An acknowledgement or a receipt of another open: it can't be written, and should have been refused.
    #[error("generation {0} holds something of another open")]
    OtherOpen(u32),
    /// More than [`MAX_SAMPLES`], or a vocabulary over [`MAX_VOCABULARY`].
    #[error("more samples than anybody checks at once")]
    TooManySamples,
    /// Over [`MAX_BUNDLE_BYTES`].
    #[error("evidence of {0} bytes is over {MAX_BUNDLE_BYTES}")]
    TooLong(usize),
}

/// Why a file is no evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Over [`MAX_BUNDLE_BYTES`].
    #[error("evidence of {0} bytes is over {MAX_BUNDLE_BYTES}")]
    TooLong(usize),
    /// The bytes are not evidence.
    #[error("evidence does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// Not a file of this kind.
    #[error("not a file of evidence")]
    Magic,
    /// A later version of it.
    #[error("evidence of version {0}, known is {VERSION}")]
    Version(u16),
    /// The file's signature has not the right form.
    #[error("signature of the evidence: {0}")]
    Form(#[from] SignatureError),
    /// Not sealed by the router that it is of, or changed since.
    #[error("the evidence is not signed by its router")]
    NotByRouter,
    /// More samples than anybody checks at once.
    #[error("more than {MAX_SAMPLES} samples")]
    TooManySamples,
    /// Entries not in the order in which they are written.
    #[error("{0} not in order")]
    Order(&'static str),
    /// An open in it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A binding in it.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// An acknowledgement in it.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// A receipt in it.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
}

/// Writes evidence, signed by the router.
pub fn seal(evidence: &Evidence, key: &ReceiptKey) -> Result<Vec<u8>, SealError> {
    let first = evidence.generations.first().ok_or(SealError::Empty)?;
    if first.open.open.router_key != key.address() {
        return Err(SealError::NotTheRouter);
    }
    let samples: usize = evidence.generations.iter().map(|generation| generation.samples.len()).sum();
    if samples > MAX_SAMPLES || evidence.vocab_size > MAX_VOCABULARY {
        return Err(SealError::TooManySamples);
    }
    let mut writer = Writer::new();
    writer.bytes(MAGIC);
    writer.u16(VERSION);
    let mut bindings: Vec<Vec<u8>> = evidence.bindings.iter().map(SignedBinding::encode).collect();
    write_sorted(&mut writer, &mut bindings);
    writer.u32(evidence.tokens.len() as u32);
    evidence.tokens.iter().for_each(|&token| writer.u32(token));
    writer.u8(u8::from(evidence.terms.is_some()));
    if let Some(terms) = &evidence.terms {
        terms.write(&mut writer);
    }
    writer.u32(evidence.vocab_size);
    writer.u32(evidence.generations.len() as u32);
    for generation in &evidence.generations {
        write_generation(&mut writer, generation)?;
    }
    let mut bytes = writer.finish();
    let signature = key.sign(&content(&bytes));
    bytes.extend_from_slice(signature.as_bytes());
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(SealError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// Reads evidence and checks the router's signature over it; checks nothing in it.
pub fn read(bytes: &[u8]) -> Result<Evidence, BundleError> {
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLong(bytes.len()));
    }
    let body_len = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(LayoutError::CutShort("signature"))?;
    let (body, signature) = bytes.split_at(body_len);
    let signature = Reader::new(signature).array("signature")?;
    let presenter = RecoverableSignature::from_bytes(&signature)?.recover(&content(body))?;
    let mut reader = Reader::new(body);
    if &reader.array("magic")? != MAGIC {
        return Err(BundleError::Magic);
    }
    let version = reader.u16("version")?;
    if version != VERSION {
        return Err(BundleError::Version(version));
    }
    let bindings =
        reader.list::<_, BundleError>(MAX_BINDINGS, SignedBinding::BYTES, "bindings", |reader| {
            Ok(SignedBinding::read(reader)?)
        })?;
    if !bindings.is_sorted_by(|a, b| a.encode() < b.encode()) {
        return Err(BundleError::Order("bindings"));
    }
    let tokens = reader.list::<_, LayoutError>(MAX_TOKENS, 4, "tokens", |reader| reader.u32("token"))?;
    let terms = reader.flag("terms")?.then(|| SamplingTerms::read(&mut reader)).transpose()?;
    let vocab_size = reader.u32("vocabulary")?;
    let generations = reader.list(MAX_GENERATIONS, OPEN_BYTES, "generations", read_generation)?;
    reader.finish()?;
    let samples: usize = generations.iter().map(|generation| generation.samples.len()).sum();
    if samples > MAX_SAMPLES || vocab_size > MAX_VOCABULARY {
        return Err(BundleError::TooManySamples);
    }
    // Who has no key of the router can't have sealed it; who has made an open of his own is that router.
    if generations.first().is_none_or(|generation| generation.open.open.router_key != presenter) {
        return Err(BundleError::NotByRouter);
    }
    Ok(Evidence { presenter, bindings, tokens, terms, vocab_size, generations })
}

/// Reads evidence and checks all of it.
pub fn verify(bytes: &[u8]) -> Result<Report, BundleError> {
    read(bytes).map(|evidence| check(&evidence))
}

fn write_generation(writer: &mut Writer, generation: &GenerationEvidence) -> Result<(), SealError> {
    let GenerationEvidence { open, acks, receipts, samples } = generation;
    open.write(writer);
    let digest = open.open.digest();
    let other = SealError::OtherOpen(open.open.generation.get());
    let foreign = acks.iter().any(|ack| ack.ack.open != digest);
    if foreign || receipts.iter().any(|receipt| receipt.receipt.open != digest) {
        return Err(other);
    }
    let mut acks: Vec<&SignedAck> = acks.iter().collect();
    acks.sort_by_key(|ack| (ack.ack.hop, ack.signature));
    acks.dedup();
    writer.u32(acks.len() as u32);
    for ack in acks {
        writer.u16(ack.ack.hop);
        writer.bytes(ack.signature.as_bytes());
    }
    let mut receipts: Vec<(ReceiptOrder, Vec<u8>)> =
        receipts.iter().map(|receipt| (order(receipt), receipt.encode())).collect();
    receipts.sort();
    receipts.dedup();
    writer.u32(receipts.len() as u32);
    for (_, bytes) in &receipts {
        writer.bytes(bytes);
    }
    let mut samples: Vec<&OpenedSample> = samples.iter().collect();
    samples.sort_by_key(|opened| opened.sample.position());
    samples.dedup_by_key(|opened| opened.sample.position());
    writer.u32(samples.len() as u32);
    for OpenedSample { sample, path } in samples {
        sample.write(writer);
        writer.u8(path.len() as u8);
        for hash in path {
            writer.digest(hash);
        }
    }
    Ok(())
}

fn read_generation(reader: &mut Reader<'_>) -> Result<GenerationEvidence, BundleError> {
    let open = SignedOpen::read(reader)?;
    let digest = open.open.digest();
    let acks = reader.list::<_, BundleError>(MAX_STAGES, 2 + SIGNATURE_BYTES, "acks", |reader| {
        let ack = OpenAck { open: digest, hop: reader.u16("hop")? };
        let signature = RecoverableSignature::from_bytes(&reader.array("signature")?);
        Ok(SignedAck { ack, signature: signature.map_err(AckError::Form)? })
    })?;
    if !acks.is_sorted_by(|a, b| (a.ack.hop, a.signature) < (b.ack.hop, b.signature)) {
        return Err(BundleError::Order("acks"));
    }
    let receipts = reader
        .list(MAX_RECEIPTS, SignedReceipt::BYTES, "receipts", |reader| SignedReceipt::read(reader, digest))?;
    let ordered = |a: &SignedReceipt, b: &SignedReceipt| {
        order(a) < order(b) || (order(a) == order(b) && a.encode() < b.encode())
    };
    if !receipts.is_sorted_by(ordered) {
        return Err(BundleError::Order("receipts"));
    }
    let samples = reader.list(MAX_SAMPLES, SAMPLE_BYTES + 1, "samples", read_sample)?;
    if !samples.is_sorted_by(|a, b| a.sample.position() < b.sample.position()) {
        return Err(BundleError::Order("samples"));
    }
    Ok(GenerationEvidence { open, acks, receipts, samples })
}

fn read_sample(reader: &mut Reader<'_>) -> Result<OpenedSample, BundleError> {
    let sample = Sample::read(reader)?;
    let count = usize::from(reader.u8("path")?);
    let count = reader.count(count, tree::MAX_PATH, 32, "hashes of a path")?;
    let path = (0..count).map(|_| reader.digest("path")).collect::<Result<_, _>>()?;
    Ok(OpenedSample { sample, path })
}

/// Receipts stand by hop and rows; two of one slot by their bytes.
type ReceiptOrder = (u16, u32);

fn order(receipt: &SignedReceipt) -> ReceiptOrder {
    (receipt.receipt.hop, receipt.receipt.rows.end)
}

fn write_sorted(writer: &mut Writer, entries: &mut Vec<Vec<u8>>) {
    entries.sort();
    entries.dedup();
    writer.u32(entries.len() as u32);
    for entry in entries.iter() {
        writer.bytes(entry);
    }
}

fn content(body: &[u8]) -> Digest {
    let content = blake3::derive_key("layerlane attest evidence 1", body);
    eip712::digest(eip712::RECEIPTS, &Sealed { content: Digest::from_bytes(content) })
}

/// What the router signs.
struct Sealed {
    content: Digest,
}

impl Typed for Sealed {
    const TYPE: &'static str = "Evidence(bytes32 content)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.content.as_bytes());
    }
}

const MAGIC: &[u8; 4] = b"LLEV";
const VERSION: u16 = 1;
/// A binding for each hop of each generation's route would be a swarm that rotates keys by the minute.
const MAX_BINDINGS: usize = 1024;
/// Positions of the longest session, and the token after its last row.
const MAX_TOKENS: usize = MAX_POSITIONS as usize + 1;
/// A decode window is 32 rows, a prefill window 256: more receipts than this no route of 128 hops makes.
const MAX_RECEIPTS: usize = MAX_STAGES * (MAX_POSITIONS as usize / 32 + 2);
/// Bytes of an open with one hop, its signature and three empty lists.
const OPEN_BYTES: usize = 400;

/// Signs any bytes as a body: a reader must do without harm what a hostile router can make it read.
#[doc(hidden)]
pub fn sign_body(body: &[u8], key: &ReceiptKey) -> Vec<u8> {
    let signature = key.sign(&content(body));
    [body, signature.as_bytes()].concat()
}

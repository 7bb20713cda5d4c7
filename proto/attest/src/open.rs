//! What a router asks of the hops of a pipeline, signed before any row is computed; and their acknowledgement.
//!
//! There is one open for each generation. It names all hops, what each is paid and, as PROTOCOL 3.5 settles it, where
//! each goes on; and it names the open of the generation before. So it is made after all stages answered `Opened`.

use proto::session::{MAX_POSITIONS, MAX_STAGES};
use proto::tensor::NumericsClass;
use proto::{Generation, LayerSpan, ModelId, NodeId, SessionId};

use crate::cuts::{Cuts, HopRows};
use crate::eip712::{self, Typed, Words};
use crate::layout::LayoutError;
use crate::{Address, Amount, Digest, ReceiptKey, RecoverableSignature, SignatureError};

mod ack;
mod chain;
mod consent;
mod encoding;

pub use ack::{AckError, OpenAck, SignedAck};
pub use chain::ChainError;
pub use consent::{Consent, ConsentError};

/// Names a payment lane; what it is made of is settlement's affair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId([u8; 32]);

impl LaneId {
    /// No lane: the hop works unpaid.
    pub const UNPAID: Self = Self([0; 32]);

    /// Takes the 32 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// One hop of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteHop {
    /// Who computes.
    pub node: NodeId,
    /// Which layers.
    pub span: LayerSpan,
    /// What signs its receipts.
    pub receipt_key: Address,
    /// Where it is paid.
    pub lane: LaneId,
    /// For a row of a known token.
    pub price_prefill: Amount,
    /// For a row of a token that was chosen.
    pub price_decode: Amount,
    /// The first row that it computes; it has kept those before.
    pub goes_on: u32,
}

/// A generation of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionOpen {
    /// Whose session it is.
    pub router: NodeId,
    /// What signs opens and evidence for that router.
    pub router_key: Address,
    /// The session.
    pub session: SessionId,
    /// Its pipeline's number.
    pub generation: Generation,
    /// Digest of the open of the generation before; zero for the first one.
    pub prev: Digest,
    /// The weights.
    pub model: ModelId,
    /// How every hop computes.
    pub class: NumericsClass,
    /// Layers of the model, which the spans tile.
    pub n_layers: u32,
    /// The hops in order.
    pub route: Vec<RouteHop>,
    /// Tokens of the prompt.
    pub prompt_rows: u32,
    /// Tokens of the answer that the router had already: they are forced.
    pub forced_rows: u32,
    /// [`sampling_hash`](crate::sample::SamplingTerms::hash) of how tokens are chosen, the seed apart.
    pub sampling_hash: Digest,
    /// [`seed_commit`](crate::sample::SamplingTerms::seed_commit) of the seed.
    pub seed_commit: Digest,
    /// Tokens of the answer at most.
    pub max_tokens: u32,
    /// When it was signed, seconds since the Unix epoch.
    pub opened_unix_s: u64,
    /// Until when the session may last, seconds since the Unix epoch.
    pub deadline_unix_s: u64,
}

/// An open as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedOpen {
    /// The facts.
    pub open: SessionOpen,
    /// The router's signature.
    pub signature: RecoverableSignature,
}

/// An open whose limits and signature were checked, with its digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedOpen {
    signed: SignedOpen,
    digest: Digest,
}

/// Why an open is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not an open.
    #[error("open does not parse: {0}")]
    Layout(#[from] LayoutError),
    /// The signature has not the right form.
    #[error("signature of the open: {0}")]
    Form(#[from] SignatureError),
    /// A field breaks a limit.
    #[error("invalid {0}")]
    Field(&'static str),
    /// Not signed by the router's key.
    #[error("the open is not signed by its router's key")]
    NotByRouter,
}

impl SessionOpen {
    /// Signs as the router. Fails if a limit is broken or the key is not the one named.
    pub fn sign(self, key: &ReceiptKey) -> Result<VerifiedOpen, OpenError> {
        self.check()?;
        if key.address() != self.router_key {
            return Err(OpenError::NotByRouter);
        }
        let digest = self.digest();
        Ok(VerifiedOpen { signed: SignedOpen { signature: key.sign(&digest), open: self }, digest })
    }

    /// What is signed and what names it.
    pub fn digest(&self) -> Digest {
        eip712::digest(eip712::RECEIPTS, self)
    }

    /// Rows of tokens that are known at the open: from there on rows are decode rows.
    pub const fn known(&self) -> u32 {
        self.prompt_rows.saturating_add(self.forced_rows)
    }

    /// One past the last row that anybody asked for: that of the last token.
    pub const fn rows_end(&self) -> u32 {
        let end = self.prompt_rows.saturating_add(self.max_tokens);
        if end > self.known() { end } else { self.known() }
    }

    /// Where receipts of this generation end.
    pub const fn cuts(&self) -> Cuts {
        Cuts::new(self.known())
    }

    /// Number of the last hop, which samples.
    pub const fn tail(&self) -> u16 {
        self.route.len().saturating_sub(1) as u16
    }

    /// Hop number `hop`.
    pub fn hop(&self, hop: u16) -> Option<&RouteHop> {
        self.route.get(usize::from(hop))
    }

    /// What hop number `hop` has to do. The tail makes leaves of what it computes as if it sent them.
    pub fn rows_of(&self, hop: u16) -> Option<HopRows> {
        let computes_from = self.hop(hop)?.goes_on;
        let next = self.route.get(usize::from(hop) + 1);
        Some(HopRows { computes_from, sends_from: next.map_or(computes_from, |next| next.goes_on) })
    }

    /// What hop number `hop` has earned when its receipts reach up to row `end`: a function of the open, so that no
    /// receipt can ask for more.
    pub fn price_due(&self, hop: u16, end: u32) -> Option<Amount> {
        let RouteHop { price_prefill, price_decode, goes_on, .. } = *self.hop(hop)?;
        let prefill = end.min(self.known()).saturating_sub(goes_on);
        let decode = end.saturating_sub(self.known());
        Some(price_prefill.times(prefill).plus(price_decode.times(decode)))
    }

    fn check(&self) -> Result<(), OpenError> {
        let field = |name| Err(OpenError::Field(name));
        if self.route.is_empty() || self.route.len() > MAX_STAGES {
            return field("route");
        }
        if !LayerSpan::tile(self.route.iter().map(|hop| hop.span), self.n_layers) {
            return field("spans");
        }
        let known = u64::from(self.prompt_rows) + u64::from(self.forced_rows);
        if self.prompt_rows == 0 || known > u64::from(MAX_POSITIONS) || self.max_tokens > MAX_POSITIONS {
            return field("rows");
        }
        // The first one that is signed may be a later generation, if no token came in those before.
        let first = self.prev == Digest::ZERO;
        if (self.generation.get() == 0 && !first) || (first && self.forced_rows != 0) {
            return field("prev");
        }
        // At least the row from which the next token is chosen is computed.
        if self.route.iter().any(|hop| u64::from(hop.goes_on) >= known) {
            return field("goes_on");
        }
        let priced = |hop: &RouteHop| hop.price_prefill.max(hop.price_decode);
        if self.route.iter().any(|hop| {
            priced(hop) > Amount::MAX_PRICE || (hop.lane == LaneId::UNPAID && !priced(hop).is_zero())
        }) {
            return field("price");
        }
        if self.router_key == Address::ZERO || self.route.iter().any(|hop| hop.receipt_key == Address::ZERO) {
            return field("key");
        }
        if self.deadline_unix_s < self.opened_unix_s {
            return field("deadline");
        }
        Ok(())
    }
}

impl SignedOpen {
    /// Checks limits and signature.
    pub fn verify(self) -> Result<VerifiedOpen, OpenError> {
        self.open.check()?;
        let digest = self.open.digest();
        if !self.signature.is_of(&digest, self.open.router_key) {
            return Err(OpenError::NotByRouter);
        }
        Ok(VerifiedOpen { signed: self, digest })
    }
}

impl VerifiedOpen {
    /// The facts.
    pub const fn open(&self) -> &SessionOpen {
        &self.signed.open
    }

    /// The bytes to pass on.
    pub const fn signed(&self) -> &SignedOpen {
        &self.signed
    }

    /// What names it.
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

impl Typed for RouteHop {
    const TYPE: &'static str = "RouteHop(bytes32 node,uint32 spanStart,uint32 spanEnd,address receiptKey,\
                                bytes32 lane,uint128 pricePrefill,uint128 priceDecode,uint32 goesOn)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.node.as_bytes());
        words.uint(self.span.start());
        words.uint(self.span.end());
        words.address(self.receipt_key);
        words.bytes32(self.lane.as_bytes());
        words.uint(self.price_prefill.get());
        words.uint(self.price_decode.get());
        words.uint(self.goes_on);
    }
}

impl Typed for SessionOpen {
    const TYPE: &'static str = "SessionOpen(bytes32 router,address routerKey,uint64 session,uint32 generation,\
                                bytes32 prev,bytes32 model,uint8 class,uint32 layers,RouteHop[] route,\
                                uint32 promptRows,uint32 forcedRows,bytes32 samplingHash,bytes32 seedCommit,\
                                uint32 maxTokens,uint64 opened,uint64 deadline)\
                                RouteHop(bytes32 node,uint32 spanStart,uint32 spanEnd,address receiptKey,\
                                bytes32 lane,uint128 pricePrefill,uint128 priceDecode,uint32 goesOn)";

    fn write(&self, words: &mut Words) {
        words.bytes32(self.router.as_bytes());
        words.address(self.router_key);
        words.uint(self.session.get());
        words.uint(self.generation.get());
        words.bytes32(self.prev.as_bytes());
        words.bytes32(self.model.as_bytes());
        words.uint(class_number(self.class));
        words.uint(self.n_layers);
        words.structs(&self.route);
        words.uint(self.prompt_rows);
        words.uint(self.forced_rows);
        words.bytes32(self.sampling_hash.as_bytes());
        words.bytes32(self.seed_commit.as_bytes());
        words.uint(self.max_tokens);
        words.uint(self.opened_unix_s);
        words.uint(self.deadline_unix_s);
    }
}

/// Numbers of the numerics classes, as on the wire (PROTOCOL 6).
const fn class_number(class: NumericsClass) -> u8 {
    match class {
        NumericsClass::Exact => 0,
        NumericsClass::Bf16 => 1,
        NumericsClass::Int8 => 2,
        NumericsClass::Int4 => 3,
        NumericsClass::Bf16Kv8 => 4,
        NumericsClass::Int8Kv8 => 5,
        NumericsClass::Int4Kv8 => 6,
    }
}

#[cfg(test)]
mod tests;

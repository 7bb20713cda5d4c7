//! An open's bytes.
//!
//! ```text
//! 0        32           52        60           64     96      128     129        133
//! | router | router key | session | generation | prev | model | class | n_layers | hops u32, 128 bytes each |
//! | prompt_rows | forced_rows | sampling_hash | seed_commit | max_tokens | opened 8 | deadline 8 | signature 65 |
//! hop: | node | span start | span end | receipt key | lane | price_prefill 16 | price_decode 16 | goes_on |
//! ```

use proto::session::MAX_STAGES;
use proto::span::MAX_LAYERS;
use proto::tensor::NumericsClass;
use proto::{Generation, LayerSpan, ModelId, NodeId, SessionId};

use crate::keys::SIGNATURE_BYTES;
use crate::layout::{Reader, Writer};
use crate::open::{LaneId, OpenError, RouteHop, SessionOpen, SignedOpen, class_number};
use crate::{Address, Amount, RecoverableSignature};

impl SignedOpen {
    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// Reads the bytes; checks their form only.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(bytes);
        let open = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(open)
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        let open = &self.open;
        writer.bytes(open.router.as_bytes());
        writer.bytes(open.router_key.as_bytes());
        writer.u64(open.session.get());
        writer.u32(open.generation.get());
        writer.digest(&open.prev);
        writer.bytes(open.model.as_bytes());
        writer.u8(class_number(open.class));
        writer.u32(open.n_layers);
        writer.u32(open.route.len() as u32);
        for hop in &open.route {
            writer.bytes(hop.node.as_bytes());
            writer.u32(hop.span.start());
            writer.u32(hop.span.end());
            writer.bytes(hop.receipt_key.as_bytes());
            writer.bytes(hop.lane.as_bytes());
            writer.u128(hop.price_prefill.get());
            writer.u128(hop.price_decode.get());
            writer.u32(hop.goes_on);
        }
        writer.u32(open.prompt_rows);
        writer.u32(open.forced_rows);
        writer.digest(&open.sampling_hash);
        writer.digest(&open.seed_commit);
        writer.u32(open.max_tokens);
        writer.u64(open.opened_unix_s);
        writer.u64(open.deadline_unix_s);
        writer.bytes(self.signature.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, OpenError> {
        let open = SessionOpen {
            router: NodeId::from_bytes(reader.array("router")?),
            router_key: Address::from_bytes(reader.array("router key")?),
            session: SessionId::new(reader.u64("session")?),
            generation: Generation::new(reader.u32("generation")?),
            prev: reader.digest("prev")?,
            model: ModelId::from_bytes(reader.array("model")?),
            class: class_of(reader.u8("class")?)?,
            n_layers: reader.u32("layers")?,
            route: reader.list(MAX_STAGES, HOP_BYTES, "hops", read_hop)?,
            prompt_rows: reader.u32("prompt rows")?,
            forced_rows: reader.u32("forced rows")?,
            sampling_hash: reader.digest("sampling hash")?,
            seed_commit: reader.digest("seed commitment")?,
            max_tokens: reader.u32("max tokens")?,
            opened_unix_s: reader.u64("opened")?,
            deadline_unix_s: reader.u64("deadline")?,
        };
        if open.n_layers > MAX_LAYERS {
            return Err(OpenError::Field("layers"));
        }
        let signature = RecoverableSignature::from_bytes(&reader.array::<SIGNATURE_BYTES>("signature")?)?;
        open.check()?;
        Ok(Self { open, signature })
    }
}

fn read_hop(reader: &mut Reader<'_>) -> Result<RouteHop, OpenError> {
    let node = NodeId::from_bytes(reader.array("node")?);
    let (start, end) = (reader.u32("span")?, reader.u32("span")?);
    Ok(RouteHop {
        node,
        span: LayerSpan::new(start, end).map_err(|_| OpenError::Field("span"))?,
        receipt_key: Address::from_bytes(reader.array("receipt key")?),
        lane: LaneId(reader.array("lane")?),
        price_prefill: Amount::new(reader.u128("price")?),
        price_decode: Amount::new(reader.u128("price")?),
        goes_on: reader.u32("goes on")?,
    })
}

fn class_of(number: u8) -> Result<NumericsClass, OpenError> {
    let known = NumericsClass::ALL.into_iter().find(|&class| class_number(class) == number);
    known.ok_or(OpenError::Field("class"))
}

const HOP_BYTES: usize = 32 + 8 + 20 + 32 + 32 + 4;

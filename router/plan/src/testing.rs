//! Records for this crate's tests. The keys are guessable.

use proto::record::{NodeRecord, ShardOffer, VerifiedRecord};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeId, NodeKey};

/// The time of every view in tests.
pub(crate) const NOW: u64 = 10_000;

/// A node that holds some layers.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) number: u8,
    pub(crate) model: ModelId,
    pub(crate) name: &'static str,
    pub(crate) n_layers: u32,
    pub(crate) span: LayerSpan,
    pub(crate) class: NumericsClass,
    pub(crate) sequence: u64,
    pub(crate) issued_unix_s: u64,
    pub(crate) withdrawn: bool,
}

impl Shard {
    pub(crate) fn new(number: u8, start: u32, end: u32) -> Self {
        Self {
            number,
            model: model(3),
            name: "toy",
            n_layers: 30,
            span: LayerSpan::new(start, end).unwrap(),
            class: NumericsClass::Bf16,
            sequence: 1,
            issued_unix_s: NOW,
            withdrawn: false,
        }
    }

    pub(crate) fn record(&self) -> VerifiedRecord {
        let key = NodeKey::from_seed(&[self.number; 32]);
        let record = NodeRecord {
            node: key.node_id(),
            addresses: vec![([127, 0, 0, 1], 7000 + u16::from(self.number)).into()],
            offer: Some(ShardOffer {
                model: self.model,
                model_name: self.name.into(),
                n_layers: self.n_layers,
                span: self.span,
                class: self.class,
                kv_capacity: 4096,
            }),
            version: "test".into(),
            sequence: self.sequence,
            issued_unix_s: self.issued_unix_s,
            lease_s: 900,
            withdrawn: self.withdrawn,
        };
        record.sign(&key).unwrap().verify(self.issued_unix_s).unwrap()
    }
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeKey::from_seed(&[number; 32]).node_id()
}

pub(crate) fn model(number: u8) -> ModelId {
    ModelId::from_bytes([number; 32])
}

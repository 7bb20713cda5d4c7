//! Keys and records for tests and the simulation. Not for production: the keys are guessable.

use proto::record::{NodeRecord, ShardOffer};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeKey};

use crate::directory::Announcement;

/// The key of test node `number`.
pub fn node_key(number: u64) -> NodeKey {
    let mut seed = [0x5a; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    NodeKey::from_seed(&seed)
}

/// A record of `key`'s node that offers one layer of a model called `model_name`.
///
/// # Panics
/// If `model_name` is empty or too long for a record.
pub fn announcement(key: &NodeKey, model_name: &str) -> Announcement {
    let record = NodeRecord {
        node: key.node_id(),
        addresses: vec![([127, 0, 0, 1], 7401).into()],
        offer: Some(ShardOffer {
            model: ModelId::from_bytes([7; 32]),
            model_name: model_name.into(),
            n_layers: 8,
            span: LayerSpan::new(0, 1).expect("a span of one layer is valid"),
            class: NumericsClass::Exact,
            kv_capacity: 4096,
        }),
        version: "test".into(),
        sequence: 0,
        issued_unix_s: 0,
        lease_s: 900,
        withdrawn: false,
    };
    Announcement::new(key.clone(), record).expect("the test record keeps all limits")
}

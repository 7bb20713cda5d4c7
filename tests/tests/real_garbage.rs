//! Real processes with the real model, among them a node that computes nothing and sends rows that are no numbers.
//! It is honest in everything else: it is found in the DHT, opens sessions, and reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use cluster_tests::processes::Programs;
use cluster_tests::serving::Serving;
use cluster_tests::watched::{Gaps, all, exact_node, until_known};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, NodeId, NodeKey, Position};
use proto_transport::Target;
use shard_node::discovery::Discovery;
use shard_node::node::{Node, NodeConfig, ServedModel};
use shard_node_stage::{KvSlot, Stage, StageError, StageShape, StepGroup, StepInput, StepOutput};
use shard_node_weights::Checkpoint;

/// A stage without arithmetic.
struct Garbage {
    shape: StageShape,
    slots: u32,
    steps: Arc<AtomicU32>,
    under_way: u32,
}

impl Garbage {
    /// Rows of NaN.
    fn rows(&self, rows: u32) -> StepOutput {
        self.steps.fetch_add(1, Ordering::Relaxed);
        let values = rows * self.shape.hidden;
        StepOutput::Activations((0..values).flat_map(|_| f32::NAN.to_le_bytes()).collect::<Bytes>())
    }
}

impl Stage for Garbage {
    fn shape(&self) -> StageShape {
        self.shape
    }

    fn open_part(&mut self, _part: LayerSpan, _max_positions: u32) -> Result<KvSlot, StageError> {
        self.slots += 1;
        Ok(KvSlot::new(self.slots))
    }

    fn close(&mut self, _slot: KvSlot) {}

    fn trim(&mut self, _slot: KvSlot, _length: Position) -> Result<(), StageError> {
        Ok(())
    }

    fn copy(&mut self, _from: KvSlot, _to: KvSlot, _length: Position) -> Result<(), StageError> {
        Ok(())
    }

    fn retain(&mut self, _slot: KvSlot, _length: Position) -> Result<(), StageError> {
        Ok(())
    }

    fn step(&mut self, groups: &[StepGroup], _input: StepInput) -> Result<StepOutput, StageError> {
        Ok(self.rows(groups.iter().map(|group| group.rows).sum()))
    }

    fn begin(&mut self, groups: &[StepGroup], _input: StepInput) -> Result<(), StageError> {
        self.under_way = groups.iter().map(|group| group.rows).sum();
        Ok(())
    }

    fn resume(&mut self, _layers: u32) -> Result<Option<StepOutput>, StageError> {
        Ok(Some(self.rows(self.under_way)))
    }

    fn give_up(&mut self) {}

    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError> {
        Err(StageError::Input(format!("it embeds none of {} tokens", tokens.len())))
    }

    fn last_rows(&mut self) -> Result<Bytes, StageError> {
        Err(StageError::Input("it gives no logits".into()))
    }

    fn kv_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_touched_by_a_node_that_sends_no_numbers() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let first = exact_node(&programs, home.path(), "0..15", None, &[]).unwrap();
    let others: Vec<_> = ["15..30", "15..30"]
        .map(|span| exact_node(&programs, home.path(), span, Some(&first), &[]).unwrap())
        .into();
    let router = Serving::start(&programs, home.path(), &first.ready().target(), &[]).unwrap();
    until_known(&router, 3).await;
    let undisturbed = all(router.listen, usize::MAX, || {}).await;

    let checkpoint = Checkpoint::open(programs.model().unwrap().as_ref()).unwrap();
    let described = shard_node_weights::manifest::compute(&checkpoint, |_, _| {}).unwrap();
    let architecture = described.manifest.architecture.clone();
    let shape = StageShape {
        span: LayerSpan::new(0, 15).unwrap(),
        n_layers: architecture.n_layers,
        hidden: architecture.hidden,
        vocab: architecture.vocab,
        context: architecture.context,
        class: NumericsClass::Exact,
        kv_bytes_per_position: 1,
        kv_positions: None,
    };
    let served = ServedModel {
        name: "smollm2-135m-instruct".into(),
        manifest: described.manifest.to_bytes().into(),
        tokenizer: described.tokenizer_json.map(Bytes::from),
    };
    let steps = Arc::new(AtomicU32::new(0));
    let garbage = Garbage { shape, slots: 0, steps: Arc::clone(&steps), under_way: 0 };
    let mut config = NodeConfig::new(NodeKey::from_seed(&[66; 32]), ([127, 0, 0, 1], 0).into(), served);
    config.kv_positions = Some(1 << 16);
    let id: NodeId = first.ready().node.parse().unwrap();
    let bootstrap = vec![Target::node(id, first.ready().listen.parse().unwrap())];
    let discovery = Discovery::Dht { bootstrap, state_dir: None };
    let node = Node::bind(config, discovery, Box::new(move || Ok(Box::new(garbage)))).await.unwrap();
    until_known(&router, 4).await;

    let mut gaps = Gaps::default();
    for round in 0..2 {
        let answers = all(router.listen, usize::MAX, || {}).await;
        gaps.take(&format!("round {round}"), &answers, &undisturbed);
    }
    let steps = steps.load(Ordering::Relaxed);
    eprintln!("{gaps}; {steps} steps of garbage");
    assert!(steps > 0, "no answer was ever given to it");
    node.stop_now().await;
    drop(others);
}

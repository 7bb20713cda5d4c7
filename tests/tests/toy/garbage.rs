//! A stage that begins to send rows that are no numbers, in the middle of answers.

use bytes::Bytes;
use proto::{LayerSpan, Position};
use router::generate::{Finish, Step};
use shard_node_stage::{
    KvSlot, Stage, StageError, StageLoader, StageShape, StepGroup, StepInput, StepOutput, ToyModel, ToyStage,
};

use crate::swarm::{LAYERS, Settings, ToySwarm, metric, request};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

/// A toy stage whose rows are good up to a position, and then none is.
struct Spoilt {
    toy: ToyStage,
    good: Position,
    bits: u32,
    /// Of a step in pieces.
    under_way: Vec<StepGroup>,
}

/// A loader of a stage whose rows are spoilt from the row `good` on.
pub(crate) fn spoilt(toy: ToyStage, good: u32, bits: u32) -> StageLoader {
    let spoilt = Spoilt { toy, good: Position::new(good), bits, under_way: Vec::new() };
    Box::new(move || Ok(Box::new(spoilt)))
}

impl Spoilt {
    /// The first value of each row from `good` on becomes `bits`.
    fn spoil(&self, groups: &[StepGroup], output: StepOutput) -> StepOutput {
        let StepOutput::Activations(rows) = output else { return output };
        let row_bytes = self.toy.shape().row_bytes();
        let mut rows = rows.to_vec();
        let mut at = 0;
        for group in groups {
            for row in 0..group.rows {
                if group.start.plus(row) >= self.good {
                    rows[at..at + 4].copy_from_slice(&self.bits.to_le_bytes());
                }
                at += row_bytes;
            }
        }
        StepOutput::Activations(Bytes::from(rows))
    }
}

impl Stage for Spoilt {
    fn shape(&self) -> StageShape {
        self.toy.shape()
    }

    fn open_part(&mut self, part: LayerSpan, max_positions: u32) -> Result<KvSlot, StageError> {
        self.toy.open_part(part, max_positions)
    }

    fn close(&mut self, slot: KvSlot) {
        self.toy.close(slot);
    }

    fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.toy.trim(slot, length)
    }

    fn copy(&mut self, from: KvSlot, to: KvSlot, length: Position) -> Result<(), StageError> {
        self.toy.copy(from, to, length)
    }

    fn retain(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.toy.retain(slot, length)
    }

    fn step(&mut self, groups: &[StepGroup], input: StepInput) -> Result<StepOutput, StageError> {
        let output = self.toy.step(groups, input)?;
        Ok(self.spoil(groups, output))
    }

    fn begin(&mut self, groups: &[StepGroup], input: StepInput) -> Result<(), StageError> {
        self.under_way = groups.to_vec();
        self.toy.begin(groups, input)
    }

    fn resume(&mut self, layers: u32) -> Result<Option<StepOutput>, StageError> {
        let output = self.toy.resume(layers)?;
        Ok(output.map(|output| self.spoil(&self.under_way, output)))
    }

    fn give_up(&mut self) {
        self.toy.give_up();
    }

    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError> {
        self.toy.embed(tokens)
    }

    fn last_rows(&mut self) -> Result<Bytes, StageError> {
        self.toy.last_rows()
    }

    fn kv_bytes(&self) -> u64 {
        self.toy.kv_bytes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_leaves_a_stage_whose_rows_are_no_numbers() {
    for (good, bits) in [(40, f32::NAN.to_bits()), (60, f32::INFINITY.to_bits()), (0, f32::NAN.to_bits())] {
        // Two of each span but the middle one, of which the first is spoilt and the second comes later.
        let spans = Settings::spans(&[(0, 10), (20, 30), (0, 10), (20, 30)]);
        let served = spans.served.clone();
        let mut swarm = ToySwarm::start(spans).await;
        let middle = LayerSpan::new(10, 20).unwrap();
        let toy = ToyStage::new(ToyModel::new(LAYERS), middle);
        swarm.add_stage(served.clone(), spoilt(toy, good, bits)).await;
        let router = swarm.router(100).await;
        let bad = swarm.id(4);
        swarm.add(middle, served, None).await;
        let (mut routes, mut tokens) = (Vec::new(), Vec::new());
        let mut watch = |step: Step<'_>| match step {
            Step::Route(to) | Step::Moved(_, to) => {
                routes.push(to.stages.iter().map(|stage| stage.node).collect::<Vec<_>>());
            }
            Step::Token(timed, _) => tokens.push(timed.token.token),
            Step::Retry(error) => assert!(error.to_string().contains("no number"), "{error}"),
            Step::Rest(_) => {}
        };
        let reply = router.watch(&request(&PROMPT, 100), &mut watch).await.unwrap();
        assert_eq!(reply.finish, Finish::Length);
        assert_eq!(tokens, swarm.model.answer(&PROMPT, 100), "what it sent is in no token");
        assert_eq!(routes.len(), 2, "{routes:?}");
        assert!(routes[0].contains(&bad) && !routes[1].contains(&bad), "{routes:?}");
        let accused =
            (0..6).map(|node| metric(&swarm.nodes[node], "shard_node_protocol_errors_total")).sum::<usize>();
        assert_eq!(accused, 0, "the frames are as they should be");
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

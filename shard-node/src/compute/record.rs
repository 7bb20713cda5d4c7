//! What the attest thread is told of a step.

use bytes::Bytes;
use proto::session::Sampled;
use shard_node_stage::StepInput;

use crate::attest::{Chosen, Recorded, StepRecord};
use crate::session::table::Effect;
use crate::session::{Report, Step};

/// The attested rows of a step, before anything is chosen from it: `logits` are as the stage gave them, a row of `vocab`
/// for each sampled member, and `output` what the layers gave.
pub(super) fn begin(step: &Step, input: StepInput, output: Bytes, logits: &[f32], vocab: u32) -> StepRecord {
    let mut logits = logits.chunks_exact((vocab as usize).max(1));
    let (mut members, mut at) = (Vec::new(), 0);
    for member in &step.members {
        let row = &member.row;
        let logits = if row.sample { logits.next() } else { None };
        if member.attested {
            members.push(Recorded {
                key: member.key,
                generation: row.generation,
                start: row.start,
                rows: row.rows,
                at,
                sent: member.wanted,
                // Which token that was is known afterwards.
                chosen: logits.map(|logits| Chosen {
                    token: u32::MAX,
                    logprob: 0.0,
                    logits: logits.to_vec(),
                }),
            });
        }
        at += row.rows as usize;
    }
    StepRecord { members, input, output }
}

/// What was chosen; a member from which nothing was chosen in the end has nothing to say of it.
pub(super) fn choose(record: &mut StepRecord, effects: &[Effect]) {
    for member in &mut record.members {
        let position = member.start.plus(member.rows);
        let sampled = effects.iter().find_map(|effect| match effect {
            Effect::Report(router, Report::Sampled(sampled)) if is_of(member, *router, sampled) => {
                Some(sampled)
            }
            _ => None,
        });
        member.chosen = member
            .chosen
            .take()
            .zip(sampled.filter(|sampled| sampled.position == position))
            .map(|(chosen, sampled)| Chosen { token: sampled.token, logprob: sampled.logprob, ..chosen });
    }
}

fn is_of(member: &Recorded, router: proto::NodeId, sampled: &Sampled) -> bool {
    (member.key.router, member.key.session, member.generation)
        == (router, sampled.session, sampled.generation)
}

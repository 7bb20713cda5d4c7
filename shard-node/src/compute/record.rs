//! What the attest thread is told of a step.

use bytes::Bytes;
use proto_attest::sample::Sample;
use shard_node_stage::StepInput;

use crate::attest::{Chosen, Recorded, StepRecord};
use crate::session::Step;
use crate::session::table::Effect;

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
                // Which token that was, and the sum of all, is known afterwards.
                chosen: logits.map(|logits| Chosen {
                    token: u32::MAX,
                    logsumexp: f32::NAN,
                    top: Sample::likeliest(logits),
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
        let next = member.start.plus(member.rows);
        let chosen = effects.iter().find_map(|effect| match *effect {
            Effect::Chosen(key, position, token, logsumexp) if (key, position) == (member.key, next) => {
                Some((token, logsumexp))
            }
            _ => None,
        });
        let known = member.chosen.take().zip(chosen);
        member.chosen = known.map(|(before, (token, logsumexp))| Chosen { token, logsumexp, ..before });
    }
}

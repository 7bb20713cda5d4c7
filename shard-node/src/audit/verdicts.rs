//! Opened rows against recomputed ones, and the verdict that is signed of it.

use proto::tensor::NumericsClass;
use proto::{ContentHash, LayerSpan, NodeId};
use proto_attest::calibration::Calibration;
use proto_attest::check::Evidence;
use proto_attest::delta::{ChunkDelta, chunk_deltas, rows_from_wire};
use proto_attest::sample::{Sample, TokenVerdict, judge as judge_token};
use proto_attest::verdict::{
    AuditVerdict, Judgement, MAX_DEVICE_BYTES, Method, Outcome, SignedVerdict, judge_equality, judge_rows,
};
use proto_attest::{Digest, ReceiptKey};
use proto_sampling::TokenCounts;
use shard_node_stage::StageShape;

use super::{Opened, Recomputed, Work};

/// Judges by one calibration.
#[derive(Debug)]
pub struct Judge<'a> {
    /// What was served.
    pub shape: StageShape,
    /// The answer.
    pub evidence: &'a Evidence,
    /// What honest nodes give, with the file's name; none in class `exact`.
    pub calibration: Option<(&'a Calibration, ContentHash)>,
    /// The auditor's program.
    pub exec_build: Digest,
    /// The auditor's key.
    pub key: &'a ReceiptKey,
}

/// A verdict with what it is of.
#[derive(Debug)]
pub struct Verdict {
    /// As it is signed.
    pub signed: SignedVerdict,
    /// Which layers.
    pub span: LayerSpan,
    /// Rows judged.
    pub rows: std::ops::Range<u32>,
}

impl Judge<'_> {
    /// The deltas of what a hop sent under a receipt, for tests over many sessions; none in class `exact`.
    pub fn deltas(&self, opened: &Opened, again: &Recomputed) -> Vec<ChunkDelta> {
        let dtype = self.shape.class.wire_dtype();
        let rows = |bytes: &[u8]| rows_from_wire(bytes, dtype);
        let deltas = rows(&again.input).and_then(|input| {
            chunk_deltas(&input, &rows(&opened.sent)?, &rows(&again.output)?, self.shape.hidden as usize)
        });
        if self.shape.class == NumericsClass::Exact { Vec::new() } else { deltas.unwrap_or_default() }
    }

    /// Judges what a hop sent under a receipt.
    pub fn rows(&self, span: LayerSpan, opened: &Opened, again: &Recomputed) -> Judgement {
        let unjudged = Judgement {
            method: Method::ChunkDelta,
            outcome: Outcome::Unjudged,
            statistic: 0.0,
            threshold: 0.0,
            count: 0,
        };
        if self.shape.class == NumericsClass::Exact {
            let judged = judge_equality(&opened.sent, &again.output, self.shape.row_bytes());
            return judged.unwrap_or(Judgement { method: Method::Equality, ..unjudged });
        }
        let dtype = self.shape.class.wire_dtype();
        let rows = |bytes: &[u8]| rows_from_wire(bytes, dtype);
        let judged = rows(&again.input).and_then(|input| {
            let (committed, recomputed) = (rows(&opened.sent)?, rows(&again.output)?);
            let of_span = self.calibration.and_then(|(calibration, _)| calibration.span(span));
            judge_rows(&input, &committed, &recomputed, self.shape.hidden as usize, of_span)
        });
        judged.unwrap_or(unjudged)
    }

    /// In class `exact`: whether each token of a tail's receipt follows from the logits that were computed again. `None`
    /// if the receipt is of no tokens, or a grammar had a say in them.
    pub fn tokens(&self, work: &Work<'_>, again: &Recomputed) -> Option<Judgement> {
        let sampler = work.receipt.sampler()?;
        let terms = self.evidence.terms.as_ref().filter(|terms| !terms.constrained)?;
        let exact = self.shape.class == NumericsClass::Exact;
        let first_row = work.receipt.receipt().rows.sent_start;
        let mut wrong = 0u32;
        for (position, &token) in (sampler.seed_index..).zip(&sampler.tokens).filter(|_| exact) {
            let logits = again.logits.get((position - 1).checked_sub(first_row)? as usize)?;
            let sample = Sample::of_logits(proto::Position::new(position), logits).ok()?;
            let before = self.evidence.tokens.get(..position as usize)?;
            let generated = position - work.open.open().prompt_rows;
            let history = TokenCounts::from_history(before, generated);
            let judged = judge_token(&sample, token, &terms.params, logits.len(), &history, None).ok()?;
            wrong += u32::from(judged == TokenVerdict::Fail);
        }
        exact.then(|| Judgement {
            method: Method::SeededChoice,
            outcome: if wrong == 0 { Outcome::Pass } else { Outcome::Fail },
            statistic: f64::from(wrong),
            threshold: 0.0,
            count: sampler.tokens.len() as u32,
        })
    }

    /// Signs a verdict.
    pub fn sign(
        &self,
        (challenge, node): (Digest, NodeId),
        (span, work): (LayerSpan, &Work<'_>),
        judgement: Judgement,
        device: &str,
        now_unix_s: u64,
    ) -> Option<Verdict> {
        let facts = work.receipt.receipt();
        let none = ContentHash::from_bytes([0; 32]);
        let verdict = AuditVerdict {
            challenge,
            receipt: work.receipt.digest(),
            node,
            receipt_key: work.receipt.signer(work.open.open())?,
            judgement,
            calibration: self.calibration.map_or(none, |(_, name)| name),
            exec_build: self.exec_build,
            device: device.to_owned(),
            auditor: self.key.address(),
            judged_unix_s: now_unix_s,
        };
        let signed = verdict.sign(self.key).ok()?;
        Some(Verdict { signed, span, rows: facts.rows.sent_start..facts.rows.end })
    }
}

/// The machine's processor as verdicts and calibrations name it.
pub fn device_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = model.map_or("cpu", |(_, name)| name.trim());
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > MAX_DEVICE_BYTES {
        name.pop();
    }
    if name.is_empty() { "cpu".into() } else { name }
}

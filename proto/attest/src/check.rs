//! Judges a session's evidence: opens, acknowledgements, receipts of all hops and generations, tokens.
//!
//! The answer is a list of findings. A **fault** names whose key answers for it; a **gap** is something that nobody
//! signed or that can't be compared, as when a hop was killed before it signed; a **note** is for whoever reads the
//! table. Only what somebody's own signature contradicts is a fault of theirs; what no signature explains is the fault
//! of who shows it, as an honest router checks what comes in and passes on nothing that is wrong.
//!
//! Two neighbours that signed different roots for the same rows contradict each other, and their signatures don't say
//! which of them lies: both are named, and the one who can't open its root, or whose opened rows an audit refutes, is it.

mod boundary;
mod coverage;
mod finding;
mod hops;
mod identity;
mod tokens;

pub use finding::{Blame, Finding, Severity, What};

use proto::{LayerSpan, NodeId};

use crate::keys::SignedBinding;
use crate::open::{SignedAck, SignedOpen, VerifiedOpen};
use crate::receipt::SignedReceipt;
use crate::sample::{Sample, SamplingTerms};
use crate::{Address, Amount, Digest};
use hops::{Generation, History};

/// All that is known of a session.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// Whoever shows it, the router, answers for what no signature explains.
    pub presenter: Address,
    /// Whose receipt keys they are.
    pub bindings: Vec<SignedBinding>,
    /// Tokens of prompt and answer.
    pub tokens: Vec<u32>,
    /// How tokens were chosen, if the seed may be known.
    pub terms: Option<SamplingTerms>,
    /// Tokens of the model's vocabulary, to judge samples by; 0 if there are none.
    pub vocab_size: u32,
    /// From the first generation on.
    pub generations: Vec<GenerationEvidence>,
}

/// What is known of one generation.
#[derive(Clone, PartialEq, Debug)]
pub struct GenerationEvidence {
    /// The open.
    pub open: SignedOpen,
    /// Of its hops.
    pub acks: Vec<SignedAck>,
    /// Of all hops, in any order.
    pub receipts: Vec<SignedReceipt>,
    /// Opened commitments of the tail.
    pub samples: Vec<OpenedSample>,
}

/// A sample with the proof that the tail committed to it.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenedSample {
    /// What the tail chose from.
    pub sample: Sample,
    /// From its leaf to the root of its sampler receipt.
    pub path: Vec<Digest>,
}

/// What came of a check.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// One for each node and span that took part, by route.
    pub hops: Vec<HopTotal>,
    /// Receipts whose signatures and contents hold.
    pub receipts_verified: u32,
    /// Receipts shown.
    pub receipts_shown: u32,
    /// Tokens of the answer.
    pub tokens_delivered: u32,
    /// Of these, the ones that a tail signed for.
    pub tokens_signed: u32,
    /// Tokens whose sample was opened and from which they follow.
    pub tokens_judged: u32,
}

/// What one node did in a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HopTotal {
    /// Who.
    pub node: NodeId,
    /// Which layers.
    pub span: LayerSpan,
    /// Its receipts that hold.
    pub receipts: u32,
    /// Rows of known tokens that they cover.
    pub prefill_rows: u32,
    /// Rows of chosen tokens that they cover.
    pub decode_rows: u32,
    /// Of these, rows whose token was not delivered: computed ahead, within the router's credit.
    pub waste_rows: u32,
    /// What is due to it, in all generations.
    pub price_due: Amount,
}

impl Report {
    /// The findings that name a key.
    pub fn faults(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| matches!(finding.severity, Severity::Fault(_)))
    }

    /// The keys that a fault names alone, each once.
    pub fn guilty(&self) -> Vec<Address> {
        let mut keys = Vec::new();
        for finding in &self.findings {
            if let Severity::Fault(Blame::Key(key)) = finding.severity
                && !keys.contains(&key)
            {
                keys.push(key);
            }
        }
        keys
    }

    /// The findings of rows that nobody answers for.
    pub fn gaps(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Gap)
    }

    /// Whether everything that was shown holds: no fault. There may be gaps.
    pub fn holds(&self) -> bool {
        self.faults().next().is_none()
    }
}

/// Checks everything that can be checked without weights.
pub fn check(evidence: &Evidence) -> Report {
    let mut report = Report::default();
    let opens = opens(evidence, &mut report);
    let mut history = History::default();
    let mut generations = Vec::new();
    for (index, open) in opens.into_iter().enumerate() {
        let shown = &evidence.generations[index];
        // Tokens that came in it: up to the next open, or to the end.
        let next = evidence.generations.get(index + 1).map(|next| next.open.open.known());
        let tokens_end = next.unwrap_or(evidence.tokens.len() as u32);
        let generation = Generation::new(open, tokens_end, shown, evidence.presenter, &mut report);
        generation.check_chain(&mut history, &mut report);
        coverage::check(&generation, &history, &mut report);
        boundary::check(&generation, &mut report);
        tokens::check(&generation, evidence, shown, &mut report);
        history.remember(&generation);
        generations.push(generation);
    }
    identity::check(evidence, &generations, &mut report);
    coverage::total(&generations, &mut report);
    report
}

/// The opens up to the first one that does not hold.
fn opens(evidence: &Evidence, report: &mut Report) -> Vec<VerifiedOpen> {
    let mut opens: Vec<VerifiedOpen> = Vec::new();
    for shown in &evidence.generations {
        report.receipts_shown += shown.receipts.len() as u32;
        let number = shown.open.open.generation.get();
        let open = match shown.open.clone().verify() {
            Ok(open) => open,
            Err(error) => {
                report.fault(Blame::Key(evidence.presenter), What::OpenInvalid(error), number);
                return opens;
            }
        };
        match opens.last() {
            None if open.open().prev != Digest::ZERO => {
                report.gap(What::EarlierGenerationsMissing, number);
            }
            None => {}
            Some(before) => {
                if let Err(error) = open.follows(before) {
                    report.fault(Blame::Key(open.open().router_key), What::OpenChain(error), number);
                    return opens;
                }
            }
        }
        if open.open().router_key != evidence.presenter {
            report.fault(Blame::Key(evidence.presenter), What::OpenOfAnother, number);
            return opens;
        }
        opens.push(open);
    }
    let Some(last) = opens.last() else { return opens };
    let (open, told) = (last.open(), evidence.tokens.len() as u64);
    report.tokens_delivered = (told as u32).saturating_sub(open.prompt_rows);
    let most = u64::from(open.prompt_rows) + u64::from(open.max_tokens);
    if told < u64::from(open.known()) || told > most {
        let number = open.generation.get();
        report.fault(Blame::Key(evidence.presenter), What::TokenCount, number);
    }
    opens
}

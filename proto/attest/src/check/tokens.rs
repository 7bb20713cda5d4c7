//! Tokens: what stage 0 was given, what the tail signed for, what was delivered, and what the tail chose from.

use std::collections::BTreeMap;

use proto_sampling::TokenCounts;

use crate::check::hops::Generation;
use crate::check::{Blame, Evidence, Finding, GenerationEvidence, OpenedSample, Report, What};
use crate::receipt::{SamplerReceipt, VerifiedReceipt};
use crate::sample::{Sample, TokenVerdict, judge};
use crate::{Address, Leaf, LeafHasher, tree};

/// Checks a generation's tokens.
pub(super) fn check(
    generation: &Generation,
    evidence: &Evidence,
    shown: &GenerationEvidence,
    report: &mut Report,
) {
    let tail = generation.hops.len() - 1;
    let key = generation.open().route[tail].receipt_key;
    let tokens = Tokens { generation, evidence, tail: tail as u16, key, signed: signed(generation) };
    tokens.delivered(report);
    tokens.input(report);
    tokens.samples(shown, report);
}

struct Tokens<'a> {
    generation: &'a Generation,
    evidence: &'a Evidence,
    tail: u16,
    /// The tail's.
    key: Address,
    /// What the tail signed for, by position.
    signed: BTreeMap<u32, u32>,
}

fn signed(generation: &Generation) -> BTreeMap<u32, u32> {
    let samplers = generation.hops.iter().flat_map(BTreeMap::values).filter_map(VerifiedReceipt::sampler);
    let tokens = samplers.flat_map(|sampler| (sampler.seed_index..).zip(sampler.tokens.iter().copied()));
    tokens.collect()
}

impl Tokens<'_> {
    /// What came in this generation is what the tail signed for.
    fn delivered(&self, report: &mut Report) {
        let number = self.generation.number();
        let known = self.generation.open().known();
        let mut open: Option<u32> = None;
        let mut unsigned = |open: &mut Option<u32>, end: u32| {
            if let Some(start) = open.take() {
                let finding = Finding::gap(What::TokensUnattested, number);
                report.findings.push(finding.at(self.tail, start..end));
            }
        };
        let mut wrong = Vec::new();
        let mut count = 0;
        for position in known..self.generation.tokens_end {
            let Some(&delivered) = self.evidence.tokens.get(position as usize) else { break };
            match self.signed.get(&position) {
                Some(&token) => {
                    unsigned(&mut open, position);
                    count += 1;
                    if token != delivered {
                        wrong.push(position);
                    }
                }
                None => {
                    open.get_or_insert(position);
                }
            }
        }
        unsigned(&mut open, self.generation.tokens_end);
        report.tokens_signed += count;
        for position in wrong {
            let blame = Blame::between(self.key, self.evidence.presenter);
            let finding = Finding::fault(blame, What::Delivered, number);
            report.findings.push(finding.at(self.tail, position..position + 1));
        }
    }

    /// What stage 0 signed for is what it was given: known tokens by the router, chosen ones by the tail.
    fn input(&self, report: &mut Report) {
        let open = self.generation.open();
        let hasher = LeafHasher::of_rows(open.router, open.session, open.generation);
        for receipt in self.generation.hops[0].values() {
            let rows = receipt.receipt().rows;
            let tokens: Vec<Option<u32>> = (rows.start..rows.end).map(|row| self.token(row)).collect();
            let leaves = (rows.start..)
                .zip(&tokens)
                .map(|(row, token)| token.map(|token| hasher.token(proto::Position::new(row), token)));
            let leaves: Vec<Option<Leaf>> = leaves.collect();
            let root =
                leaves.iter().copied().collect::<Option<Vec<Leaf>>>().map(|leaves| tree::root(&leaves));
            let holds = if let Some(root) = root {
                rows.computed() == 0 || root == receipt.receipt().in_root
            } else {
                // Rows computed ahead, whose tokens the tail did not sign for: compare what is known.
                let mut signed = receipt.leaves().received.iter().zip(&leaves);
                signed.all(|(signed, leaf)| leaf.is_none_or(|leaf| leaf == *signed))
            };
            if !holds {
                let chosen = rows.end > open.known();
                let giver = if chosen { self.key } else { self.evidence.presenter };
                let blame = Blame::between(giver, open.route[0].receipt_key);
                let finding = Finding::fault(blame, What::Input, self.generation.number());
                report.findings.push(finding.at(0, rows.start..rows.end));
            }
        }
    }

    /// The token at a position of this generation: known ones by the router, chosen ones by the tail's signature. What
    /// the tail did not sign for it may have told router and stage 0 differently.
    fn token(&self, position: u32) -> Option<u32> {
        if position >= self.generation.open().known() {
            return self.signed.get(&position).copied();
        }
        self.evidence.tokens.get(position as usize).copied()
    }

    /// Opened samples were committed to, and their tokens follow from them.
    fn samples(&self, shown: &GenerationEvidence, report: &mut Report) {
        if shown.samples.is_empty() {
            return;
        }
        let open = self.generation.open();
        let number = self.generation.number();
        let presenter = Blame::Key(self.evidence.presenter);
        let terms = self.evidence.terms.as_ref();
        let fits = |hash, seed| (hash, seed) == (open.sampling_hash, open.seed_commit);
        if terms.is_some_and(|terms| !fits(terms.hash(), terms.seed_commit())) {
            report.fault(presenter, What::Terms, number);
            return;
        }
        let hasher = Sample::hasher(open.router, open.session, open.generation);
        for OpenedSample { sample, path } in &shown.samples {
            let position = sample.position().get();
            let place = position..position.saturating_add(1);
            let proven = self.commitment(position).is_some_and(|(sampler, index)| {
                let count = sampler.tokens.len() as u32;
                tree::verify(&sampler.samples_root, count, index, sample.leaf(&hasher), path)
            });
            if !proven {
                let finding = Finding::fault(presenter, What::SampleInvalid, number);
                report.findings.push(finding.at(self.tail, place));
                continue;
            }
            match self.judge(sample) {
                Some(TokenVerdict::Pass) => report.tokens_judged += 1,
                Some(TokenVerdict::Fail) => {
                    let finding = Finding::fault(self.blame_for_choice(), What::TokenForged, number);
                    report.findings.push(finding.at(self.tail, place));
                }
                Some(TokenVerdict::NeedsFullLogits) | None => {
                    let finding = Finding::note(What::TokenUndecided, number);
                    report.findings.push(finding.at(self.tail, place));
                }
            }
        }
    }

    /// The receipt of the token at a position, and the token's number in it.
    fn commitment(&self, position: u32) -> Option<(&SamplerReceipt, u32)> {
        let samplers =
            self.generation.hops[usize::from(self.tail)].values().filter_map(VerifiedReceipt::sampler);
        samplers
            .filter_map(|sampler| Some((sampler, position.checked_sub(sampler.seed_index)?)))
            .find(|(sampler, index)| (*index as usize) < sampler.tokens.len())
    }

    fn judge(&self, sample: &Sample) -> Option<TokenVerdict> {
        let (terms, open) = (self.evidence.terms.as_ref()?, self.generation.open());
        let position = sample.position().get();
        let token = *self.signed.get(&position)?;
        // A token that was not delivered may stand behind others that are not in the evidence.
        let before = self
            .evidence
            .tokens
            .get(..position as usize)
            .filter(|_| position <= self.generation.tokens_end && !terms.constrained)?;
        let history = TokenCounts::from_history(before, position - open.prompt_rows);
        let vocab = self.evidence.vocab_size as usize;
        judge(sample, token, &terms.params, vocab, &history, None).ok()
    }

    /// Penalties look at the history, which is the presenter's word.
    fn blame_for_choice(&self) -> Blame {
        let penalised = self.evidence.terms.as_ref().is_some_and(|terms| {
            let params = &terms.params;
            params.repetition_penalty != 1.0
                || params.presence_penalty != 0.0
                || params.frequency_penalty != 0.0
        });
        if penalised { Blame::between(self.key, self.evidence.presenter) } else { Blame::Key(self.key) }
    }
}

//! One generation's receipts: which hold, whether a hop signed two things at once, and whether its receipts form a chain.

use std::collections::{BTreeMap, HashMap};

use proto::{LayerSpan, NodeId};

use crate::check::{Blame, Finding, GenerationEvidence, Report, What};
use crate::open::{RouteHop, SessionOpen, VerifiedOpen};
use crate::receipt::{Leaves, VerifiedReceipt};
use crate::{Address, Digest};

/// One generation with the receipts that hold.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) open: VerifiedOpen,
    /// One past the last position whose token came in it.
    pub(super) tokens_end: u32,
    /// For each hop its receipts by the start of their window.
    pub(super) hops: Vec<BTreeMap<u32, VerifiedReceipt>>,
}

/// What earlier generations say of the nodes that took part.
#[derive(Debug, Default)]
pub(super) struct History {
    nodes: HashMap<(NodeId, LayerSpan), NodeHistory>,
    /// Who signed which receipt.
    signers: HashMap<Digest, (NodeId, LayerSpan)>,
    /// What each receipt that is not a node's first in a generation, or that cites kept rows, follows.
    followed: HashMap<Digest, Digest>,
}

#[derive(Debug, Default)]
struct NodeHistory {
    newest: Option<Digest>,
    /// Rows computed, or reused from another session.
    rows: Vec<(u32, u32)>,
}

impl Generation {
    /// Verifies acknowledgements and receipts. Those that don't hold are in no later check.
    pub(super) fn new(
        open: VerifiedOpen,
        tokens_end: u32,
        shown: &GenerationEvidence,
        presenter: Address,
        report: &mut Report,
    ) -> Self {
        let number = open.open().generation.get();
        let mut hops = vec![BTreeMap::<u32, VerifiedReceipt>::new(); open.open().route.len()];
        for receipt in &shown.receipts {
            let (hop, rows) = (receipt.receipt.hop, receipt.receipt.rows);
            let verified = match receipt.clone().verify(&open) {
                Ok(verified) => verified,
                Err(error) => {
                    let signer = open.open().hop(hop).map(|hop| hop.receipt_key);
                    let blamed = signer.filter(|_| error.is_signed()).unwrap_or(presenter);
                    let finding = Finding::fault(Blame::Key(blamed), What::ReceiptInvalid(error), number);
                    let first = rows.start.min(rows.sent_start);
                    report.findings.push(finding.at(hop, first..rows.end));
                    continue;
                }
            };
            report.receipts_verified += 1;
            let window = open.open().cuts().window(rows.end - 1);
            let slot = hops[usize::from(hop)].entry(window.start);
            let held = slot.or_insert_with(|| verified.clone());
            let one_tokens = held.sampler().is_none()
                || verified.sampler().is_none()
                || held.sampler() == verified.sampler();
            if held.digest() != verified.digest() || !one_tokens {
                let key = open.open().route[usize::from(hop)].receipt_key;
                let finding = Finding::fault(Blame::Key(key), What::Equivocation, number);
                report.findings.push(finding.at(hop, window.start..rows.end));
            } else if held.leaves() != verified.leaves() && *held.leaves() == Leaves::default() {
                *held = verified;
            }
        }
        let generation = Self { open, tokens_end, hops };
        generation.check_acks(shown, presenter, report);
        generation
    }

    pub(super) fn open(&self) -> &SessionOpen {
        self.open.open()
    }

    /// Whether the session began with it.
    pub(super) fn is_first(&self) -> bool {
        self.open().prev == Digest::ZERO
    }

    pub(super) fn number(&self) -> u32 {
        self.open().generation.get()
    }

    /// The hops with their numbers and receipts.
    pub(super) fn hops(&self) -> impl Iterator<Item = (u16, &RouteHop, &BTreeMap<u32, VerifiedReceipt>)> {
        let hops = self.open().route.iter().zip(&self.hops).enumerate();
        hops.map(|(index, (hop, receipts))| (index as u16, hop, receipts))
    }

    /// One past the last row behind a token that came in this generation; 0 if none came.
    pub(super) fn needed_end(&self) -> u32 {
        if self.tokens_end > self.open().known() { self.tokens_end - 1 } else { 0 }
    }

    /// From there on rows are of no use: no known token's, and behind no token that came.
    pub(super) fn useful_end(&self) -> u32 {
        self.needed_end().max(self.open().known())
    }

    fn check_acks(&self, shown: &GenerationEvidence, presenter: Address, report: &mut Report) {
        let mut acked = vec![false; self.hops.len()];
        for ack in &shown.acks {
            match ack.verify(&self.open) {
                Ok(()) => acked[usize::from(ack.ack.hop)] = true,
                Err(error) => {
                    report.fault(Blame::Key(presenter), What::AckInvalid(error), self.number());
                }
            }
        }
        for (hop, _, receipts) in self.hops().filter(|(hop, ..)| !acked[usize::from(*hop)]) {
            // Receipts come behind the acknowledgement on one stream: who has them has it, or should have hung up.
            let finding = if receipts.is_empty() {
                Finding::note(What::Unacknowledged, self.number())
            } else {
                Finding::fault(Blame::Key(presenter), What::AckMissing, self.number())
            };
            report.findings.push(finding.at(hop, None));
        }
    }

    /// Whether each hop's receipts follow one another, and its first one what it has kept.
    pub(super) fn check_chain(&self, history: &mut History, report: &mut Report) {
        let open = self.open();
        for (number, hop, receipts) in self.hops() {
            let Some(rows) = open.rows_of(number) else { continue };
            let first_window = open.cuts().window(rows.first()).start;
            let mut before: Option<&VerifiedReceipt> = None;
            for (&start, receipt) in receipts {
                let facts = receipt.receipt();
                let mut find = |finding: Finding| {
                    report.findings.push(finding.at(number, start..facts.rows.end));
                };
                let fault = |what: What| Finding::fault(Blame::Key(hop.receipt_key), what, self.number());
                if before.is_some_and(|before| before.receipt().is_ragged(open)) {
                    find(fault(What::AfterTheLast));
                }
                let adjacent = before.filter(|before| before.receipt().rows.end == start);
                let holds = if start == first_window {
                    match history.cited(self.open.digest(), hop, facts.prev, rows.computes_from) {
                        Ok(()) => true,
                        Err(None) => false,
                        Err(Some(what)) => {
                            find(Finding::gap(what, self.number()));
                            true
                        }
                    }
                } else if let Some(before) = adjacent {
                    facts.prev == before.digest()
                } else {
                    // The one before is not shown, but there was one.
                    facts.prev != self.open.digest() && !history.is_of_another(facts.prev, hop)
                };
                if !holds {
                    find(fault(What::ReceiptChain));
                }
                let follows = (facts.prev != self.open.digest()).then_some(facts.prev);
                let forked = follows
                    .and_then(|prev| history.followed.insert(prev, receipt.digest()))
                    .is_some_and(|other| other != receipt.digest());
                // A prefix may be reused by many sessions, but within one each receipt is followed once.
                if forked && history.signers.get(&facts.prev) == Some(&(hop.node, hop.span)) {
                    find(fault(What::Forked));
                }
                history.signers.insert(receipt.digest(), (hop.node, hop.span));
                before = Some(receipt);
            }
        }
    }
}

impl History {
    /// Whether `prev` is what a hop's first receipt of a generation names: the open if it computes everything, else its
    /// newest receipt. `Err(None)` if it names something wrong, `Err(Some)` if what it names is not known.
    fn cited(&self, open: Digest, hop: &RouteHop, prev: Digest, kept: u32) -> Result<(), Option<What>> {
        if kept == 0 {
            return if prev == open { Ok(()) } else { Err(None) };
        }
        if prev == open {
            return Err(Some(What::KeptRowsUncited));
        }
        let newest = self.nodes.get(&(hop.node, hop.span)).and_then(|node| node.newest);
        if newest == Some(prev) {
            return Ok(());
        }
        if self.is_of_another(prev, hop) {
            return Err(None);
        }
        // An older one of its own is followed twice, which is found as such.
        if self.signers.contains_key(&prev) || newest.is_none() {
            return Ok(());
        }
        Err(Some(What::KeptRowsUncited))
    }

    fn is_of_another(&self, receipt: Digest, hop: &RouteHop) -> bool {
        self.signers.get(&receipt).is_some_and(|signer| *signer != (hop.node, hop.span))
    }

    /// Rows that a node has of earlier generations.
    pub(super) fn rows_of(&self, hop: &RouteHop) -> &[(u32, u32)] {
        self.nodes.get(&(hop.node, hop.span)).map_or(&[], |node| &node.rows)
    }

    pub(super) fn remember(&mut self, generation: &Generation) {
        for (_, hop, receipts) in generation.hops() {
            let node = self.nodes.entry((hop.node, hop.span)).or_default();
            if let Some((_, last)) = receipts.last_key_value() {
                node.newest = Some(last.digest());
            }
            if generation.is_first() {
                // Reused from another session, and noted as such.
                node.rows.push((0, hop.goes_on));
            }
            node.rows.extend(receipts.values().map(|receipt| {
                let rows = receipt.receipt().rows;
                (rows.start, rows.end)
            }));
        }
    }
}

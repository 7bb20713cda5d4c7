//! Whose keys they are: each receipt key is bound to its node, and the router's to the router.

use std::collections::HashSet;

use proto::NodeId;

use crate::Address;
use crate::check::hops::Generation;
use crate::check::{Blame, Evidence, Finding, Report, What};

/// Checks the bindings at the time of the opens that name the keys.
pub(super) fn check(evidence: &Evidence, generations: &[Generation], report: &mut Report) {
    let mut seen = HashSet::new();
    for generation in generations {
        let open = generation.open();
        let mut bound = |node: NodeId, key: Address, hop: Option<u16>| {
            if !seen.insert((node, key)) {
                return;
            }
            let place = |mut finding: Finding| {
                finding.hop = hop;
                finding
            };
            let binding = evidence.bindings.iter().find(|binding| {
                let facts = binding.facts();
                facts.node == node && facts.receipt == key
            });
            match binding.map(|binding| binding.verify(open.opened_unix_s)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => report.findings.push(place(Finding::fault(
                    Blame::Key(evidence.presenter),
                    What::BindingInvalid(error),
                    generation.number(),
                ))),
                None => report.findings.push(place(Finding::gap(What::Unbound, generation.number()))),
            }
        };
        bound(open.router, open.router_key, None);
        for (hop, terms, receipts) in generation.hops() {
            if !receipts.is_empty() {
                bound(terms.node, terms.receipt_key, Some(hop));
            }
        }
    }
}

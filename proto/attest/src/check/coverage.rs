//! Which rows behind the answer nobody signed for, and what each node did in all.

use std::ops::Range;

use crate::Amount;
use crate::check::hops::{Generation, History};
use crate::check::{Finding, HopTotal, Report, What};
use crate::cuts::{Covered, Phase};

/// Reports rows behind tokens of this generation that a hop has neither signed for nor kept from signed ones.
pub(super) fn check(generation: &Generation, history: &History, report: &mut Report) {
    let needed = generation.needed_end();
    if needed == 0 {
        return;
    }
    let number = generation.number();
    for (hop, terms, receipts) in generation.hops() {
        let computed =
            receipts.values().map(|receipt| receipt.receipt().rows).map(|rows| (rows.start, rows.end));
        for rows in missing(terms.goes_on..needed, computed.collect()) {
            report.findings.push(Finding::gap(What::Unattested, number).at(hop, rows));
        }
        let kept = missing(0..terms.goes_on, history.rows_of(terms).to_vec());
        for rows in kept {
            // In a first generation kept rows are a prefix of another session, whose receipts are not here.
            let finding = if generation.is_first() {
                Finding::note(What::Reused, number)
            } else {
                Finding::gap(What::Unattested, number)
            };
            report.findings.push(finding.at(hop, rows));
        }
    }
}

/// Adds up what each node did.
pub(super) fn total(generations: &[Generation], report: &mut Report) {
    let mut totals: Vec<HopTotal> = Vec::new();
    for generation in generations {
        for (_, hop, receipts) in generation.hops() {
            let same = totals.iter().position(|total| (total.node, total.span) == (hop.node, hop.span));
            let index = same.unwrap_or_else(|| {
                totals.push(HopTotal {
                    node: hop.node,
                    span: hop.span,
                    receipts: 0,
                    prefill_rows: 0,
                    decode_rows: 0,
                    waste_rows: 0,
                    price_due: Amount::ZERO,
                });
                totals.len() - 1
            });
            let total = &mut totals[index];
            for receipt in receipts.values() {
                let Covered { start, end, .. } = receipt.receipt().rows;
                let rows = end - start;
                total.receipts += 1;
                total.waste_rows += end.saturating_sub(start.max(generation.useful_end()));
                match receipt.receipt().phase {
                    Phase::Prefill => total.prefill_rows += rows,
                    Phase::Decode => total.decode_rows += rows,
                }
            }
            // What is due is cumulative within a generation.
            let due = receipts.last_key_value().map_or(Amount::ZERO, |(_, last)| last.receipt().price_due);
            total.price_due = total.price_due.plus(due);
        }
    }
    report.hops = totals;
}

/// The parts of `wanted` that no range covers.
fn missing(wanted: Range<u32>, mut covered: Vec<(u32, u32)>) -> Vec<Range<u32>> {
    covered.sort_unstable();
    let (mut next, mut missing) = (wanted.start, Vec::new());
    for (start, end) in covered {
        if start > next && next < wanted.end {
            missing.push(next..start.min(wanted.end));
        }
        next = next.max(end);
    }
    if next < wanted.end {
        missing.push(next..wanted.end);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rows_are_what_no_receipt_covers() {
        let alone = |rows: Range<u32>| std::iter::once(rows).collect::<Vec<_>>();
        assert_eq!(missing(0..10, vec![]), alone(0..10));
        assert_eq!(missing(0..10, vec![(4, 6), (0, 2), (5, 7)]), [2..4, 7..10]);
        assert_eq!(missing(3..10, vec![(0, 4), (9, 20), (30, 40)]), alone(4..9));
        assert!(missing(0..10, vec![(0, 10)]).is_empty());
        assert!(missing(0..0, vec![]).is_empty());
    }
}

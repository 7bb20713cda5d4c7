//! Whether what a hop sent is what the next one received: equal roots over equal rows, equal leaves where one of the two
//! stopped earlier.

use crate::check::hops::Generation;
use crate::check::{Blame, Finding, Report, What};
use crate::receipt::VerifiedReceipt;
use crate::tree;

/// Compares neighbours window by window, within one generation.
pub(super) fn check(generation: &Generation, report: &mut Report) {
    let number = generation.number();
    for pair in 1..generation.hops.len() {
        let (upper, lower) = (&generation.hops[pair - 1], &generation.hops[pair]);
        for (start, sent) in upper {
            let Some(received) = lower.get(start) else { continue };
            let end = sent.receipt().rows.end.min(received.receipt().rows.end);
            let finding = match compare(sent, received) {
                Equal::Yes => continue,
                Equal::No => {
                    let route = &generation.open().route;
                    let blame = Blame::between(route[pair - 1].receipt_key, route[pair].receipt_key);
                    Finding::fault(blame, What::Boundary, number)
                }
                Equal::Unknown => Finding::gap(What::BoundaryUnchecked, number),
            };
            report.findings.push(finding.at(pair as u16, *start..end));
        }
    }
}

enum Equal {
    Yes,
    No,
    Unknown,
}

/// Both begin at the same row of the window, as the open says, and may end at different ones.
fn compare(sent: &VerifiedReceipt, received: &VerifiedReceipt) -> Equal {
    let (upper, lower) = (sent.receipt(), received.receipt());
    let shared = upper.rows.sent().min(lower.rows.computed()) as usize;
    if shared == 0 {
        return Equal::Yes;
    }
    let equal = |equal: bool| if equal { Equal::Yes } else { Equal::No };
    if upper.rows.end == lower.rows.end {
        return equal(upper.out_root == lower.in_root);
    }
    let (above, below) = (&sent.leaves().sent, &received.leaves().received);
    match (above.get(..shared), below.get(..shared)) {
        (Some(above), Some(below)) => equal(above == below),
        // The side that stopped earlier needs no leaves: its root is that of the other's first ones.
        (Some(above), None) if shared == lower.rows.computed() as usize => {
            equal(tree::root(above) == lower.in_root)
        }
        (None, Some(below)) if shared == upper.rows.sent() as usize => {
            equal(tree::root(below) == upper.out_root)
        }
        _ => Equal::Unknown,
    }
}

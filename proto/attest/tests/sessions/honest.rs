//! Nobody is accused who did no wrong: honest sessions with losses, recoveries, ragged ends and lost messages.

use crate::swarm::{Course, session};
use proptest::prelude::*;
use proto_attest::check::{What, check};

fn course() -> impl Strategy<Value = Course> {
    let sizes = (1usize..5, prop_oneof![1u32..40, 1u32..900], prop_oneof![0u32..6, 0u32..140]);
    (any::<u64>(), sizes, 0usize..5, any::<bool>(), any::<bool>()).prop_map(
        |(seed, (hops, prompt, answer), losses, reuses, receipts_are_lost)| {
            let reused = if reuses { (prompt - 1) / 64 * 64 } else { 0 };
            Course { seed, hops, prompt, answer, losses, reused, receipts_are_lost, stops: true }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn an_honest_session_has_no_faults(course in course()) {
        let session = session(course);
        let report = check(&session.evidence);
        let faults: Vec<String> = report.faults().map(ToString::to_string).collect();
        prop_assert!(faults.is_empty(), "{course:?}: {faults:#?}");
        prop_assert_eq!(report.receipts_verified, report.receipts_shown);
    }

    #[test]
    fn a_session_in_which_nothing_is_lost_has_no_gaps(course in course()) {
        let course = Course { losses: 0, receipts_are_lost: false, stops: false, ..course };
        let session = session(course);
        let report = check(&session.evidence);
        let gaps: Vec<String> = report.gaps().map(ToString::to_string).collect();
        prop_assert!(gaps.is_empty(), "{course:?}: {gaps:#?}");
        prop_assert!(report.faults().next().is_none());
        prop_assert_eq!(report.tokens_signed, course.answer);
        for hop in &report.hops {
            let rows = course.prompt + course.answer.saturating_sub(1) - course.reused;
            prop_assert!(hop.prefill_rows + hop.decode_rows >= rows);
        }
        for finding in &report.findings {
            prop_assert!(!matches!(finding.what, What::BoundaryUnchecked), "{finding}");
        }
    }
}

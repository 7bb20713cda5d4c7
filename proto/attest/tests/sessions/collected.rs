//! A router's collector takes what honest hops send, and nothing else.

use proptest::prelude::*;
use proto_attest::collector::{CollectError, Collector};
use proto_attest::receipt::SignedReceipt;
use proto_attest::recorder::SentLeaves;
use proto_attest::{Amount, Digest};

use crate::swarm::{Course, Session, session};

fn course(seed: u64, losses: usize) -> Course {
    let (receipts_are_lost, stops) = (false, true);
    Course { seed, hops: 3, prompt: 300, answer: 90, losses, reused: 0, receipts_are_lost, stops }
}

/// A generation's receipts of one hop in order, as they came, and the leaves that came behind.
fn sent(session: &Session, generation: usize, hop: u16) -> (Vec<SignedReceipt>, Vec<SentLeaves>) {
    let open = session.opens[generation].open();
    let all = &session.evidence.generations[generation].receipts;
    let mut leaves = Vec::new();
    let of_hop = all.iter().filter(|receipt| receipt.receipt.hop == hop).cloned().map(|mut receipt| {
        if !receipt.receipt.is_ragged(open) && !receipt.leaves.sent.is_empty() {
            let sent = std::mem::take(&mut receipt.leaves.sent);
            leaves.push(SentLeaves { receipt: receipt.receipt.digest(open), leaves: sent });
        }
        receipt
    });
    let receipts = of_hop.collect();
    (receipts, leaves)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_honest_hops_send_is_taken(seed: u64, losses in 0usize..4) {
        let session = session(course(seed, losses));
        for generation in 0..session.opens.len() {
            let shown = &session.evidence.generations[generation];
            let mut collector = Collector::new(session.opens[generation].clone());
            let open = session.opens[generation].open();
            let end = session.opens.get(generation + 1).map(|next| next.open().known());
            let end = end.unwrap_or(session.evidence.tokens.len() as u32);
            let tokens = open.known()..end;
            let half = tokens.start + (tokens.end - tokens.start) / 2;
            let token = |position: u32| session.evidence.tokens[position as usize];
            for position in tokens.start..half {
                collector.token(position, token(position)).unwrap();
            }
            for hop in 0..3u16 {
                collector.ack(hop, shown.acks[usize::from(hop)]).unwrap();
                let (receipts, leaves) = sent(&session, generation, hop);
                for receipt in &receipts {
                    collector.receipt(hop, &receipt.encode()).unwrap();
                }
                let due = receipts.last().map_or(Amount::ZERO, |last| last.receipt.price_due);
                prop_assert_eq!(collector.due(hop), due);
                for leaves in leaves {
                    collector.leaves(hop, &leaves.encode()).unwrap();
                }
            }
            for position in half..tokens.end {
                collector.token(position, token(position)).unwrap();
            }
            prop_assert!(collector.is_acknowledged());
            let evidence = collector.into_evidence(shown.samples.clone());
            prop_assert_eq!(evidence.receipts.len(), shown.receipts.len());
            for receipt in &shown.receipts {
                prop_assert!(evidence.receipts.contains(receipt));
            }
        }
    }
}

#[test]
fn a_tail_that_signs_other_tokens_than_it_sends_is_refused() {
    let session = session(course(5, 0));
    let open = &session.opens[0];
    let (receipts, _) = sent(&session, 0, 2);
    let acks = &session.evidence.generations[0].acks;
    let first = open.open().known();
    let token = session.evidence.tokens[first as usize];
    let mut collector = Collector::new(open.clone());
    collector.ack(2, acks[2]).unwrap();
    collector.token(first, token ^ 1).unwrap();
    collector.receipt(2, &receipts[0].encode()).unwrap();
    assert_eq!(collector.receipt(2, &receipts[1].encode()).unwrap_err(), CollectError::Token(first));
    // The other way round: signed first.
    let mut collector = Collector::new(open.clone());
    collector.ack(2, acks[2]).unwrap();
    for receipt in &receipts[..2] {
        collector.receipt(2, &receipt.encode()).unwrap();
    }
    assert_eq!(collector.token(first, token ^ 1), Err(CollectError::Token(first)));
    assert_eq!(collector.token(first + 1, token), Err(CollectError::Token(first + 1)));
    collector.token(first, token).unwrap();
}

#[test]
fn what_is_out_of_order_is_refused() {
    let session = session(course(5, 0));
    let open = &session.opens[0];
    let (receipts, _) = sent(&session, 0, 1);
    let bytes: Vec<Vec<u8>> = receipts.iter().map(SignedReceipt::encode).collect();
    let mut collector = Collector::new(open.clone());
    assert_eq!(collector.receipt(1, &bytes[0]).unwrap_err(), CollectError::Unacknowledged(1));
    let acks = &session.evidence.generations[0].acks;
    assert_eq!(collector.ack(0, acks[1]), Err(CollectError::OtherHop { got: 0, named: 1 }));
    collector.ack(1, acks[1]).unwrap();
    assert!(!collector.is_acknowledged());
    let refused = collector.receipt(0, &bytes[0]).unwrap_err();
    assert_eq!(refused, CollectError::OtherHop { got: 0, named: 1 });
    let order = |expected, got| CollectError::Order { hop: 1, expected, got };
    assert_eq!(collector.receipt(1, &bytes[1]).unwrap_err(), order(0, 300));
    collector.receipt(1, &bytes[0]).unwrap();
    assert_eq!(collector.receipt(1, &bytes[0]).unwrap_err(), order(256, 256));
    assert_eq!(collector.newest(1), Some(receipts[0].receipt.digest(open.open())));
    let strange = SentLeaves { receipt: Digest::ZERO, leaves: Vec::new() };
    assert_eq!(collector.leaves(1, &strange.encode()), Err(CollectError::Leaves(1)));
    let forged = SentLeaves { receipt: receipts[0].receipt.digest(open.open()), leaves: Vec::new() };
    assert_eq!(collector.leaves(1, &forged.encode()), Err(CollectError::Leaves(1)));
}

//! Encodings against their golden bytes.

use proto_attest::audit::{RowOpening, SignedBatch, SignedChallenge};
use proto_attest::bundle;
use proto_attest::keys::SignedBinding;
use proto_attest::open::{SignedAck, SignedOpen};
use proto_attest::receipt::SignedReceipt;
use proto_attest::recorder::SentLeaves;
use proto_attest::sample::Sample;
use proto_attest::verdict::SignedVerdict;

use crate::examples as one;
use crate::golden;

#[test]
fn everything_that_travels_has_its_golden_bytes() {
    let open = one::open();
    let made: [(&str, Vec<u8>); 12] = [
        ("KeyBinding", one::signed_binding().encode()),
        ("SessionOpen", open.signed().encode()),
        ("OpenAck", one::ack().encode()),
        ("HopReceipt", one::plain_receipt().encode()),
        ("HopReceipt.tail", one::tail_receipt().encode()),
        ("SentLeaves", one::sent_leaves().encode()),
        ("Sample", one::sample().encode()),
        ("EpochBatch", one::batch().encode()),
        ("AuditChallenge", one::challenge().encode()),
        ("AuditVerdict", one::verdict().encode()),
        ("RowOpening", one::row_opening().encode()),
        ("Evidence", bundle::seal(&one::evidence(), &one::key(one::ROUTER)).unwrap()),
    ];
    for (name, bytes) in made {
        let ours = format!("{}\n", hex::encode(bytes));
        assert_eq!(ours, golden(&format!("{name}.hex"), Some(&ours)), "{name} changed");
    }
}

#[test]
fn golden_bytes_are_read() {
    let bytes = |name: &str| hex::decode(golden(&format!("{name}.hex"), None).trim()).unwrap();
    let open = one::open();
    assert_eq!(SignedBinding::decode(&bytes("KeyBinding")).unwrap(), one::signed_binding());
    assert_eq!(SignedOpen::decode(&bytes("SessionOpen")).unwrap().verify().unwrap(), open);
    assert_eq!(SignedAck::decode(&bytes("OpenAck")).unwrap(), one::ack());
    assert_eq!(SignedReceipt::decode(&bytes("HopReceipt"), &open).unwrap(), one::plain_receipt());
    let tail = SignedReceipt::decode(&bytes("HopReceipt.tail"), &open).unwrap();
    assert_eq!(tail.verify(&open).unwrap().signed(), &one::tail_receipt());
    assert_eq!(SentLeaves::decode(&bytes("SentLeaves")).unwrap(), one::sent_leaves());
    assert_eq!(Sample::decode(&bytes("Sample")).unwrap(), one::sample());
    assert_eq!(SignedBatch::decode(&bytes("EpochBatch")).unwrap(), one::batch());
    assert_eq!(SignedChallenge::decode(&bytes("AuditChallenge")).unwrap(), one::challenge());
    assert_eq!(SignedVerdict::decode(&bytes("AuditVerdict")).unwrap(), one::verdict());
    assert_eq!(RowOpening::decode(&bytes("RowOpening")).unwrap(), one::row_opening());
    assert_eq!(bundle::read(&bytes("Evidence")).unwrap(), one::evidence());
}

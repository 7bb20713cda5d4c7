//! Rules of the key ring, by the files that it leaves.

use super::*;

const NOW: u64 = 1_800_000_000;

fn node() -> NodeKey {
    NodeKey::from_seed(&[1; 32])
}

#[test]
fn keys_are_made_once_and_the_binding_is_renewed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = KeyRing::open(folder.path(), &node(), NOW).unwrap();
    let again = KeyRing::open(folder.path(), &node(), NOW + 300 * 24 * 3600).unwrap();
    assert_eq!(again.binding(), first.binding());
    let renewed = KeyRing::open(folder.path(), &node(), NOW + 350 * 24 * 3600).unwrap();
    assert_eq!(renewed.receipt().address(), first.receipt().address());
    renewed.binding().follows(first.binding()).unwrap();
    assert!(renewed.binding().binding().sequence > first.binding().binding().sequence);
    for name in [OPERATOR_KEY, RECEIPT_KEY] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_lost_or_rotated_receipt_key_is_bound_anew_to_the_same_operator() {
    let folder = tempfile::tempdir().unwrap();
    let first = KeyRing::open(folder.path(), &node(), NOW).unwrap();
    fs::remove_file(folder.path().join(RECEIPT_KEY)).unwrap();
    let second = KeyRing::open(folder.path(), &node(), NOW).unwrap();
    let third = rotate(folder.path(), &node(), NOW).unwrap();
    for (new, old) in [(&second, &first), (&third, &second)] {
        new.binding().follows(old.binding()).unwrap();
        assert_ne!(new.receipt().address(), old.receipt().address());
        assert_eq!(new.binding().binding().operator, old.binding().binding().operator);
        assert!(new.binding().binding().sequence > old.binding().binding().sequence);
    }
}

#[test]
fn a_lost_operator_key_leaves_the_binding_until_it_runs_out() {
    let folder = tempfile::tempdir().unwrap();
    KeyRing::open(folder.path(), &node(), NOW).unwrap();
    fs::remove_file(folder.path().join(OPERATOR_KEY)).unwrap();
    KeyRing::open(folder.path(), &node(), NOW + 350 * 24 * 3600).unwrap();
    let error = KeyRing::open(folder.path(), &node(), NOW + LIFE_S).unwrap_err();
    assert!(matches!(error, KeyRingError::NotRenewable { .. }));
    assert!(error.to_string().contains("keys request"), "{error}");
    let error = rotate(folder.path(), &node(), NOW + 10).unwrap_err();
    assert!(matches!(error, KeyRingError::NotRenewable { .. }), "and nothing was moved");
    assert!(folder.path().join(RECEIPT_KEY).exists());
}

#[test]
fn a_clock_that_went_back_an_hour_makes_no_binding_from_the_future_hold() {
    let folder = tempfile::tempdir().unwrap();
    let first = KeyRing::open(folder.path(), &node(), NOW).unwrap();
    // The operator's key is here, so it is bound again, with a higher number.
    let second = KeyRing::open(folder.path(), &node(), NOW - 3600).unwrap();
    assert_eq!(second.binding().binding().sequence, first.binding().binding().sequence + 1);
    fs::remove_file(folder.path().join(OPERATOR_KEY)).unwrap();
    let error = KeyRing::open(folder.path(), &node(), NOW - 7200).unwrap_err();
    assert!(error.to_string().contains("check the clock"), "{error}");
}

#[test]
fn an_operator_elsewhere_binds_by_signature() {
    let folder = tempfile::tempdir().unwrap();
    let own = KeyRing::open(folder.path(), &node(), NOW).unwrap();
    assert!(matches!(bind(folder.path(), &node(), "0x00", NOW), Err(KeyRingError::NothingAsked)));
    let hardware = OperatorKey::from_bytes(&[9; 32]).unwrap();
    let asked = request(folder.path(), &node(), hardware.address(), NOW).unwrap();
    assert!(asked.typed_data().contains(&hardware.address().to_string()));
    assert!(matches!(bind(folder.path(), &node(), "0x00", NOW), Err(KeyRingError::NotHex)));
    let stranger = OperatorKey::from_bytes(&[8; 32]).unwrap().sign(&asked.facts().digest());
    let wrong = bind(folder.path(), &node(), &hex::encode(stranger.as_bytes()), NOW);
    assert!(matches!(wrong, Err(KeyRingError::Refused(BindingError::OperatorSignature))));
    let signature = format!("0x{}", hex::encode(hardware.sign(&asked.facts().digest()).as_bytes()));
    let bound = bind(folder.path(), &node(), &signature, NOW).unwrap();
    assert_eq!(bound.binding().operator, hardware.address());
    bound.follows(own.binding()).unwrap();
    let ring = KeyRing::open(folder.path(), &node(), NOW + 1000).unwrap();
    assert_eq!(ring.binding(), &bound);
    assert!(!folder.path().join(OPERATOR_KEY).exists());
}

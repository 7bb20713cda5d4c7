//! Digests and signatures of all typed data, against golden ones and against eth-account.

use std::path::Path;
use std::process::Command;

use proto::NodeId;
use proto_attest::eip712::RECEIPTS;
use proto_attest::{Address, Digest, RecoverableSignature};
use serde_json::{Value, json};

use crate::examples as one;
use crate::{folder, golden};

#[test]
fn typed_data_has_its_golden_digests_and_signatures() {
    let ours = format!("{:#}\n", Value::from(cases()));
    assert_eq!(ours, golden("typed_data.json", Some(&ours)), "what is signed changed");
}

#[test]
fn eth_account_makes_the_same_digests_and_signatures() {
    let folder_of_script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eth_account");
    let packages = installed(&folder_of_script.join("requirements.txt"));
    let mut python = Command::new("python3");
    python.arg(folder_of_script.join("check.py")).arg(folder().join("typed_data.json"));
    let output = python.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let last = format!("{} checks passed, 0 skipped", cases().len());
    assert_eq!(told.lines().last(), Some(last.as_str()), "{told}");
}

/// Where the packages of a list are, installed once for each list of versions.
fn installed(list: &Path) -> std::path::PathBuf {
    let versions = proto::ContentHash::of(&std::fs::read(list).unwrap()).to_string();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let installed = root.join(format!("eth-account-{}", &versions[..16]));
    if !installed.exists() {
        let draft = root.join(format!("eth-account-draft-{}", std::process::id()));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--root-user-action=ignore", "--no-deps", "--target"]).arg(&draft).arg("-r").arg(list);
        assert!(pip.status().unwrap().success(), "pip could not install the packages of {}", list.display());
        // Whoever comes second throws its draft away.
        if std::fs::rename(&draft, &installed).is_err() {
            let _ = std::fs::remove_dir_all(&draft);
        }
    }
    installed
}

fn hex32(bytes: &[u8; 32]) -> Value {
    format!("0x{}", hex::encode(bytes)).into()
}

fn digest(value: Digest) -> Value {
    hex32(value.as_bytes())
}

fn node(value: NodeId) -> Value {
    hex32(value.as_bytes())
}

fn case(
    name: &str,
    kind: &str,
    message: &Value,
    (secret, signer): (u8, Address),
    (digest, signature): (Digest, RecoverableSignature),
) -> Value {
    json!({
        "name": name,
        "type": kind,
        "domain": { "name": RECEIPTS.name, "version": RECEIPTS.version },
        "message": message,
        "secret": hex32(&[secret; 32]),
        "signer": signer.to_string(),
        "digest": digest.to_string(),
        "signature": hex::encode(signature.as_bytes()),
    })
}

/// Types and facts are written out here a second time, so that a slip in either shows.
fn cases() -> Vec<Value> {
    let (open, binding, draft) = (one::open(), one::binding(), one::draft());
    let (facts, receipt) = (open.open(), &draft.receipt);
    let sampler = draft.sampler.clone().unwrap();
    let route: Vec<Value> = facts
        .route
        .iter()
        .map(|hop| {
            json!({
                "node": node(hop.node), "spanStart": hop.span.start(), "spanEnd": hop.span.end(),
                "receiptKey": hop.receipt_key, "lane": hex32(hop.lane.as_bytes()),
                "pricePrefill": 2, "priceDecode": 5, "goesOn": hop.goes_on,
            })
        })
        .collect();
    let operator = one::operator();
    let tail = (2, one::key(2).address());
    let signed = one::tail_receipt();
    let (batch, challenge) = (one::batch().batch, one::challenge().challenge);
    let (verdict, auditor) = (one::verdict().verdict, (6, one::key(6).address()));
    vec![
        case(
            "KeyBinding",
            "KeyBinding(bytes32 node,address operator,address receipt,uint64 sequence,uint64 issued,uint64 expires)",
            &json!({
                "node": node(binding.node), "operator": binding.operator, "receipt": binding.receipt,
                "sequence": 3, "issued": 1000, "expires": 90000,
            }),
            (7, operator.address()),
            (binding.digest(), operator.sign(&binding.digest())),
        ),
        case(
            "SessionOpen",
            "SessionOpen(bytes32 router,address routerKey,uint64 session,uint32 generation,bytes32 prev,\
             bytes32 model,uint8 class,uint32 layers,RouteHop[] route,uint32 promptRows,uint32 forcedRows,\
             bytes32 samplingHash,bytes32 seedCommit,uint32 maxTokens,uint64 opened,uint64 deadline)\
             RouteHop(bytes32 node,uint32 spanStart,uint32 spanEnd,address receiptKey,bytes32 lane,\
             uint128 pricePrefill,uint128 priceDecode,uint32 goesOn)",
            &json!({
                "router": node(facts.router), "routerKey": facts.router_key, "session": facts.session.get(),
                "generation": 0, "prev": digest(facts.prev), "model": hex32(facts.model.as_bytes()), "class": 2,
                "layers": 30, "route": route, "promptRows": 40, "forcedRows": 0,
                "samplingHash": digest(facts.sampling_hash), "seedCommit": digest(facts.seed_commit),
                "maxTokens": 64, "opened": 1000, "deadline": 2000,
            }),
            (one::ROUTER, facts.router_key),
            (open.digest(), open.signed().signature),
        ),
        case(
            "OpenAck",
            "OpenAck(bytes32 open,uint16 hop)",
            &json!({ "open": digest(open.digest()), "hop": 1 }),
            tail,
            (one::ack().ack.digest(), one::ack().signature),
        ),
        case(
            "HopReceipt",
            "HopReceipt(bytes32 open,bytes32 router,uint64 session,uint32 generation,uint16 hop,uint32 spanStart,\
             uint32 spanEnd,uint8 phase,uint32 start,uint32 end,uint32 sentStart,bytes32 inRoot,bytes32 outRoot,\
             bytes32 execBuild,bytes32 prev,uint128 priceDue,uint64 epoch)",
            &json!({
                "open": digest(open.digest()), "router": node(facts.router), "session": facts.session.get(),
                "generation": 0, "hop": 1, "spanStart": 10, "spanEnd": 30, "phase": 1, "start": 40, "end": 42,
                "sentStart": 40, "inRoot": digest(receipt.in_root), "outRoot": digest(receipt.out_root),
                "execBuild": digest(receipt.exec_build), "prev": digest(receipt.prev), "priceDue": 90, "epoch": 5,
            }),
            tail,
            (draft.digest, signed.signature),
        ),
        case(
            "SamplerReceipt",
            "SamplerReceipt(bytes32 receipt,uint32 seedIndex,uint32[] tokens,bytes32 samplesRoot)",
            &json!({
                "receipt": digest(draft.digest), "seedIndex": 41, "tokens": [3, 1],
                "samplesRoot": digest(sampler.samples_root),
            }),
            tail,
            (sampler.digest(&draft.digest), signed.sampler.unwrap().signature),
        ),
        case(
            "EpochBatch",
            "EpochBatch(bytes32 node,uint64 epoch,bytes32 receiptsRoot,uint32 count,uint128 earned)",
            &json!({
                "node": node(batch.node), "epoch": 5, "receiptsRoot": digest(batch.receipts_root), "count": 2,
                "earned": 90,
            }),
            tail,
            (batch.digest(), one::batch().signature),
        ),
        case(
            "AuditChallenge",
            "AuditChallenge(address auditor,bytes32 batch,bytes32 seed,uint32 rate,uint64 deadline)",
            &json!({
                "auditor": challenge.auditor, "batch": digest(challenge.batch),
                "seed": hex32(challenge.seed.as_bytes()), "rate": 1 << 28, "deadline": 5000,
            }),
            auditor,
            (challenge.digest(), one::challenge().signature),
        ),
        case(
            "AuditVerdict",
            "AuditVerdict(bytes32 challenge,bytes32 receipt,bytes32 node,address receiptKey,uint16 method,\
             uint16 outcome,uint64 statistic,uint64 threshold,uint32 count,bytes32 calibration,bytes32 execBuild,\
             string device,address auditor,uint64 judged)",
            &json!({
                "challenge": digest(verdict.challenge), "receipt": digest(verdict.receipt),
                "node": node(verdict.node), "receiptKey": verdict.receipt_key, "method": 1, "outcome": 2,
                "statistic": 0.25f64.to_bits(), "threshold": 0.01f64.to_bits(), "count": 1,
                "calibration": hex32(verdict.calibration.as_bytes()), "execBuild": digest(verdict.exec_build),
                "device": "cpu avx512", "auditor": verdict.auditor, "judged": 4000,
            }),
            auditor,
            (verdict.digest(), one::verdict().signature),
        ),
    ]
}

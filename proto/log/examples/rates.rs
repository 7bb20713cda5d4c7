//! How fast a log grows and is checked, and how long its proofs are: `cargo run --release -p proto-log --example rates`.

#![expect(clippy::print_stdout, reason = "printing figures is what it is for")]
#![expect(clippy::disallowed_methods, reason = "real time is what is measured")]

use std::collections::BTreeMap;
use std::time::Instant;

use proto::key::NodeKey;
use proto::{ContentHash, Generation, ModelId, SessionId};
use proto_attest::Digest;
use proto_log::audit::audit;
use proto_log::entry::SessionRoot;
use proto_log::proof::{check_consistency, check_inclusion, prove_consistency, prove_inclusion};
use proto_log::witness::{AddCheckpoint, Decision, Witness};
use proto_log::{
    Entry, ForkEvidence, KeyName, Log, TileKind, TilePath, Tiles, VerifierKey, hash, read_bundle,
};

/// Entries of the log; the last but one checkpoint is of a thousand fewer.
const SIZE: u64 = 1_000_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let key = NodeKey::from_seed(&[7; 32]);
    let origin = KeyName::of_log(key.node_id());
    let (mut log, mut files) = (Log::new(), BTreeMap::new());
    let mut before = None;
    let begin = Instant::now();
    let (mut written, mut batches) = (0, 0);
    while log.size() < SIZE {
        if log.size() == SIZE - 1000 {
            before = log.checkpoint(origin.clone()).sign(&key);
        }
        let batch: Vec<Entry> = (0..1000).map(|_| entry(log.size())).collect();
        for write in log.append(&batch)?.writes {
            written += write.bytes.len();
            files.insert(write.path, write.bytes);
        }
        batches += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "append: {:.0} entries/s in batches of 1000, {written} bytes in {batches} batches",
        SIZE as f64 / seconds
    );
    let checkpoint = log.checkpoint(origin).sign(&key).ok_or("sign")?;
    println!("checkpoint: {} bytes", checkpoint.to_bytes().len());

    let begin = Instant::now();
    println!("audit: {:?}", audit(&files, &checkpoint, &[])?.kinds);
    println!("audit: {:.0} entries/s", SIZE as f64 / begin.elapsed().as_secs_f64());

    let tiles = Tiles::new(&files, SIZE);
    let (begin, count) = (Instant::now(), 2000);
    let (mut longest, mut last) = (0, Vec::new());
    for index in (0..SIZE).step_by((SIZE / count) as usize) {
        last = prove_inclusion(&tiles, SIZE, index)?;
        longest = longest.max(last.len());
    }
    let each = begin.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!(
        "inclusion: at most {longest} hashes, {} bytes; {each:.0} us to prove from tiles in memory",
        longest * 32
    );
    let index = SIZE - SIZE / count;
    let bundle = TilePath::in_tree(TileKind::Entries, index / 256, SIZE).ok_or("bundle")?;
    let leaf = hash::of_leaf(read_bundle(&files[&bundle])?[(index % 256) as usize]);
    let begin = Instant::now();
    check_inclusion(&checkpoint.checkpoint().root, SIZE, index, leaf, &last)?;
    println!("inclusion: {:.1} us to check", begin.elapsed().as_secs_f64() * 1e6);

    let before = before.ok_or("no earlier checkpoint")?;
    let old = (before.checkpoint().size, &before.checkpoint().root);
    let begin = Instant::now();
    let proof = prove_consistency(&tiles, old.0, SIZE)?;
    let proved = begin.elapsed().as_secs_f64() * 1e6;
    check_consistency(old, (SIZE, &checkpoint.checkpoint().root), &proof)?;
    println!(
        "consistency over 1000 entries: {} hashes, {} bytes; {proved:.0} us to prove",
        proof.len(),
        proof.len() * 32
    );

    let mut witness = Witness::new(NodeKey::from_seed(&[8; 32]));
    witness.watch(VerifierKey::of_log(key.node_id()))?;
    witness.restore(&before.to_bytes())?;
    let request = AddCheckpoint::new(old.0, proof, &checkpoint).encode();
    let begin = Instant::now();
    let decision = witness.add_checkpoint(&request, 1_790_000_000);
    let micros = begin.elapsed().as_secs_f64() * 1e6;
    let Decision::Cosigned { line, .. } = decision else { return Err("not cosigned".into()) };
    println!("witness: request of {} bytes, line of {}, {micros:.0} us", request.len(), line.to_line().len());

    let mut fork = Log::resume(&before, &files)?;
    fork.append(&[entry(1)])?;
    let forked = fork.checkpoint(KeyName::of_log(key.node_id())).sign(&key).ok_or("sign")?;
    let mut honest = Log::resume(&before, &files)?;
    honest.append(&[entry(2)])?;
    let honest = honest.checkpoint(KeyName::of_log(key.node_id())).sign(&key).ok_or("sign")?;
    let evidence =
        ForkEvidence::same_size(&VerifierKey::of_log(key.node_id()), forked.signed(), honest.signed())?;
    let bytes = evidence.encode();
    let begin = Instant::now();
    let fault = ForkEvidence::decode(&bytes)?.fault();
    println!("fork: {} bytes, {:.0} us to check: {fault}", bytes.len(), begin.elapsed().as_secs_f64() * 1e6);
    Ok(())
}

fn entry(index: u64) -> Entry {
    Entry::SessionRoot(SessionRoot {
        session: SessionId::new(index),
        generation: Generation::new(0),
        open: Digest::from_bytes([1; 32]),
        evidence: ContentHash::from_bytes([2; 32]),
        model: ModelId::from_bytes([3; 32]),
        ended_unix_s: 1_790_000_000,
    })
}

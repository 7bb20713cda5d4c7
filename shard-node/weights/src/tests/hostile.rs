//! Seeded mutations of valid headers: no panic, and no memory beyond a small multiple of the file.

use serde_json::json;

use super::{golden, safetensors, tiny_config, tiny_tensors, write_tiny};
use crate::gguf::Gguf;
use crate::{Checkpoint, inspect};

/// Mutated files per format; together 10^5.
const MUTATIONS: u64 = 50_000;
const SEED: u64 = 0x1a7e_51a9_2026_1122;

/// `SplitMix64`: seeded, small, no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// One to four changes within the first `header` bytes: bits, bytes, whole integers, cuts, copies.
fn mutate(random: &mut Random, valid: &[u8], header: usize) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(header.min(bytes.len()));
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let interesting =
                    [0, 1, 31, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 40, 1 << 62, u64::MAX, u64::MAX - 31];
                let value = interesting[random.below(interesting.len())].to_le_bytes();
                let len = value.len().min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&value[..len]);
            }
            3 => bytes.truncate(at.max(1)),
            4 => {
                let from = random.below(header.min(bytes.len()));
                let len = random.below(64).min(bytes.len() - at).min(bytes.len() - from);
                bytes.copy_within(from..from + len, at);
            }
            5 => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, b"0123456789{}[]\":,\xff-e"[random.below(20)]),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// A configuration with most of the fields that are read.
fn rich_config() -> Vec<u8> {
    let mut config = tiny_config();
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    config["head_dim"] = json!(4);
    config["sliding_window"] = json!(null);
    config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
    config.to_string().into_bytes()
}

#[test]
fn mutated_configurations_give_a_sane_shape_or_an_error() {
    println!("seed {SEED:#x}");
    let mut random = Random(SEED);
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut checkpoint = Checkpoint::open(directory.path()).unwrap();
    let valid = rich_config();
    let before = peak_kilobytes();
    let mut accepted = 0;
    for round in 0..20_000 {
        let Ok(config) = serde_json::from_slice(&mutate(&mut random, &valid, valid.len())) else { continue };
        checkpoint.replace_config(config);
        let Ok(reading) = checkpoint.read_architecture() else { continue };
        reading.architecture.check().unwrap();
        accepted += 1;
        // Milliseconds each where a thousand layers are claimed.
        if round % 16 == 0 {
            let inspection = inspect(&checkpoint).unwrap();
            assert!(inspection.unsupported.len() < 20 && inspection.unsupported.concat().len() < 16 << 10);
        }
    }
    let grown = peak_kilobytes() - before;
    println!("accepted {accepted}, peak memory grew by {grown} KiB");
    assert!(accepted > 500, "{accepted}: the mutations must also leave some valid");
    // Other tests run in this process, too.
    assert!(grown < 256 << 10, "grew by {grown} KiB");
}

fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_thousand_mutated_headers_never_panic_nor_grow() {
    println!("seed {SEED:#x}");
    let mut random = Random(SEED);
    let gguf = std::fs::read(golden("tiny.gguf")).unwrap();
    // The golden's header ends before 2 KiB; the tensors' bytes are not interesting.
    let gguf_header = 2048;
    let tensors = tiny_tensors();
    let listed: Vec<_> =
        tensors.iter().map(|(name, shape, bytes)| (&**name, "F32", &**shape, bytes.clone())).collect();
    let plain = safetensors(&listed);
    let plain_header = 8 + u64::from_le_bytes(plain[..8].try_into().unwrap()) as usize;
    let before = peak_kilobytes();
    let mut accepted = [0_u64; 2];
    for _ in 0..MUTATIONS {
        if let Ok(read) = Gguf::parse(&mutate(&mut random, &gguf, gguf_header)) {
            accepted[0] += 1;
            for tensor in &read.tensors {
                assert!(tensor.offset + tensor.len <= gguf.len() as u64 + 8);
            }
        }
        let mutated = mutate(&mut random, &plain, plain_header);
        if let Ok(read) = crate::safetensors::parse(&mutated) {
            accepted[1] += 1;
            assert!(read.iter().all(|tensor| tensor.offset + tensor.len <= mutated.len() as u64));
        }
    }
    let grown = peak_kilobytes() - before;
    println!("accepted {accepted:?} of {MUTATIONS} each, peak memory grew by {grown} KiB");
    assert!(accepted.iter().all(|&count| count > 100), "the mutations must also leave some headers valid");
    assert!(grown < 256 << 10, "grew by {grown} KiB");
}

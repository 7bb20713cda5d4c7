//! A million mutated frames: no panic, no growth, and whatever is accepted is what we would have written.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod examples;

use bytes::Bytes;
use proto::frame::HEADER_BYTES;
use proto::{FrameHeader, FrameKind};

/// xorshift64* (Vigna 2016): small, seeded, the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn mutate(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(frame.len());
        match rng.below(7) {
            0 => frame[at] ^= 1 << rng.below(8),
            1 => frame[at] = rng.next() as u8,
            2 => frame.truncate(at.max(HEADER_BYTES)),
            3 => frame.insert(at, rng.next() as u8),
            4 => frame.extend_from_within(at..),
            5 => {
                let end = (at + 8).min(frame.len());
                let value = [0, 1, u64::MAX, u64::from(u32::MAX), 1 << 40][rng.below(5)];
                frame[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            _ => {
                let other = rng.below(frame.len());
                frame.swap(at, other);
            }
        }
        frame.truncate(1 << 16);
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_million_mutated_frames_do_no_harm() {
    let seed = 0x1a7e_51a7_e51a_7e51;
    println!("seed {seed:#x}");
    let mut rng = Rng(seed);
    let frames: Vec<Vec<u8>> = FrameKind::ALL
        .iter()
        .map(|&kind| (kind, examples::body(kind)))
        .chain(examples::extended().into_iter().map(|(_, kind, body)| (kind, body)))
        .map(|(kind, body)| [&FrameHeader::new(kind, body.len()).unwrap().to_bytes()[..], &body[..]].concat())
        .collect();
    let (mut accepted, mut refused, mut before) = (0u32, 0u32, 0);
    for round in 0..1_000_000u32 {
        if round == 100_000 {
            before = resident_kib();
        }
        let mut frame = frames[rng.below(frames.len())].clone();
        mutate(&mut rng, &mut frame);
        let (head, body) = frame.split_at(HEADER_BYTES);
        // Half of the time the length is made to fit, so that bodies get tried as well.
        let header = match FrameHeader::parse(head.try_into().unwrap()) {
            Ok(header) if header.body_bytes() == body.len() || round % 2 == 0 => header,
            Ok(_) | Err(_) => {
                refused += 1;
                continue;
            }
        };
        let body = Bytes::copy_from_slice(body);
        match examples::round_trip(header.kind(), &body) {
            Ok(again) => {
                // Unknown close codes of newer peers are read as `Other`, the only lossy field.
                assert_eq!(again.len(), body.len(), "{}", header.kind());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    let grown = resident_kib().saturating_sub(before);
    println!("accepted {accepted}, refused {refused}, resident memory grew by {grown} KiB");
    assert!(accepted > 1_000 && refused > 1_000, "the mutations try both sides");
    assert!(grown < 32 << 10, "resident memory grew by {grown} KiB");
}

#[test]
fn records_with_any_byte_changed_do_not_verify() {
    use proto::Message;
    use proto::discovery::Store;
    let body = examples::body(FrameKind::Store);
    let record_at = 32;
    for at in record_at..body.len() - 3 {
        for bit in [0, 3, 7] {
            let mut bytes = body.to_vec();
            bytes[at] ^= 1 << bit;
            if let Ok(store) = Store::decode(&Bytes::from(bytes)) {
                assert!(store.record.verify(1_700_000_000).is_err(), "byte {at} bit {bit}");
            }
        }
    }
}

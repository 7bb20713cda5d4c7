//! Class `exact`: the same bits whatever the cut, the company, the chunks and the history.
//!
//! The truth in all tests is one stage, one session, one token at a time.

use std::path::Path;

use proto::Position;
use proto::tensor::NumericsClass::Exact;

use crate::pipeline::{Part, Pipeline};
use crate::synthetic::{FAMILIES, Normal, ODD, SMALL, Tiny};

const LENGTH: u32 = 70;

fn tokens(model: Tiny, seed: u64) -> Vec<u32> {
    let mut random = Normal(seed);
    (0..LENGTH).map(|_| random.below(model.vocab)).collect()
}

/// Logits after each token.
fn truth(path: &Path, model: Tiny, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut pipeline = Pipeline::load(path, &[(0, model.layers)], Exact);
    let mut session = pipeline.open(LENGTH);
    tokens.iter().map(|&token| pipeline.feed(&mut session, &[token])).collect()
}

/// All ways to cut `layers` into spans.
fn cuts(layers: u32) -> Vec<Vec<(u32, u32)>> {
    (0..1u32 << (layers - 1))
        .map(|mask| {
            let mut starts: Vec<u32> = (1..layers).filter(|layer| mask & (1 << (layer - 1)) != 0).collect();
            starts.insert(0, 0);
            let ends = starts[1..].iter().copied().chain([layers]).collect::<Vec<_>>();
            starts.into_iter().zip(ends).collect()
        })
        .collect()
}

/// Feeds `tokens` in seeded chunks of 1 to 40 rows and compares each chunk's last row.
fn compare_chunked(pipeline: &mut Pipeline, tokens: &[u32], truth: &[Vec<f32>], seed: u64, what: &str) {
    let mut random = Normal(seed);
    let mut session = pipeline.open(LENGTH);
    let mut start = 0;
    while start < tokens.len() {
        let end = tokens.len().min(start + 1 + random.below(40) as usize);
        let logits = pipeline.feed(&mut session, &tokens[start..end]);
        assert_eq!(logits, truth[end - 1], "{what}: seed {seed}, rows {start}..{end}");
        start = end;
    }
    pipeline.close(session);
}

#[test]
fn every_cut_into_stages_and_every_chunking_gives_the_same_bits() {
    for model in FAMILIES {
        let directory = model.safetensors();
        let tokens = tokens(model, 1);
        let truth = truth(directory.path(), model, &tokens);
        for cut in cuts(model.layers) {
            let mut pipeline = Pipeline::load(directory.path(), &cut, Exact);
            for seed in 0..4 {
                compare_chunked(&mut pipeline, &tokens, &truth, seed, &format!("{cut:?}"));
            }
            assert!(
                pipeline.stages.iter().all(|stage| stage.kv_bytes() == 0),
                "closed sessions hold no memory"
            );
        }
    }
}

#[test]
fn recomputing_a_prefix_gives_the_bits_of_cached_decode() {
    for model in FAMILIES {
        let directory = model.safetensors();
        let tokens = tokens(model, 2);
        let truth = truth(directory.path(), model, &tokens);
        let mut pipeline = Pipeline::load(directory.path(), &[(0, 2), (2, model.layers)], Exact);
        for length in 1..=tokens.len() {
            let mut session = pipeline.open(LENGTH);
            let logits = pipeline.feed(&mut session, &tokens[..length]);
            assert_eq!(logits, truth[length - 1], "{}: prefix of {length}", model.family);
            pipeline.close(session);
        }
    }
}

#[test]
fn company_does_not_change_a_sessions_bits() {
    for model in FAMILIES {
        let directory = model.safetensors();
        let mut pipeline = Pipeline::load(directory.path(), &[(0, 1), (1, model.layers)], Exact);
        for batch in [1usize, 3, 32] {
            let all: Vec<Vec<u32>> = (0..batch).map(|seed| tokens(model, 100 + seed as u64)).collect();
            // The truth for the first, the last and one between is enough to fail and quick to make.
            let watched: Vec<usize> = if batch == 1 { vec![0] } else { vec![0, batch / 2, batch - 1] };
            let truths: Vec<_> = watched.iter().map(|&i| truth(directory.path(), model, &all[i])).collect();
            let mut sessions: Vec<_> = all.iter().map(|_| pipeline.open(LENGTH)).collect();
            let mut random = Normal(batch as u64);
            // Every session at a place of its own, decode rows and prefill chunks mixed, order turning.
            while sessions.iter().any(|session| session.length < LENGTH) {
                let mut parts: Vec<(usize, Part<'_>)> = vec![];
                for (index, session) in sessions.iter_mut().enumerate() {
                    let at = session.length as usize;
                    let rows = if random.below(3) == 0 { 1 + random.below(20) as usize } else { 1 };
                    let end = (at + rows).min(LENGTH as usize);
                    if at < end {
                        parts.push((index, Part { session, tokens: &all[index][at..end] }));
                    }
                }
                let turn = random.below(parts.len() as u32) as usize;
                parts.rotate_left(turn);
                let (order, mut parts): (Vec<usize>, Vec<Part<'_>>) = parts.into_iter().unzip();
                let logits = pipeline.step(&mut parts);
                for (row, index) in order.into_iter().enumerate() {
                    if let Some(which) = watched.iter().position(|&watched| watched == index) {
                        let end = parts[row].session.length as usize;
                        assert_eq!(
                            logits[row],
                            truths[which][end - 1],
                            "batch {batch}, session {index}, row {end}"
                        );
                    }
                }
            }
            for session in sessions {
                pipeline.close(session);
            }
        }
    }
}

#[test]
fn trimmed_sessions_go_on_as_if_nothing_had_followed() {
    let directory = SMALL.safetensors();
    let (kept, other) = (tokens(SMALL, 5), tokens(SMALL, 6));
    let truth = truth(directory.path(), SMALL, &kept);
    let mut pipeline = Pipeline::load(directory.path(), &[(0, 2), (2, 4)], Exact);
    let mut session = pipeline.open(LENGTH);
    pipeline.feed(&mut session, &kept[..30]);
    pipeline.feed(&mut session, &other[..25]);
    for (stage, &slot) in pipeline.stages.iter_mut().zip(&session.slots) {
        stage.trim(slot, Position::new(30)).unwrap();
    }
    session.length = 30;
    for at in 30..kept.len() {
        assert_eq!(pipeline.feed(&mut session, &kept[at..=at]), truth[at], "token {at}");
    }
}

#[test]
fn copied_rows_give_the_bits_of_computed_ones() {
    for model in FAMILIES {
        let directory = model.safetensors();
        let (kept, other) = (tokens(model, 5), tokens(model, 6));
        // Longer than the memory that a session begins with: the copy grows, and what is kept shrinks.
        let kept: Vec<u32> = (0..300).map(|at| kept[at % kept.len()]).collect();
        let mut whole = Pipeline::load(directory.path(), &[(0, model.layers)], Exact);
        let mut session = whole.open(400);
        let truth = whole.feed(&mut session, &kept);
        let mut pipeline = Pipeline::load(directory.path(), &[(0, 1), (1, model.layers)], Exact);
        let mut first = pipeline.open(400);
        pipeline.feed(&mut first, &kept[..290]);
        pipeline.feed(&mut first, &other[..20]);
        for (stage, &slot) in pipeline.stages.iter_mut().zip(&first.slots) {
            stage.retain(slot, Position::new(290)).unwrap();
        }
        for length in [290, 256, 1] {
            let mut second = pipeline.open(400);
            for (index, stage) in pipeline.stages.iter_mut().enumerate() {
                stage.copy(first.slots[index], second.slots[index], Position::new(length)).unwrap();
                let again = stage.copy(first.slots[index], second.slots[index], Position::new(1));
                assert!(again.is_err(), "into a session that holds rows");
            }
            second.length = length;
            assert_eq!(pipeline.feed(&mut second, &kept[length as usize..]), truth, "{length} rows copied");
            pipeline.close(second);
        }
        for (stage, &slot) in pipeline.stages.iter_mut().zip(&first.slots) {
            let held = stage.kv_bytes();
            stage.retain(slot, Position::new(64)).unwrap();
            assert!(stage.kv_bytes() < held, "what is beyond is given back");
            let small = stage.open(32).unwrap();
            assert!(stage.copy(slot, small, Position::new(64)).is_err(), "more than is reserved");
            assert!(stage.copy(slot, small, Position::new(65)).is_err(), "more than is held");
            stage.close(small);
        }
        pipeline.close(first);
        assert!(pipeline.stages.iter().all(|stage| stage.kv_bytes() == 0));
    }
}

#[test]
fn gguf_and_safetensors_of_one_model_give_the_same_bits() {
    for model in [SMALL, ODD] {
        let directory = model.safetensors();
        let (_kept, gguf) = model.gguf();
        let tokens = tokens(model, 9);
        let truth = truth(directory.path(), model, &tokens);
        let mut pipeline = Pipeline::load(&gguf, &[(0, 2), (2, model.layers)], Exact);
        compare_chunked(&mut pipeline, &tokens, &truth, 1, "gguf");
    }
}

#[test]
fn every_tensor_counts() {
    for model in FAMILIES {
        let directory = model.safetensors();
        let tokens = tokens(model, 3);
        let truth = truth(directory.path(), model, &tokens);
        let all = model.tensors();
        // Every tensor, so that a norm or a bias which is read and then left out shows.
        for changed in 0..all.len() {
            let name = &all[changed].name;
            let mut tensors = all.clone();
            tensors[changed].values.iter_mut().for_each(|value| *value += 0.05);
            let directory = crate::synthetic::write_directory(&model.config(), &tensors);
            let mut pipeline = Pipeline::load(directory.path(), &[(0, model.layers)], Exact);
            let mut session = pipeline.open(LENGTH);
            assert_ne!(
                pipeline.feed(&mut session, &tokens),
                truth[tokens.len() - 1],
                "{}: {name}",
                model.family
            );
        }
    }
}

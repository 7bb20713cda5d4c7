//! Headers by ranges: what comes over the network, and that it is enough to say the same as of the whole model.

use std::collections::BTreeMap;

use proto::LayerSpan;
use shard_node_weights::{Checkpoint, inspect, span_tensors};

use super::super::glance::glance;
use super::*;

/// A llama of two layers in two shards of bf16 zeros, some 18 MB, with its index.
fn model() -> Vec<(&'static str, Vec<u8>)> {
    let config = json!({
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 4096,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": false,
    });
    let config = config.to_string().into_bytes();
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("config.json"), &config).unwrap();
    fs::write(empty.path().join("model.safetensors"), safetensors(&BTreeMap::new())).unwrap();
    let architecture = Checkpoint::open(empty.path()).unwrap().architecture().unwrap();
    let mut shards = [BTreeMap::new(), BTreeMap::new()];
    let mut index = serde_json::Map::new();
    for (name, shape) in span_tensors(&architecture, LayerSpan::new(0, 2).unwrap()) {
        let shard = usize::from(name.contains("layers.1.") || name.starts_with("lm_head"));
        index.insert(name.clone(), json!(SHARDS[shard]));
        shards[shard].insert(name, shape);
    }
    let index = json!({ "metadata": {}, "weight_map": index }).to_string().into_bytes();
    vec![
        ("config.json", config),
        ("README.md", b"---\nlicense: apache-2.0\n---\n".to_vec()),
        ("tokenizer.json", vec![b' '; 100_000]),
        ("model.safetensors.index.json", index),
        (SHARDS[0], safetensors(&shards[0])),
        (SHARDS[1], safetensors(&shards[1])),
    ]
}

const SHARDS: [&str; 2] = ["model-1.safetensors", "model-2.safetensors"];

fn safetensors(tensors: &BTreeMap<String, Vec<u64>>) -> Vec<u8> {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<u64>();
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    // Longer than what the first request asks for, as the headers of large files are.
    header.insert("__metadata__".to_owned(), json!({ "padding": "x".repeat(20_000) }));
    let header = serde_json::Value::Object(header).to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + at as usize, 0);
    file
}

fn serve(files: &[(&'static str, Vec<u8>)]) -> Scene {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    Scene { server: Server::start(&files), cache: tempfile::tempdir().unwrap() }
}

/// Everything below `directory`.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).map_or_else(|_| vec![], |entries| entries.flatten().collect());
    let below = entries.into_iter().flat_map(|entry| {
        let path = entry.path();
        if path.is_dir() { files_below(&path) } else { vec![path] }
    });
    below.collect()
}

#[test]
fn headers_say_what_the_whole_model_says_and_nothing_is_kept() {
    let files = model();
    let scene = serve(&files);
    let stored: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let seen = glance(&hub("org/model"), &scene.options()).unwrap();
    assert!(!seen.is_whole());
    let sent = scene.server.with(|state| state.sent);
    println!("{sent} bytes fetched of {stored}");
    assert_eq!(sent as u64, seen.fetched());
    assert!(sent < 60_000 && stored > 15_000_000, "{sent} of {stored}");
    let asked = scene.server.asked();
    assert!(names(asked.clone()).iter().all(|name| name != "tokenizer.json"), "{asked:?}");
    let ranges: Vec<_> = asked.iter().filter(|(name, _)| name == SHARDS[0]).collect();
    assert_eq!(ranges[0].1.as_deref(), Some("bytes=0-16383"));
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let by_headers = inspect(&Checkpoint::open(seen.path()).unwrap()).unwrap();
    assert!(files_below(scene.cache.path()).is_empty());
    let folder = seen.path().to_owned();
    drop(seen);
    assert!(!folder.exists());

    let path = scene.fetch(None).unwrap();
    fs::write(path.join("README.md"), &files[1].1).unwrap();
    let whole = inspect(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(by_headers, whole);
    assert!(whole.unsupported.is_empty() && whole.parameters > 7_000_000, "{whole:?}");
    scene.server.with(|state| state.sent = 0);
    let seen = glance(&hub("org/model"), &scene.options()).unwrap();
    assert!(seen.is_whole() && seen.path() == path && seen.fetched() == 0);
    assert_eq!(scene.server.with(|state| state.sent), 0);
    drop(seen);
    assert_eq!(inspect(&Checkpoint::open(&path).unwrap()).unwrap(), whole, "what was whole stays");
}

#[test]
fn a_server_without_ranges_is_left_after_the_headers() {
    let scene = serve(&model());
    scene.server.with(|state| state.rangeless = true);
    let seen = glance(&hub("org/model"), &scene.options()).unwrap();
    assert!(seen.fetched() < 60_000, "{}", seen.fetched());
    assert!(inspect(&Checkpoint::open(seen.path()).unwrap()).unwrap().unsupported.is_empty());
}

#[test]
fn a_cut_header_goes_on_and_is_given_up() {
    let scene = serve(&model());
    scene.server.with(|state| state.cuts = vec![1 << 20, 5000, 0, 3, 2000]);
    let seen = glance(&hub("org/model"), &scene.options()).unwrap();
    assert!(inspect(&Checkpoint::open(seen.path()).unwrap()).unwrap().unsupported.is_empty());
    scene.server.with(|state| state.cuts = [vec![1 << 20], vec![0; 10]].concat());
    let text = glance(&hub("org/model"), &scene.options()).unwrap_err().to_string();
    assert!(text.contains("model-1.safetensors broke off after 0 of 16384"), "{text}");
}

#[test]
fn hostile_headers_are_refused_as_on_disk_without_reading_on() {
    let sizes = [u64::MAX, 1 << 40, (32 << 20) + 1, 4_000_000, 7];
    for size in sizes {
        let mut file = vec![b'{'; 3_000_000];
        file[..8].copy_from_slice(&size.to_le_bytes());
        let scene = serve(&[("config.json", b"{}".to_vec()), ("model.safetensors", file.clone())]);
        let seen = glance(&hub("org/model"), &scene.options()).unwrap();
        let on_disk = tempfile::tempdir().unwrap();
        fs::write(on_disk.path().join("config.json"), b"{}").unwrap();
        fs::write(on_disk.path().join("model.safetensors"), &file).unwrap();
        let error = |path: &Path| {
            Checkpoint::open(path).unwrap_err().to_string().replace(&path.display().to_string(), "")
        };
        assert_eq!(error(seen.path()), error(on_disk.path()), "{size}");
        assert!(seen.fetched() <= 3_000_002, "{size}: {}", seen.fetched());
    }
}

#[test]
fn a_ggufs_header_is_found_by_growing_ranges() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/golden/tiny.gguf");
    let golden = fs::read(golden).unwrap();
    let scene = serve(&[("tiny.gguf", golden.clone())]);
    let seen = glance(&hub("org/model"), &scene.options()).unwrap();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("tiny.gguf"), &golden).unwrap();
    let inspected = |path: &Path| inspect(&Checkpoint::open(path).unwrap()).unwrap();
    assert_eq!(inspected(seen.path()), inspected(&here.path().join("tiny.gguf")));

    // A header of 700,000 bytes that ends too early is looked for in 256 KiB, then in 1 MiB.
    let mut long = b"GGUF\x03\0\0\0".to_vec();
    long.extend(0_u64.to_le_bytes());
    long.extend(1_u64.to_le_bytes());
    long.extend(1_u64.to_le_bytes());
    long.extend(b"a\x08\0\0\0");
    long.extend(700_000_u64.to_le_bytes());
    long.resize(5_000_000, b'x');
    let scene = serve(&[("long.gguf", long.clone())]);
    let seen = glance(&hub("org/model"), &scene.options()).unwrap();
    assert_eq!(seen.fetched(), 1 << 20);
    let ranges: Vec<_> = scene.server.asked().into_iter().filter_map(|(_, range)| range).collect();
    assert_eq!(ranges, ["bytes=0-262143", "bytes=262144-1048575"]);
    assert!(Checkpoint::open(seen.path()).unwrap().architecture().is_err());

    // One that promises a string as long as it may be, again and again, has an end.
    let mut endless = b"GGUF\x03\0\0\0".to_vec();
    endless.extend(0_u64.to_le_bytes());
    endless.extend(4000_u64.to_le_bytes());
    for entry in 0..20_u32 {
        endless.extend(4_u64.to_le_bytes());
        endless.extend(format!("{entry:04}").as_bytes());
        endless.extend(8_u32.to_le_bytes());
        endless.extend((4_u64 << 20).to_le_bytes());
        endless.resize(endless.len() + (4 << 20), b'x');
    }
    let scene = serve(&[("endless.gguf", endless)]);
    let text = glance(&hub("org/model"), &scene.options()).unwrap_err().to_string();
    assert!(text.contains("endless.gguf does not end within 67108864 bytes"), "{text}");
}

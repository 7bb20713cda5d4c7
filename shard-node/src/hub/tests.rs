//! The hub client against a local server that speaks the hub's routes.

mod glance;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use proto::LayerSpan;
use serde_json::json;
use shard_node_weights::HubRef;

use super::{HubError, HubOptions, fetch};
use server::{COMMIT, Server};

const INDEX: &str = r#"{"weight_map":{
    "model.embed_tokens.weight":"m-1.safetensors","model.layers.0.a":"m-1.safetensors",
    "model.layers.1.a":"m-2.safetensors","model.layers.2.a":"m-3.safetensors",
    "model.norm.weight":"m-3.safetensors","lm_head.weight":"m-3.safetensors"}}"#;

fn shard(seed: u8) -> Vec<u8> {
    (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect()
}

/// A server with a model of three shards, and a cache.
struct Scene {
    server: Server,
    cache: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let shards = [shard(1), shard(2), shard(3)];
        let server = Server::start(&[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{\"model\":1}"),
            ("README.md", b"not fetched"),
            ("pytorch_model.bin", b"not fetched"),
            ("model.safetensors.index.json", INDEX.as_bytes()),
            ("m-1.safetensors", &shards[0]),
            ("m-2.safetensors", &shards[1]),
            ("m-3.safetensors", &shards[2]),
        ]);
        Self { server, cache: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> HubOptions {
        HubOptions::new(&self.server.endpoint(), None, self.cache.path().to_owned()).unwrap()
    }

    fn fetch(&self, span: Option<(u32, u32)>) -> Result<PathBuf, HubError> {
        fetch(&hub("org/model"), span.map(|(a, b)| LayerSpan::new(a, b).unwrap()), &self.options(), |_| {})
    }

    fn text_of_error(&self) -> String {
        self.fetch(None).unwrap_err().to_string()
    }

    fn directory(&self) -> PathBuf {
        self.cache.path().join("org--model").join(COMMIT)
    }
}

fn hub(text: &str) -> HubRef {
    text.parse().unwrap()
}

fn names(asked: Vec<(String, Option<String>)>) -> Vec<String> {
    asked.into_iter().map(|(name, _)| name).collect()
}

fn assert_whole(directory: &Path) {
    for (at, name) in (1..).zip(["m-1.safetensors", "m-2.safetensors", "m-3.safetensors"]) {
        assert!(fs::read(directory.join(name)).unwrap() == shard(at), "{name}");
    }
    assert!(!directory.join("README.md").exists() && !directory.join("pytorch_model.bin").exists());
    let parts = fs::read_dir(directory).unwrap().flatten();
    assert!(parts.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().ends_with(".part")));
}

#[test]
fn a_model_is_fetched_once() {
    let scene = Scene::new();
    let mut told = 0;
    let path = fetch(&hub("org/model"), None, &scene.options(), |progress| {
        assert!(progress.bytes <= progress.of);
        told = told.max(progress.bytes);
    })
    .unwrap();
    assert_eq!((path.clone(), told), (scene.directory(), 300_000));
    assert_whole(&path);
    assert_eq!(scene.server.asked().len(), 7);
    scene.fetch(None).unwrap();
    assert_eq!(names(scene.server.asked()), ["main?blobs=true"]);
    // A commit is what it is: the hub is not even asked.
    let by_commit = fetch(&hub(&format!("org/model@{COMMIT}")), None, &scene.options(), |_| {}).unwrap();
    assert_eq!((by_commit, scene.server.asked().len()), (path, 0));
    fetch(&hub("org/model@refs/pr/1"), None, &scene.options(), |_| {}).unwrap();
    assert_eq!(names(scene.server.asked()), ["refs%2Fpr%2F1?blobs=true"]);
}

#[test]
fn a_span_brings_its_shards_only() {
    let scene = Scene::new();
    let shards = |asked: Vec<(String, Option<String>)>| -> Vec<String> {
        names(asked).into_iter().filter(|name| name.starts_with("m-")).collect()
    };
    scene.fetch(Some((1, 2))).unwrap();
    assert_eq!(shards(scene.server.asked()), ["m-2.safetensors"]);
    scene.fetch(Some((0, 2))).unwrap();
    assert_eq!(shards(scene.server.asked()), ["m-1.safetensors"]);
    scene.fetch(Some((2, 3))).unwrap();
    assert_eq!(shards(scene.server.asked()), ["m-3.safetensors"]);
    assert_whole(&scene.directory());
}

#[test]
fn a_tied_head_needs_the_embedding_at_both_ends() {
    let scene = Scene::new();
    let tied = INDEX.replace(r#","lm_head.weight":"m-3.safetensors""#, "");
    scene
        .server
        .with(|state| state.files.insert("model.safetensors.index.json".to_owned(), tied.into_bytes()));
    scene.fetch(Some((2, 3))).unwrap();
    let directory = scene.directory();
    assert!(directory.join("m-1.safetensors").exists() && directory.join("m-3.safetensors").exists());
    assert!(!directory.join("m-2.safetensors").exists());
    // The configuration alone says so, too: the head that lies in the files is then a copy.
    let scene = Scene::new();
    scene.server.with(|state| {
        state.files.insert("config.json".to_owned(), br#"{"tie_word_embeddings":true}"#.to_vec())
    });
    scene.fetch(Some((2, 3))).unwrap();
    assert!(scene.directory().join("m-1.safetensors").exists());
}

#[test]
fn a_cut_connection_goes_on_where_it_broke() {
    let scene = Scene::new();
    scene.server.with(|state| state.cuts = vec![usize::MAX, 100_000, 150_000]);
    scene.fetch(None).unwrap();
    assert_whole(&scene.directory());
    let asked = scene.server.asked();
    let ranges: Vec<_> =
        asked.iter().filter(|(name, _)| name == "m-1.safetensors").map(|(_, range)| range.clone()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=250000-".to_owned())]);
}

#[test]
fn a_part_of_a_killed_fetch_is_used() {
    let scene = Scene::new();
    fs::create_dir_all(scene.directory()).unwrap();
    fs::write(scene.directory().join(".m-2.safetensors.part"), &shard(2)[..123_456]).unwrap();
    scene.fetch(None).unwrap();
    assert_whole(&scene.directory());
    let wanted = ("m-2.safetensors".to_owned(), Some("bytes=123456-".to_owned()));
    assert!(scene.server.asked().contains(&wanted));
}

#[test]
fn a_server_without_ranges_begins_again() {
    let scene = Scene::new();
    scene.server.with(|state| {
        state.rangeless = true;
        state.cuts = vec![usize::MAX, 200_000];
    });
    scene.fetch(None).unwrap();
    assert_whole(&scene.directory());
}

#[test]
fn a_server_that_always_cuts_is_given_up() {
    let scene = Scene::new();
    scene.server.with(|state| state.cuts = [vec![usize::MAX, 1000], vec![0; 8]].concat());
    let error = scene.fetch(None).unwrap_err();
    assert!(matches!(error, HubError::BrokenOff { have: 1000, attempts: 3, .. }), "{error}");
    assert!(error.to_string().contains("run again to go on from there"));
    scene.server.with(|state| state.cuts.clear());
    scene.fetch(None).unwrap();
    assert_whole(&scene.directory());
}

#[test]
fn redirects_are_followed_without_the_token() {
    let scene = Scene::new();
    let files: Vec<(String, Vec<u8>)> = scene.server.with(|state| state.files.clone().into_iter().collect());
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    let store = Server::start(&listed);
    scene.server.with(|state| state.redirect = Some(store.address));
    store.with(|state| state.cuts = vec![usize::MAX, 50_000]);
    let options =
        HubOptions::new(&scene.server.endpoint(), Some("secret-token"), scene.cache.path().to_owned())
            .unwrap();
    assert!(!format!("{options:?}").contains("secret"));
    fetch(&hub("org/model"), None, &options, |_| {}).unwrap();
    assert_whole(&scene.directory());
    let at_hub = scene.server.with(|state| state.log.clone());
    assert!(at_hub.iter().all(|request| request.authorization.as_deref() == Some("Bearer secret-token")));
    let at_store = store.with(|state| state.log.clone());
    assert!(
        at_store.len() >= 4 && at_store.iter().all(|request| request.authorization.is_none()),
        "{at_store:?}"
    );
    assert!(at_store.iter().any(|request| request.range.is_some()));
}

#[test]
fn each_refusal_says_what_to_do() {
    let cases = [
        ("revision", 401, "refuses access (401), no HF_TOKEN was sent; check the name"),
        ("revision", 403, "refuses access (403)"),
        ("revision", 404, "no revision main; check the spelling"),
        ("revision", 429, "slow down (429), in 7 s"),
        ("revision", 500, "answered 500 for revision main; the fault is on its side"),
        ("m-2.safetensors", 404, "no m-2.safetensors"),
        ("m-2.safetensors", 503, "answered 503 for m-2.safetensors"),
    ];
    for (end, status, expected) in cases {
        let scene = Scene::new();
        scene.server.with(|state| state.status = Some((end, status)));
        let text = scene.text_of_error();
        assert!(text.starts_with("org/model: ") && text.contains(expected), "{text}");
        scene.server.with(|state| state.status = None);
        scene.fetch(None).unwrap();
        assert_whole(&scene.directory());
    }
}

#[test]
fn wrong_bytes_are_not_kept() {
    let scene = Scene::new();
    let wrong = "0".repeat(64);
    let siblings = json!([
        {"rfilename": "config.json", "size": 2},
        {"rfilename": "model.safetensors", "size": 2, "lfs": {"sha256": wrong, "size": 2, "pointerSize": 1}}
    ]);
    scene.server.with(|state| {
        state.files.insert("model.safetensors".to_owned(), b"xy".to_vec());
        state.listing = Some(json!({"sha": COMMIT, "siblings": siblings}));
    });
    let text = scene.text_of_error();
    assert!(text.contains("model.safetensors has SHA-256") && text.contains(&wrong), "{text}");
    assert!(!scene.directory().join("model.safetensors").exists());
    assert!(!scene.directory().join(".model.safetensors.part").exists());
}

#[test]
fn hostile_listings_are_refused() {
    let with = |siblings: serde_json::Value| json!({"sha": COMMIT, "siblings": siblings});
    let config = json!({"rfilename": "config.json", "size": 2});
    let cases = [
        (json!({"sha": "../../etc", "siblings": []}), "commit is not a hash"),
        (json!([]), "listing is unusable"),
        (with(json!([])), "no safetensors and no GGUF"),
        (with(json!([{"rfilename": "../../x.safetensors", "size": 1}])), "no safetensors and no GGUF"),
        (
            with(json!([config, {"rfilename": "model.safetensors", "size": 1_u64 << 60}])),
            "more than the limit",
        ),
        (with(json!([config, {"rfilename": "model.safetensors"}])), "no size"),
        (with(json!([{"rfilename": "model.safetensors", "size": 1}])), "no config.json"),
        (
            with(json!([{"rfilename": "a.gguf", "size": 1}, {"rfilename": "b.gguf", "size": 1}])),
            "2 GGUF files",
        ),
        (
            with(json!([config, {"rfilename": "model.safetensors", "lfs": {"sha256": "x", "size": 1}}])),
            "is none",
        ),
    ];
    for (listing, expected) in cases {
        let scene = Scene::new();
        scene.server.with(|state| state.listing = Some(listing.clone()));
        let text = scene.text_of_error();
        assert!(text.contains(expected), "{listing}: {text}");
    }
    for index in [
        "{}",
        r#"{"weight_map":{}}"#,
        r#"{"weight_map":{"a":"../m-1.safetensors"}}"#,
        r#"{"weight_map":{"a":"m-9.safetensors"}}"#,
    ] {
        let scene = Scene::new();
        scene
            .server
            .with(|state| state.files.insert("model.safetensors.index.json".to_owned(), index.into()));
        assert!(scene.text_of_error().contains("listing is unusable"), "{index}");
    }
}

#[test]
fn processes_that_want_the_same_model_share_one_fetch() {
    let scene = Scene::new();
    std::thread::scope(|scope| {
        let fetches: Vec<_> = (0..4).map(|_| scope.spawn(|| scene.fetch(None).unwrap())).collect();
        for fetch in fetches {
            assert_whole(&fetch.join().unwrap());
        }
    });
    let asked = names(scene.server.asked());
    assert_eq!(asked.iter().filter(|name| *name == "m-2.safetensors").count(), 1);
}

#[test]
fn a_model_that_is_here_needs_no_hub() {
    let Scene { server, cache } = Scene::new();
    let options = HubOptions::new(&server.endpoint(), None, cache.path().to_owned()).unwrap();
    let path = fetch(&hub("org/model"), None, &options, |_| {}).unwrap();
    drop(server);
    assert_eq!(fetch(&hub("org/model"), None, &options, |_| {}).unwrap(), path);
    let text = fetch(&hub("org/other"), None, &options, |_| {}).unwrap_err().to_string();
    assert!(text.contains("org/other: revision main") && text.contains("cannot be reached"), "{text}");
    assert!(text.contains("HF_ENDPOINT"), "{text}");
}

#[test]
fn a_repository_of_one_gguf_gives_the_file() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/golden/tiny.gguf");
    let server = Server::start(&[("tiny.gguf", &fs::read(golden).unwrap()), ("README.md", b"x")]);
    let cache = tempfile::tempdir().unwrap();
    let options = HubOptions::new(&server.endpoint(), None, cache.path().to_owned()).unwrap();
    let path = fetch(&hub("org/model"), None, &options, |_| {}).unwrap();
    assert_eq!(path.file_name().unwrap(), "tiny.gguf");
    shard_node_weights::Checkpoint::open(&path).unwrap().architecture().unwrap();
}

#[test]
fn settings_are_checked() {
    let new = |endpoint, token| HubOptions::new(endpoint, token, PathBuf::from("cache"));
    assert_eq!(new("http://mirror:8080/", None).unwrap().endpoint, "http://mirror:8080");
    for endpoint in ["", "mirror", "ftp://x", "http://", "https://a b"] {
        assert!(new(endpoint, None).unwrap_err().to_string().contains("HF_ENDPOINT"), "{endpoint}");
    }
    assert!(new("http://x", Some("a\r\nb")).unwrap_err().to_string().contains("HF_TOKEN"));
}

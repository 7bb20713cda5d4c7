//! Models from a hub, end to end: nodes fetch their spans from a server that speaks a hub's routes, and answer as a node
//! that reads the same model from a directory.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_tests::processes::{NodeProcess, Programs, Ready};
use cluster_tests::tiny_llama::write_sharded;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

#[test]
fn nodes_serve_a_model_from_a_hub() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let tiny = home.path().join("tiny");
    write_sharded(&tiny).unwrap();
    let files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(&tiny)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    let hub = Hub::start(files);
    let environment = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let [from_hub, from_disk] = ["hub", "disk"].map(|name| {
        let folder = home.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    });
    let serve = |reference: &str, layers: &str, bootstrap: Option<&Ready>, folder: &Path| -> NodeProcess {
        let mut arguments = vec!["--model", reference, "--layers", layers, "--numerics", "exact"];
        let target = bootstrap.map(Ready::target);
        arguments.extend(target.iter().flat_map(|target| ["--bootstrap", target]));
        programs.node_in(folder, &arguments, &environment).unwrap()
    };
    let first = serve("hf:org/tiny", "0..1", None, &from_hub);
    let second = serve("hf:org/tiny@main", "1..4", Some(first.ready()), &from_hub);
    let whole = serve(tiny.to_str().unwrap(), "0..4", None, &from_disk);
    assert_eq!(first.ready().model_id, whole.ready().model_id);
    assert_eq!(second.ready().model_id, whole.ready().model_id);

    let question = ["--token-ids", "5,17,99,3", "--max-tokens", "16", "--numerics", "exact"];
    let hubs = programs.generate(&from_hub, first.ready(), &question).unwrap();
    let disks = programs.generate(&from_disk, whole.ready(), &question).unwrap();
    assert_eq!(hubs["token_ids"].as_array().unwrap().len(), 16, "{hubs}");
    assert_eq!(hubs["token_ids"], disks["token_ids"]);
    assert_eq!(hubs["route"].as_array().unwrap().len(), 2);
    // A copy: the hub's thread writes it.
    let asked = hub.asked.lock().unwrap().clone();
    assert!(asked.iter().any(|path| path.ends_with("layer-3.safetensors")), "{asked:?}");

    // A name that the hub does not have.
    let unknown = ["serve", "--model", "hf:org/none", "--layers", "0..1", "--listen", "127.0.0.1:0"];
    let mut command = programs.command("shard-node", home.path());
    command.args(unknown).env("HF_ENDPOINT", &hub.endpoint);
    let mut running =
        cluster_tests::processes::Running::start(command, &home.path().join("unknown.log")).unwrap();
    let status = running.wait(Duration::from_mins(1)).unwrap();
    let said = running.log_text();
    assert!(!status.success() && said.contains("org/none"), "{said}");
}

/// A server with one repository, `org/tiny`.
struct Hub {
    endpoint: String,
    /// Paths asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Serves on a thread that ends with the test's process.
    fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::Builder::new()
            .name("hub".into())
            .spawn(move || {
                for stream in listener.incoming() {
                    // A client that hangs up is its own affair.
                    let _ = answer(&stream.unwrap(), &files, &log);
                }
            })
            .unwrap();
        Self { endpoint, asked }
    }
}

fn answer(
    mut stream: &TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut from = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
    }
    asked.lock().unwrap().push(path.clone());
    let file = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).and_then(|name| files.get(name));
    let (status, body) = match (path.strip_prefix("/api/models/org/tiny/revision/"), file) {
        (Some("main?blobs=true"), _) => ("200 OK".to_owned(), listing(files).to_string().into_bytes()),
        (_, Some(bytes)) => match from.filter(|&from| from < bytes.len()) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                (format!("206 Partial Content\r\nContent-Range: {range}"), bytes[from..].to_vec())
            }
            None => ("200 OK".to_owned(), bytes.clone()),
        },
        _ => ("404 Not Found".to_owned(), Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let mut sibling = json!({"rfilename": name, "size": bytes.len(), "blobId": "b"});
        if name.ends_with("safetensors") {
            let sha256 = hex::encode(Sha256::digest(bytes));
            sibling["lfs"] = json!({"sha256": sha256, "size": bytes.len(), "pointerSize": 130});
        }
        sibling
    };
    let files: Vec<Value> = files.iter().map(sibling).collect();
    json!({"_id": "1", "id": "org/tiny", "sha": COMMIT, "siblings": files})
}

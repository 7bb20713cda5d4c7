//! A small HTTP server that speaks the hub's routes, with faults on demand. One connection at a time, one
//! request per connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has and how it misbehaves.
#[derive(Default)]
pub(super) struct State {
    /// Files of the repository `org/model`.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Replaces the listing.
    pub(super) listing: Option<Value>,
    /// Answers with this status instead, where the path ends so.
    pub(super) status: Option<(&'static str, u16)>,
    /// Cuts the next bodies after so many bytes.
    pub(super) cuts: Vec<usize>,
    /// Does not know `Range`.
    pub(super) rangeless: bool,
    /// Redirects weights to this other server.
    pub(super) redirect: Option<SocketAddr>,
    /// Requests so far: path, range, authorization.
    pub(super) log: Vec<Request>,
    /// Bytes of files that it sent or was about to: a client that hangs up is not seen at once.
    pub(super) sent: usize,
    stop: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) authorization: Option<String>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().stop {
                    return;
                }
                // A client that hangs up is part of the tests.
                let _ = serve(&stream.unwrap(), &shared);
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// The requests since the last look, as (file, range).
    pub(super) fn asked(&self) -> Vec<(String, Option<String>)> {
        let log = self.with(|state| std::mem::take(&mut state.log));
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        log.into_iter().map(|request| (name(&request.path), request.range)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.with(|state| state.stop = true);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path: path.clone(), range: None, authorization: None };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.trim().to_owned()),
            "authorization" => request.authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    state.log.push(request.clone());
    let (head, body) = answer(&state, &path, request.range.as_deref());
    let cut = if path.contains("safetensors") && !state.cuts.is_empty() {
        Some(state.cuts.remove(0))
    } else {
        None
    };
    if !path.starts_with("/api/") {
        state.sent += body.len();
    }
    drop(state);
    let mut out = stream;
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    out.write_all(head.as_bytes())?;
    out.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])
}

/// Status line with further headers, and the body.
fn answer(state: &State, path: &str, range: Option<&str>) -> (String, Vec<u8>) {
    if let Some((_, status)) = state.status.filter(|(end, _)| path.contains(end)) {
        let more = if status == 429 { "\r\nRetry-After: 7" } else { "" };
        return (format!("{status} No{more}"), b"<html>no</html>".to_vec());
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/model/revision/") {
        return match revision {
            "main?blobs=true" | "refs%2Fpr%2F1?blobs=true" => ("200 OK".to_owned(), listing(state)),
            commit if commit.starts_with(COMMIT) => ("200 OK".to_owned(), listing(state)),
            _ => ("404 Not Found".to_owned(), Vec::new()),
        };
    }
    let resolve = format!("/org/model/resolve/{COMMIT}/");
    let Some(name) = path.strip_prefix(&resolve).or_else(|| path.strip_prefix("/cdn/")) else {
        return ("404 Not Found".to_owned(), Vec::new());
    };
    if let Some(other) = state.redirect.filter(|_| name.contains("safetensors")) {
        return (format!("302 Found\r\nLocation: http://{other}/cdn/{name}"), Vec::new());
    }
    let Some(bytes) = state.files.get(name) else { return ("404 Not Found".to_owned(), Vec::new()) };
    let range = range.and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let to = if to.is_empty() { bytes.len() } else { to.parse::<usize>().ok()? + 1 };
        Some((from.parse::<usize>().ok()?, to.min(bytes.len())))
    });
    match range {
        Some((from, to)) if !state.rangeless && from < to => {
            let range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
            (format!("206 Partial Content\r\nContent-Range: {range}"), bytes[from..to].to_vec())
        }
        _ => ("200 OK".to_owned(), bytes.clone()),
    }
}

fn listing(state: &State) -> Vec<u8> {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let mut sibling = json!({"rfilename": name, "size": bytes.len(), "blobId": "b"});
        if name.contains("safetensors") && !name.contains("index") || name.ends_with("gguf") {
            let sha256 = hex::encode(Sha256::digest(bytes));
            sibling["lfs"] = json!({"sha256": sha256, "size": bytes.len(), "pointerSize": 130});
        }
        sibling
    };
    let files: Vec<Value> = state.files.iter().map(sibling).collect();
    let listing = json!({"_id": "1", "id": "org/model", "sha": COMMIT, "siblings": files});
    state.listing.clone().unwrap_or(listing).to_string().into_bytes()
}

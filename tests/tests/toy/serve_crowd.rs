//! Ten thousand clients at one time.

use std::path::Path;
use std::process::{Command, Stdio};

use cluster_tests::http;
use cluster_tests::processes::Running;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::time::timeout;

use crate::serve::{LONG, TestServer};
use crate::serve_openai_clients::{asked, text, words, wordy};
use crate::swarm::{PATIENCE, ToySwarm};

/// Connections that are open at one time.
const CLIENTS: u64 = 10_500;
/// Those of them that the router takes.
const TAKEN: u64 = 10_000;
/// Descriptors of everything else in this process.
const OTHERS: u64 = 1_500;

/// Raises the limit of open files as far as it goes: the limit.
fn files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, raised).unwrap();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// All are open before the first of them asks; what the router takes it answers, the others it refuses, and a client that
/// was there before notices nothing. The clients are a process of their own, as each process may open so many files only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_are_open_at_one_time_and_a_client_that_was_there_is_served() {
    // The router keeps a second descriptor of each connection that it takes.
    let (files, needed) = (files(), 2 * TAKEN + OTHERS);
    let taken = if files >= needed { TAKEN } else { (files - OTHERS) / 2 };
    eprintln!("{files} files may be open, {needed} would be: the router takes {taken} connections");
    let swarm = ToySwarm::start(wordy(1)).await;
    let server = TestServer::start(&swarm, 100, |config| {
        config.http.connections = taken as usize + 1;
        config.http.head_within = 10 * PATIENCE;
    })
    .await;
    // It is there, and does not read while the others come.
    let answer = http::post(server.addr, "/v1/completions", &asked(LONG)).await.unwrap();
    assert_eq!(answer.status, 200);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/crowd.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(server.addr.ip().to_string()).arg(server.addr.port().to_string());
    command.arg(CLIENTS.to_string()).stdin(Stdio::null());
    let folder = tempfile::tempdir().unwrap();
    let mut clients = Running::start(command, &folder.path().join("crowd.log")).unwrap();
    let line = clients.line(5 * PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", clients.log_text()));
    eprintln!("{line}");
    let told: Value = serde_json::from_str(&line).unwrap();
    let of = |name: &str| told[name].as_u64().unwrap();
    // Exactly as many as it takes: nobody's place was lost, and nobody beyond them got one.
    assert_eq!((of("open"), of("answered")), (CLIENTS, taken));
    assert_eq!(of("refused") + of("closed"), CLIENTS - taken);
    assert!(of("refused") > 0);
    let (told, whole) = text(&mut answer.events()).await;
    assert!(whole && told.trim().starts_with(&words(&swarm, 200)));
    assert_eq!(told.split_whitespace().count(), LONG as usize);
    // There is room again as soon as they go.
    drop(clients);
    let again = async {
        while http::get(server.addr, "/v1/models").await.map_or(0, |answer| answer.status) != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    swarm.wait_until_idle().await;
    server.stop().await;
}

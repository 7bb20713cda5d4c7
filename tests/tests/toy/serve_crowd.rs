//! Ten thousand clients at one time.

use std::net::SocketAddr;

use cluster_tests::http;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::serve::{LONG, TestServer};
use crate::serve_openai_clients::{asked, text, words, wordy};
use crate::swarm::{PATIENCE, ToySwarm};

/// Connections that are open at one time: ten thousand that are taken, if as many files may be open, and others.
const CLIENTS: u64 = 10_500;
/// Those that come beyond what the router takes: as many are refused at least.
const BEYOND: u64 = 500;
/// Descriptors of a connection that the router takes: its own two, beside the client's.
const OF_A_TAKEN_ONE: u64 = 2;
/// Descriptors of everything else in this process, other tests among it.
const OTHERS: u64 = 1_500;
/// Clients that connect, or ask, at one moment: fewer than wait in the listener's backlog.
const AT_ONCE: usize = 100;

/// Raises the limit of open files as far as it goes: the limit.
fn files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, raised).unwrap();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What became of a client that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Answered,
    Refused,
    Closed,
}

/// Asks over a connection that was made before, and keeps it.
async fn ask(mut stream: TcpStream) -> (TcpStream, Told) {
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let told = async {
        // Whoever was refused may find the connection closed, or its answer there already.
        let _ = stream.write_all(request).await;
        let (mut head, mut read) = ([0; 256], 0);
        while read < b"HTTP/1.1 200".len() {
            match stream.read(&mut head[read..]).await {
                Ok(more @ 1..) => read += more,
                _ => return Told::Closed,
            }
        }
        match &head[..12] {
            b"HTTP/1.1 200" => Told::Answered,
            b"HTTP/1.1 503" => Told::Refused,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    };
    let told = timeout(PATIENCE, told).await.expect("nobody is left without a word");
    (stream, told)
}

async fn connect(addr: SocketAddr, count: u64) -> Vec<TcpStream> {
    let (mut connecting, mut open) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        if connecting.len() == AT_ONCE {
            open.push(connecting.join_next().await.unwrap().unwrap());
        }
        connecting.spawn(async move { timeout(PATIENCE, TcpStream::connect(addr)).await.unwrap().unwrap() });
    }
    open.extend(connecting.join_all().await);
    open
}

/// All are open before the first of them asks; what the router takes it answers, the others it refuses, and a client that
/// was there before notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_are_open_at_one_time_and_a_client_that_was_there_is_served() {
    let files = files();
    // Where few may be, there are fewer clients; where hardly any, this test says so.
    let clients = CLIENTS.min(files.saturating_sub(OTHERS + OF_A_TAKEN_ONE * BEYOND));
    let taken = (clients.saturating_sub(BEYOND)).min(files.saturating_sub(OTHERS + clients) / OF_A_TAKEN_ONE);
    eprintln!("{files} files may be open: {clients} connections, of which the router takes {taken}");
    assert!(taken >= BEYOND, "raise the hard limit of open files (`ulimit -Hn`) to 5,000 at least");
    let swarm = ToySwarm::start(wordy(1)).await;
    let server = TestServer::start(&swarm, 100, |config| {
        config.http.connections = taken as usize + 1;
        config.http.head_within = 10 * PATIENCE;
    })
    .await;
    // It is there, and does not read while the others come.
    let answer = http::post(server.addr, "/v1/completions", &asked(LONG)).await.unwrap();
    assert_eq!(answer.status, 200);
    let open = connect(server.addr, clients).await;
    assert_eq!(open.len() as u64, clients);
    let (mut asking, mut waiting) = (JoinSet::new(), open.into_iter());
    let (mut kept, mut told) = (Vec::new(), [0_u64; 3]);
    loop {
        while asking.len() < AT_ONCE
            && let Some(stream) = waiting.next()
        {
            asking.spawn(ask(stream));
        }
        let Some(done) = asking.join_next().await else { break };
        let (stream, what) = done.unwrap();
        told[what as usize] += 1;
        kept.push(stream);
    }
    let [answered, refused, closed] = told;
    eprintln!("{answered} were answered, {refused} refused with 503, {closed} closed without a word");
    // Exactly as many as it takes: nobody's place was lost, and nobody beyond them got one.
    assert_eq!((answered, refused + closed), (taken, clients - taken));
    assert!(refused > 0);
    let (told, whole) = text(&mut answer.events()).await;
    assert!(whole && told.trim().starts_with(&words(&swarm, 200)));
    assert_eq!(told.split_whitespace().count(), LONG as usize);
    // There is room again as soon as they go.
    drop(kept);
    let again = async {
        while http::get(server.addr, "/v1/models").await.map_or(0, |answer| answer.status) != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    swarm.wait_until_idle().await;
    server.stop().await;
}

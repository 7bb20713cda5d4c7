//! Blobs from peers that serve, lie, break off, say nothing, and from the folder.

use std::net::Ipv4Addr;

use proto::NodeKey;
use proto::status::NotFound;
use tokio::task::JoinSet;

use super::*;
use crate::{Connection, Endpoint, EndpointConfig, FrameSender};

/// What a scripted peer does with a request for a blob.
#[derive(Clone, Debug)]
enum Script {
    /// Sends these bytes, whatever was asked for.
    Serve(Vec<u8>),
    /// Does not have it.
    NotFound,
    /// Announces so many bytes, sends these, finishes.
    BreakOff(u64, Vec<u8>),
    /// Closes the connection after the first of these bytes.
    HangUp(Vec<u8>),
    /// Reads the request, answers nothing.
    Silent,
    /// Announces many bytes and sends one at a time.
    Crumbs,
    /// Answers with a frame that has no place here.
    Nonsense,
}

struct Scripted {
    endpoint: Endpoint,
    // Dropped with the peer, which ends it.
    _serving: JoinSet<()>,
}

impl Scripted {
    fn start(number: u8, script: Script) -> Self {
        let endpoint = endpoint(number, true);
        let mut serving = JoinSet::new();
        let accepting = endpoint.clone();
        serving.spawn(async move {
            while let Some(connection) = accepting.accept().await {
                serve(connection, &script).await;
            }
        });
        Self { endpoint, _serving: serving }
    }

    fn address(&self) -> (NodeId, Vec<SocketAddr>) {
        (self.endpoint.node_id(), vec![self.endpoint.local_addr()])
    }
}

async fn serve(connection: Connection, script: &Script) {
    // Senders that keep silent stay open.
    let mut silent = Vec::new();
    while let Ok((mut to, mut from)) = connection.accept_bi().await {
        let asked = from.recv().await;
        assert!(matches!(asked, Ok(Some(frame)) if frame.kind == FrameKind::Fetch));
        // The asker may have given up, which is what some tests are about.
        let _ = answer(&mut to, script).await;
        match script {
            Script::Silent => silent.push(to),
            Script::HangUp(_) => connection.close(proto::status::CloseCode::ShuttingDown, "gone"),
            _ => to.finish(),
        }
    }
}

async fn answer(to: &mut FrameSender, script: &Script) -> Result<(), crate::SendError> {
    let start = |bytes| BlobStart { bytes };
    match script {
        Script::Serve(bytes) => {
            to.send_message(&start(bytes.len() as u64)).await?;
            for part in bytes.chunks(FrameKind::BlobPart.max_body()) {
                to.send(FrameKind::BlobPart, Bytes::copy_from_slice(part)).await?;
            }
        }
        Script::NotFound => to.send_message(&NotFound).await?,
        Script::BreakOff(announced, bytes) => {
            to.send_message(&start(*announced)).await?;
            to.send(FrameKind::BlobPart, Bytes::copy_from_slice(bytes)).await?;
        }
        Script::HangUp(bytes) => to.send_message(&start(2 * bytes.len() as u64)).await?,
        Script::Silent => {}
        Script::Crumbs => {
            to.send_message(&start(1000)).await?;
            loop {
                to.send(FrameKind::BlobPart, Bytes::from_static(b".")).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Script::Nonsense => to.send(FrameKind::Sampled, Bytes::from_static(b"?")).await?,
    }
    Ok(())
}

fn endpoint(number: u8, accept: bool) -> Endpoint {
    let mut config = EndpointConfig::new(NodeKey::from_seed(&[number; 32]), (Ipv4Addr::LOCALHOST, 0).into());
    config.accept = accept;
    Endpoint::bind(config).unwrap()
}

fn peers() -> Peers {
    Peers::new(endpoint(99, false), 16)
}

/// Three parts and a bit.
fn blob() -> (ContentHash, Vec<u8>) {
    let bytes: Vec<u8> = (0..210_000_u32).flat_map(u32::to_le_bytes).collect();
    (ContentHash::of(&bytes), bytes)
}

const SHORT: Duration = Duration::from_millis(300);
const LIMIT: u64 = 1 << 20;

/// The reason why a peer with this script does not serve the blob.
async fn refused(script: Script) -> FetchError {
    let peer = Scripted::start(1, script);
    match fetch_from_any(&peers(), blob().0, LIMIT, &[peer.address()], SHORT).await {
        Err(BlobError::Failed { asked: 1, node, why, .. }) if node == peer.endpoint.node_id() => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_blob_in_parts_comes_whole_and_says_from_whom() {
    let (hash, bytes) = blob();
    let peer = Scripted::start(1, Script::Serve(bytes.clone()));
    let got = fetch_blob(&peers(), hash, bytes.len() as u64, &[peer.address()]).await.unwrap();
    assert_eq!(got, Blob { bytes, origin: BlobOrigin::Node(peer.endpoint.node_id()) });
}

#[tokio::test]
async fn whoever_does_not_serve_it_is_passed_over() {
    let (hash, bytes) = blob();
    let mut lie = bytes.clone();
    lie[5] ^= 1;
    let scripts = [
        Script::NotFound,
        Script::Serve(lie),
        Script::BreakOff(bytes.len() as u64, bytes[..1000].to_vec()),
        Script::HangUp(bytes.clone()),
        Script::Silent,
        Script::Serve(bytes.clone()),
    ];
    let swarm: Vec<Scripted> =
        (1..).zip(scripts).map(|(number, script)| Scripted::start(number, script)).collect();
    let nodes: Vec<_> = swarm.iter().map(Scripted::address).collect();
    let got = fetch_from_any(&peers(), hash, LIMIT, &nodes, SHORT).await.unwrap();
    assert_eq!(got, Blob { bytes, origin: BlobOrigin::Node(nodes[5].0) });
}

#[tokio::test]
async fn each_way_not_to_serve_has_its_reason() {
    let (_, bytes) = blob();
    assert!(matches!(refused(Script::NotFound).await, FetchError::NotFound));
    assert!(matches!(refused(Script::Silent).await, FetchError::Silent(waited) if waited == SHORT));
    assert!(matches!(refused(Script::Crumbs).await, FetchError::Slow));
    assert!(matches!(refused(Script::Nonsense).await, FetchError::Wrong("no blob")));
    let why = refused(Script::Serve(vec![7; 1000])).await;
    assert!(matches!(why, FetchError::Wrong("they have another hash")), "{why}");
    let why = refused(Script::BreakOff(1000, vec![7; 900])).await;
    assert!(matches!(why, FetchError::Wrong("the answer ends early")), "{why}");
    let why = refused(Script::BreakOff(1000, vec![7; 1001])).await;
    assert!(matches!(why, FetchError::Wrong("they are longer than announced")), "{why}");
    let why = refused(Script::BreakOff(LIMIT + 1, vec![7; 10])).await;
    assert!(matches!(why, FetchError::Wrong("too long")), "{why}");
    let why = refused(Script::BreakOff(10, Vec::new())).await;
    assert!(matches!(why, FetchError::Wrong("a part is missing")), "{why}");
    let why = refused(Script::HangUp(bytes)).await;
    assert!(matches!(why, FetchError::Recv(_) | FetchError::Request(_)), "{why}");
}

#[tokio::test]
async fn nobody_to_ask_and_nobody_there_are_told_apart() {
    let (hash, _) = blob();
    let nobody = fetch_blob(&peers(), hash, LIMIT, &[]).await.unwrap_err().to_string();
    assert!(nobody.contains("no node is known") && nobody.contains(&hash.to_hex()), "{nobody}");
    let gone = Scripted::start(1, Script::NotFound);
    let (node, _) = gone.address();
    let unreachable = fetch_blob(&peers(), hash, LIMIT, &[(node, Vec::new())]).await.unwrap_err();
    assert!(matches!(unreachable, BlobError::Failed { why: FetchError::Connect(_), .. }), "{unreachable}");
    assert!(unreachable.to_string().contains(&node.short()), "{unreachable}");
}

#[tokio::test]
async fn what_was_fetched_is_kept_and_a_lie_is_not() {
    let (hash, bytes) = blob();
    let folder = tempfile::tempdir().unwrap();
    let (cache, peers) = (BlobCache::at(folder.path().join("blobs")), peers());
    let liar = Scripted::start(1, Script::Serve(b"lies".to_vec()));
    assert!(cache.get_or_fetch(&peers, hash, LIMIT, &[liar.address()]).await.is_err());
    assert_eq!(cache.get(hash).await, None);
    let honest = Scripted::start(2, Script::Serve(bytes.clone()));
    let first = cache.get_or_fetch(&peers, hash, LIMIT, &[honest.address()]).await.unwrap();
    assert_eq!(first.origin, BlobOrigin::Node(honest.endpoint.node_id()));
    let second = cache.get_or_fetch(&peers, hash, LIMIT, &[]).await.unwrap();
    assert_eq!(second, Blob { bytes, origin: BlobOrigin::Cache });
}

#[tokio::test]
async fn a_damaged_blob_counts_as_missing_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let cache = BlobCache::at(folder.path().join("blobs"));
    let hash = ContentHash::of(b"manifest");
    assert_eq!(cache.get(hash).await, None);
    cache.put(hash, b"manifest").await.unwrap();
    assert_eq!(cache.get(hash).await.as_deref(), Some(&b"manifest"[..]));
    std::fs::write(cache.path(hash), b"manifesT").unwrap();
    assert_eq!(cache.get(hash).await, None);
    assert!(!cache.path(hash).exists());
    cache.put(hash, b"manifest").await.unwrap();
    assert!(cache.get(hash).await.is_some());
    let files = std::fs::read_dir(folder.path().join("blobs")).unwrap().count();
    assert_eq!(files, 1, "no partial file is left");
}

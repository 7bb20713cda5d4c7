//! Manifests and tokenizers by hash, from nodes that have them, don't, or lie.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scripted;

use proto::{ContentHash, NodeKey};
use proto_telemetry::Registry;
use proto_transport::{Endpoint, EndpointConfig, Peers};
use router::discovery::{BlobCache, Blobs};
use router::metrics::RouterMetrics;
use scripted::{Node, OnOpen};

fn blobs(folder: &std::path::Path) -> (Blobs, Registry) {
    let mut config = EndpointConfig::new(NodeKey::from_seed(&[200; 32]), ([127, 0, 0, 1], 0).into());
    config.accept = false;
    let registry = Registry::new();
    let metrics = RouterMetrics::register(&registry).unwrap();
    let peers = Peers::new(Endpoint::bind(config).unwrap(), 8);
    (Blobs::new(peers, BlobCache::at(folder), metrics), registry)
}

#[tokio::test]
async fn a_liar_and_an_ignorant_node_are_passed_over_and_the_cache_answers_next_time() {
    let blob: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
    let hash = ContentHash::of(&blob);
    let ignorant = Node::start(1, OnOpen::Accept);
    let liar = Node::with_blobs(2, OnOpen::Accept, vec![(hash, b"not this".to_vec())]);
    let honest = Node::with_blobs(3, OnOpen::Accept, vec![(hash, blob.clone())]);
    let nodes: Vec<_> = [&ignorant, &liar, &honest].map(|node| (node.id, vec![node.addr])).to_vec();

    let folder = tempfile::tempdir().unwrap();
    let (blobs, registry) = blobs(folder.path());
    assert_eq!(blobs.get(hash, 1 << 20, &nodes).await.unwrap(), blob);
    assert_eq!(blobs.get(hash, 1 << 20, &[]).await.unwrap(), blob, "from the cache");
    let text = registry.encode().unwrap();
    assert!(text.contains("router_blobs_total{source=\"node\"} 1"), "{text}");
    assert!(text.contains("router_blobs_total{source=\"cache\"} 1"), "{text}");
}

#[tokio::test]
async fn what_nobody_serves_is_an_error_that_names_the_last_node_and_why() {
    let blob = vec![7; 3000];
    let hash = ContentHash::of(&blob);
    let folder = tempfile::tempdir().unwrap();
    let (blobs, _registry) = blobs(folder.path());
    let liar = Node::with_blobs(2, OnOpen::Accept, vec![(hash, b"not this".to_vec())]);
    let error = blobs.get(hash, 1 << 20, &[(liar.id, vec![liar.addr])]).await.unwrap_err().to_string();
    assert!(error.contains(&liar.id.short()) && error.contains("another hash"), "{error}");
    // Longer than the manifest says the tokenizer is.
    let honest = Node::with_blobs(3, OnOpen::Accept, vec![(hash, blob)]);
    let error = blobs.get(hash, 2999, &[(honest.id, vec![honest.addr])]).await.unwrap_err().to_string();
    assert!(error.contains("too long"), "{error}");
    let error = blobs.get(hash, 1 << 20, &[]).await.unwrap_err().to_string();
    assert!(error.contains("no node is known"), "{error}");
}

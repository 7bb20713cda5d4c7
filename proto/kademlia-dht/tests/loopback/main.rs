//! The driver over real QUIC on loopback: publish, find, die, restart.

mod swarm;

use kademlia_dht::{Dht, DhtConfig, Directory, LookupError, PublishError};
use proto_transport::Target;
use swarm::{PATIENCE, Peer, bind, eventually, shared, swarm, with_state};

#[tokio::test]
async fn what_one_node_announces_every_other_finds() {
    let peers = swarm(8).await;
    let published = peers[3].dht.announce(peers[3].announcement("toy")).await.unwrap();
    assert!(published.kept > 0, "{published:?}");
    for peer in &peers {
        let found = shared(&peer.dht).lookup_model_name("toy").await.unwrap();
        assert_eq!(found.len(), 1, "from peer {}", peer.number);
        assert_eq!(found[0].node(), peers[3].dht.node_id());
        assert!(peer.dht.lookup_model_name("another").await.unwrap().is_empty());
    }
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test]
async fn a_client_finds_everything_and_enters_no_table() {
    let peers = swarm(3).await;
    for peer in &peers {
        peer.dht.announce(peer.announcement("toy")).await.unwrap();
    }
    eventually("all three know each other", async || peers.iter().all(|peer| peer.dht.table_len() == 2))
        .await;
    let endpoint = bind(99);
    let client =
        Dht::start(endpoint.clone(), DhtConfig::client(vec![Target::trust_first(peers[0].addr())])).await;
    assert_eq!(client.lookup_model_name("toy").await.unwrap().len(), 3);
    assert_eq!(client.lookup_all_models().await.unwrap().len(), 3);
    assert!(client.lookup_node(peers[1].dht.node_id()).await.unwrap().is_some());
    assert!(peers.iter().all(|peer| peer.dht.table_len() == 2));
    client.shutdown().await;
    endpoint.shutdown().await;
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test]
async fn records_outlive_a_third_of_the_swarm() {
    let mut peers = swarm(9).await;
    peers[1].dht.announce(peers[1].announcement("toy")).await.unwrap();
    for dead in peers.split_off(6) {
        dead.stop().await;
    }
    for peer in &peers {
        assert_eq!(peer.dht.lookup_model_name("toy").await.unwrap().len(), 1, "from peer {}", peer.number);
    }
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test]
async fn a_late_neighbour_is_brought_the_records_at_once() {
    let first = Peer::start(0, Vec::new()).await;
    // Alone: kept here, nobody else to keep it.
    assert_eq!(first.dht.announce(first.announcement("toy")).await.unwrap().kept, 0);
    assert_eq!(first.dht.lookup_model_name("toy").await.unwrap().len(), 1);
    let second = Peer::start(1, vec![first.target()]).await;
    second.dht.joined(PATIENCE).await.unwrap();
    eventually("the record is brought", async || second.dht.records() == 4).await;
    first.stop().await;
    assert_eq!(second.dht.lookup_model_name("toy").await.unwrap().len(), 1);
    second.stop().await;
}

#[tokio::test]
async fn a_withdrawn_record_is_found_no_more() {
    let peers = swarm(5).await;
    peers[2].dht.announce(peers[2].announcement("toy")).await.unwrap();
    assert_eq!(peers[4].dht.lookup_model_name("toy").await.unwrap().len(), 1);
    peers[2].dht.withdraw().await.unwrap();
    for peer in &peers {
        assert!(peer.dht.lookup_model_name("toy").await.unwrap().is_empty(), "from peer {}", peer.number);
    }
    assert_eq!(peers[2].dht.withdraw().await.unwrap().keys, 0, "nothing is left to withdraw");
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test]
async fn a_restart_needs_no_bootstrap_peer() {
    let peers = swarm(3).await;
    peers[0].dht.announce(peers[0].announcement("toy")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = with_state(DhtConfig::server(vec![peers[0].target()]), dir.path().into());
    let fourth = Peer::start_with(3, config).await;
    eventually("the fourth knows all", async || fourth.dht.table_len() == 3).await;
    fourth.stop().await;

    let restarted = Peer::start_with(3, with_state(DhtConfig::server(Vec::new()), dir.path().into())).await;
    restarted.dht.joined(PATIENCE).await.unwrap();
    assert_eq!(restarted.dht.lookup_model_name("toy").await.unwrap().len(), 1);
    restarted.stop().await;

    std::fs::write(dir.path().join("dht-table.json"), b"\x00garbage").unwrap();
    let config = with_state(DhtConfig::server(vec![peers[1].target()]), dir.path().into());
    let damaged = Peer::start_with(3, config).await;
    damaged.dht.joined(PATIENCE).await.unwrap();
    damaged.stop().await;
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test]
async fn errors_name_the_bootstrap_peer_and_what_is_wrong() {
    let peer = Peer::start(0, Vec::new()).await;
    let closed = bind(50);
    let nobody = Target::node(closed.node_id(), closed.local_addr());
    closed.shutdown().await;
    drop(closed);
    let wrong = Target::node(kademlia_dht::testing::node_key(77).node_id(), peer.addr());
    let lost = Peer::start(1, vec![wrong, nobody]).await;
    let Err(LookupError::NoPeers(problems)) = lost.dht.lookup_all_models().await else {
        panic!("there is nobody to ask");
    };
    assert!(problems.contains(&peer.addr().to_string()), "{problems}");
    assert!(problems.contains(&peer.dht.node_id().to_string()), "{problems}");
    assert!(problems.contains(&nobody.addr.to_string()), "{problems}");
    lost.stop().await;
    peer.stop().await;
}

#[tokio::test]
async fn a_bootstrap_peer_that_comes_late_is_found() {
    let endpoint = bind(0);
    let target = Target::node(endpoint.node_id(), endpoint.local_addr());
    // Bound, but nobody answers discovery yet; then it does.
    let early = Peer::start(1, vec![target]).await;
    let served = Dht::start(endpoint.clone(), DhtConfig::server(Vec::new())).await;
    let serve = async {
        let mut connections = tokio::task::JoinSet::new();
        while let Some(connection) = endpoint.accept().await {
            let dht = served.clone();
            connections.spawn(async move { dht.serve_connection(connection).await });
        }
    };
    let joined = async {
        early.dht.joined(PATIENCE).await.unwrap();
        early.dht.announce(early.announcement("toy")).await.unwrap();
        eventually("the late one holds the record", async || served.records() == 4).await;
    };
    tokio::select! {
        () = serve => panic!("accepting ended"),
        () = joined => {}
    }
    served.shutdown().await;
    early.stop().await;
    endpoint.shutdown().await;
}

#[tokio::test]
async fn only_its_signer_may_publish_a_record() {
    let peers = swarm(2).await;
    let foreign = peers[0].announcement("toy").sign_at(now_millis()).unwrap();
    let refused = peers[1].dht.publish(foreign).await;
    assert!(matches!(refused, Err(PublishError::NotOurs { .. })), "{refused:?}");
    let stale = peers[1].announcement("toy").sign_at(1_000).unwrap();
    assert!(matches!(peers[1].dht.publish(stale).await, Err(PublishError::Invalid(_))));
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test]
async fn after_shutdown_everything_says_so() {
    let peers = swarm(2).await;
    peers[0].dht.shutdown().await;
    assert_eq!(peers[0].dht.lookup_all_models().await, Err(LookupError::ShutDown));
    let announced = peers[0].dht.announce(peers[0].announcement("toy")).await;
    assert_eq!(announced, Err(PublishError::ShutDown));
    for peer in peers {
        peer.stop().await;
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no clock of their own")]
fn now_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_millis() as u64
}

//! Ports, the admin endpoint, and nodes that find each other through the DHT.

use std::sync::Arc;

use crate::support::{PATIENCE, key, loopback, served};
use kademlia_dht::{Dht, DhtConfig, Directory, StaticDirectory};
use proto::LayerSpan;
use proto_transport::{Endpoint, EndpointConfig, Target};
use shard_node::discovery::Discovery;
use shard_node::node::{
    AdminConfig, BindNodeError, BootstrapConfig, BootstrapNode, Node, NodeConfig, PortChoice,
};
use shard_node_stage::{LoadError, ToyModel, ToyStage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MODEL: ToyModel = ToyModel::new(4);

fn stage() -> ToyStage {
    ToyStage::new(MODEL, LayerSpan::new(0, 4).unwrap())
}

fn nowhere() -> Discovery {
    Discovery::Directory(Arc::new(StaticDirectory::shared()))
}

async fn bind(config: NodeConfig) -> Result<Node, BindNodeError> {
    Node::bind(config, nowhere(), stage().into_loader()).await
}

#[tokio::test]
async fn a_busy_quic_port_is_an_error_when_asked_for_and_skipped_by_default() {
    let first = bind(NodeConfig::new(key(1), loopback(), served())).await.unwrap();
    let busy = first.ready().listen;
    let error = bind(NodeConfig::new(key(2), busy, served())).await.unwrap_err().to_string();
    assert!(error.contains(&busy.port().to_string()) && error.contains("another port"), "{error}");
    let config = NodeConfig { port: PortChoice::OrNextFree, ..NodeConfig::new(key(2), busy, served()) };
    let second = bind(config).await.unwrap();
    let port = second.ready().listen.port();
    assert!(port > busy.port() && port < busy.port() + 16, "{port}");
    first.stop_now().await;
    second.stop_now().await;
}

#[tokio::test]
async fn a_busy_admin_port_is_an_error_when_asked_for_and_skipped_by_default() {
    let holder = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let addr = holder.local_addr().unwrap();
    let config = |port| NodeConfig {
        admin: Some(AdminConfig { addr, port }),
        ..NodeConfig::new(key(1), loopback(), served())
    };
    let error = bind(config(PortChoice::Exactly)).await.unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("--admin"), "{error}");
    let node = bind(config(PortChoice::OrNextFree)).await.unwrap();
    assert_ne!(node.ready().admin.unwrap().port(), addr.port());
    node.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readyz_waits_for_the_stage_and_metrics_are_served() {
    let (ready_to_load, wait) = std::sync::mpsc::channel::<()>();
    let admin = AdminConfig { addr: loopback(), port: PortChoice::Exactly };
    // The address is known only from the system: take a free port and let go of it.
    let addr = tokio::net::TcpListener::bind(loopback()).await.unwrap().local_addr().unwrap();
    let config = NodeConfig {
        admin: Some(AdminConfig { addr, ..admin }),
        ..NodeConfig::new(key(1), loopback(), served())
    };
    let loader = Box::new(move || {
        let _ = wait.recv();
        stage().into_loader()()
    });
    let mut node = tokio::task::JoinSet::new();
    node.spawn(Node::bind(config, nowhere(), loader));
    let early = tokio::time::timeout(PATIENCE, get_until_up(addr, "/readyz")).await.unwrap();
    assert!(early.contains("503") && early.contains("loading toy"), "{early}");
    ready_to_load.send(()).unwrap();
    let node = node.join_next().await.unwrap().unwrap().unwrap();
    assert!(get(addr, "/readyz").await.unwrap().contains("200"));
    let metrics = get(addr, "/metrics").await.unwrap();
    for name in [
        "shard_node_kv_capacity_positions 65536",
        "shard_node_step_seconds_count{phase=\"decode\"} 0",
        "shard_node_hop_seconds_count 0",
        "layerlane_build_info",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    node.stop_now().await;
}

#[tokio::test]
async fn a_stage_that_can_not_be_loaded_says_why() {
    let loader =
        Box::new(|| Err(LoadError::message("tensor model.norm.weight is missing: fetch the file again")));
    let config = NodeConfig::new(key(1), loopback(), served());
    let error = Node::bind(config, nowhere(), loader).await.unwrap_err();
    assert_eq!(error.to_string(), "tensor model.norm.weight is missing: fetch the file again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_find_each_other_through_a_bootstrap_peer() {
    let bootstrap = BootstrapNode::bind(BootstrapConfig::new(key(1), loopback())).await.unwrap();
    let target = Target::node(bootstrap.ready().node, bootstrap.ready().listen);
    let dht = || Discovery::Dht { bootstrap: vec![target], state_dir: None };
    let mut nodes = Vec::new();
    for (number, span) in LayerSpan::split_evenly(4, 2).unwrap().into_iter().enumerate() {
        let config = NodeConfig::new(key(number as u8 + 2), loopback(), served());
        nodes.push(Node::bind(config, dht(), ToyStage::new(MODEL, span).into_loader()).await.unwrap());
    }
    let mut client = EndpointConfig::new(key(9), loopback());
    client.accept = false;
    let client = Endpoint::bind(client).unwrap();
    let client = Dht::start(client, DhtConfig::client(vec![target])).await;
    let found = async {
        loop {
            let found = client.lookup_model_name("toy").await.unwrap_or_default();
            if found.len() == 2 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await.unwrap();
    for node in &nodes {
        assert!(found.iter().any(|record| record.node() == node.ready().node));
    }
    nodes.remove(0).shutdown().await;
    let gone = async {
        while client.lookup_model_name("toy").await.unwrap_or_default().len() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    client.shutdown().await;
    nodes.remove(0).stop_now().await;
    bootstrap.shutdown().await;
}

async fn get(addr: std::net::SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(addr).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn get_until_up(addr: std::net::SocketAddr, path: &str) -> String {
    loop {
        match get(addr, path).await {
            Ok(text) => return text,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

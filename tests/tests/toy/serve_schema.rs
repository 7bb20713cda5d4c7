//! The `OpenAPI` document against a serving router, by a validator and by a fuzzer that reads it.

use cluster_tests::clients;
use shard_node_stage::ToyModel;
use tokio::process::Command;
use tokio::time::timeout;

use crate::serve::TestServer;
use crate::swarm::{LAYERS, PATIENCE, Settings, ToySwarm};

const SEED: u64 = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_that_reads_the_openapi_document_finds_no_fault_and_no_hang() {
    // A short context: every answer ends soon, whatever it asks for.
    let settings = Settings::talking(2);
    let model = ToyModel { context: 256, ..settings.model };
    let served = cluster_tests::toy::talking(model).1;
    let swarm = ToySwarm::start(Settings { model, served, ..settings }).await;
    assert_eq!(swarm.model.n_layers, LAYERS);
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    eprintln!("seed {SEED}");
    let (address, seed) = (server.addr.to_string(), SEED.to_string());
    let script = tokio::task::spawn_blocking(|| clients::script("openapi.py", "openapi.txt").unwrap());
    let mut script = Command::from(script.await.unwrap());
    script.args([address, seed]).kill_on_drop(true);
    let output = timeout(9 * PATIENCE, script.output()).await.unwrap().unwrap();
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("{told}{wrong}");
    assert!(output.status.success());
    assert_eq!(clients::checks_passed("openapi.py", &told).unwrap(), 3);
    swarm.wait_until_idle().await;
    server.stop().await;
}

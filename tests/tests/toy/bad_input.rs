//! What can't be done is said: the thing, the numbers, the cure.

use proto::LayerSpan;
use router::generate::GenerateRequest;
use router_plan::{ModelRef, ResolveError};
use shard_node_stage::ToyModel;

use crate::swarm::{LAYERS, Settings, ToySwarm, request, served};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_coverage_is_named() {
    let swarm = ToySwarm::start(Settings::spans(&[(0, 10), (20, 30)])).await;
    let router = swarm.router(100).await;
    let text = router.error(&request(&[1, 2], 5)).await;
    assert!(text.contains("layers 10..20 are held by nobody"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_left_by_a_node_that_does_not_answer_names_that_node() {
    let swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    // Once for the manifest, which then is in the cache.
    router.generate(&request(&[1, 2], 1)).await.unwrap();
    let other = swarm.router(101).await;
    swarm.faults[1].freeze();
    let text = other.error(&request(&[1, 2], 5)).await;
    assert!(text.contains("layers 10..20 are held by nobody"), "{text}");
    assert!(text.contains(&swarm.id(1).short()), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_with_different_weights_under_one_name_are_both_listed() {
    let mut swarm = ToySwarm::start(Settings::spans(&[(0, 30)])).await;
    let model = ToyModel::new(LAYERS);
    swarm.add(LayerSpan::new(0, LAYERS).unwrap(), served(model, &[7], None), None).await;
    let router = swarm.router(100).await;
    let text = router.error(&request(&[1, 2], 5)).await;
    for node in 0..2 {
        let ready = swarm.nodes[node].ready();
        assert!(text.contains(&ready.node.short()), "{text}");
        assert!(text.contains(&ready.model_id.unwrap().short()), "{text}");
    }
    // The cure that the error names works.
    let id = swarm.nodes[0].ready().model_id.unwrap();
    for wanted in [format!("toy@{}", id.short()), id.to_hex()] {
        let wanted = GenerateRequest { model: Some(wanted.parse().unwrap()), ..request(&[1, 2], 5) };
        let reply = router.generate(&wanted).await.unwrap();
        assert_eq!((reply.model_id, reply.stages[0].node), (id, swarm.id(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_model_lists_what_there_is() {
    let swarm = ToySwarm::start(Settings::split(1)).await;
    let router = swarm.router(100).await;
    let wanted = GenerateRequest { model: Some("other".parse().unwrap()), ..request(&[1, 2], 5) };
    let text = router.error(&wanted).await;
    assert!(text.contains("no node offers other") && text.contains("toy@"), "{text}");
    let view = router.router.view_of(Some(&ModelRef::Name("other".into()))).await.unwrap();
    assert!(matches!(
        router_plan::resolve(&view, Some(&ModelRef::Name("other".into()))),
        Err(ResolveError::Unknown { found, .. }) if found.len() == 1
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let swarm = ToySwarm::start(Settings::split(1)).await;
    let router = swarm.router(100).await;
    let text = router.error(&request(&vec![1; 5000], 5)).await;
    assert!(text.contains("5000 tokens") && text.contains("4096"), "{text}");
    let text = router.error(&request(&[1, 64], 5)).await;
    assert!(text.contains("token id 64") && text.contains("64 entries"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_class_is_not_taken_in_its_place() {
    let swarm = ToySwarm::start(Settings::split(1)).await;
    let router = swarm.router(100).await;
    let class = Some(proto::tensor::NumericsClass::Bf16);
    let text = router.error(&GenerateRequest { class, ..request(&[1, 2], 5) }).await;
    assert!(text.contains("class bf16") && text.contains("offered in class exact"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_out_of_range_is_refused_by_name() {
    let swarm = ToySwarm::start(Settings::split(2)).await;
    let router = swarm.router(100).await;
    let mut wanted = request(&[1, 2], 5);
    wanted.sampling.temperature = -1.0;
    let text = router.error(&wanted).await;
    assert!(text.contains("temperature is -1"), "{text}");
}

//! Models by their names: every way to say which, names that say too little, and models that nobody holds whole.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::http;
use proto::LayerSpan;
use router_plan::ModelRef;
use serde_json::{Value, json};
use shard_node::node::ServedModel;
use tokio::time::{interval, timeout};

use crate::serve::TestServer;
use crate::serve_openai::{endpoints, error, post, send};
use crate::swarm::{LAYERS, PATIENCE, Settings, ToySwarm, served};

const GAP: &str = "layers 10..20 are held by nobody";

async fn get(addr: SocketAddr, path: &str) -> (u16, Value) {
    let answer = timeout(PATIENCE, http::get(addr, path)).await.unwrap().unwrap();
    (answer.status, answer.json().await.unwrap())
}

/// The endpoints that answer for a model, our own among them.
fn answering() -> Vec<(&'static str, Value)> {
    let own = ("/v1/generate", json!({"token_ids": [1, 2], "max_tokens": 2}));
    // Embeddings are refused whatever the model.
    endpoints().into_iter().filter(|(path, _)| *path != "/v1/embeddings").chain([own]).collect()
}

async fn ask(addr: SocketAddr, path: &str, body: &Value, model: Option<&str>) -> http::Answer {
    let mut body = body.clone();
    if let Some(model) = model {
        body["model"] = json!(model);
    }
    post(addr, path, body.to_string().as_bytes()).await
}

fn talking(name: &str) -> Settings {
    let settings = Settings::talking(2);
    let served = ServedModel { name: name.into(), ..settings.served };
    Settings { served, ..settings }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_found_by_each_of_its_names() {
    for name in ["toy", "acme/toy-1.5"] {
        let swarm = ToySwarm::start(talking(name)).await;
        let server = TestServer::start(&swarm, 100, |_| {}).await;
        let id = swarm.nodes[0].ready().model_id.unwrap();
        let (_, listed) = get(server.addr, "/v1/models").await;
        assert_eq!((&listed["data"][0]["id"], listed["data"].as_array().unwrap().len()), (&json!(name), 1));
        for spelling in [name.to_owned(), format!("{name}@{}", id.short()), id.to_hex()] {
            for (path, body) in answering() {
                let answer = ask(server.addr, path, &body, Some(&spelling)).await;
                assert_eq!(answer.status, 200, "{path} {spelling}");
                let object = answer.json().await.unwrap();
                // Its answer is called as it was asked for; our own endpoint says what it is.
                let told = if path == "/v1/generate" { name } else { &spelling };
                assert!(object["model"].is_null() || object["model"] == told, "{object}");
            }
            let (status, object) = get(server.addr, &format!("/v1/models/{spelling}")).await;
            assert_eq!(
                (status, &object["id"], &object["model_id"]),
                (200, &json!(name), &json!(id.to_hex()))
            );
        }
        for wrong in ["to", "TOY", "acme", "acme/toy", "toy@00000000"] {
            let (status, told) =
                error(ask(server.addr, "/v1/completions", &json!({"prompt": "x"}), Some(wrong)).await).await;
            assert_eq!(
                (status, &told["code"], &told["param"]),
                (404, &json!("model_not_found"), &json!("model"))
            );
            assert!(told["message"].as_str().unwrap().contains(&format!("{name}@{}", id.short())), "{told}");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_for_two_models_is_a_409_that_lists_both_and_the_listed_ids_work() {
    let settings = Settings { spans: vec![LayerSpan::new(0, LAYERS).unwrap()], ..Settings::talking(1) };
    let mut other = settings.served.clone();
    // Other weights under the same name.
    let manifest = String::from_utf8(other.manifest.to_vec()).unwrap();
    other.manifest = manifest.replace("\"rope_theta\":10000.0", "\"rope_theta\":20000.0").into_bytes().into();
    assert_ne!(other.manifest, settings.served.manifest);
    let mut swarm = ToySwarm::start(settings).await;
    swarm.add(LayerSpan::new(0, LAYERS).unwrap(), other, None).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let ids = [0, 1].map(|node| swarm.nodes[node].ready().model_id.unwrap());
    assert_ne!(ids[0], ids[1]);
    let mut expected = ids.map(|id| format!("toy@{}", id.short()));
    for model in [Some("toy"), None] {
        for (path, body) in answering() {
            let (status, told) = error(ask(server.addr, path, &body, model).await).await;
            assert_eq!((status, &told["code"]), (409, &json!("ambiguous_model")), "{path} {model:?}: {told}");
            assert_eq!((&told["param"], &told["type"]), (&json!("model"), &json!("conflict_error")));
            let words = told["message"].as_str().unwrap();
            assert!(expected.iter().all(|candidate| words.contains(candidate)), "{words}");
        }
    }
    let (status, told) = error(send(server.addr, "GET", "/v1/models/toy", "", b"").await).await;
    assert_eq!((status, told["code"].as_str()), (409, Some("ambiguous_model")));
    // What the list says can be used, and means what it says.
    let (_, listed) = get(server.addr, "/v1/models").await;
    let mut usable: Vec<String> = Vec::new();
    for model in listed["data"].as_array().unwrap() {
        let id = model["id"].as_str().unwrap();
        for (path, body) in answering() {
            assert_eq!(ask(server.addr, path, &body, Some(id)).await.status, 200, "{path} {id}");
        }
        let answer =
            ask(server.addr, "/v1/completions", &json!({"prompt": "x", "max_tokens": 1}), Some(id)).await;
        let object = answer.json().await.unwrap();
        let fingerprint = object["system_fingerprint"].as_str().unwrap();
        assert!(fingerprint.starts_with(model["model_id"].as_str().unwrap()), "{object} {model}");
        assert_eq!(get(server.addr, &format!("/v1/models/{id}")).await.1["model_id"], model["model_id"]);
        usable.push(id.to_owned());
    }
    usable.sort_unstable();
    expected.sort_unstable();
    assert_eq!(usable, expected);
    server.stop().await;

    // A router that was told which one to serve: strangers' weights make its list no less usable.
    let one: ModelRef = expected[0].parse().unwrap();
    let server = TestServer::start(&swarm, 101, |config| config.models = vec![one]).await;
    let (_, listed) = get(server.addr, "/v1/models").await;
    assert_eq!((&listed["data"][0]["id"], &listed["data"][1]), (&json!(expected[0]), &Value::Null));
    assert_eq!(
        ask(server.addr, "/v1/completions", &json!({"prompt": "x"}), Some(&expected[0])).await.status,
        200
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_that_nobody_holds_are_a_503_that_names_them_until_somebody_does() {
    let spans = [(0, 10), (20, 30)].map(|(start, end)| LayerSpan::new(start, end).unwrap());
    let settings = Settings { spans: spans.to_vec(), ..Settings::talking(1) };
    let served = settings.served.clone();
    let mut swarm = ToySwarm::start(settings).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    for (path, body) in answering() {
        if path.starts_with("/v1") {
            let answer = ask(server.addr, path, &body, Some("toy")).await;
            assert!(answer.header("retry-after").is_some(), "{path}");
            let (status, told) = error(answer).await;
            assert_eq!((status, told["code"].as_str()), (503, Some("no_route")), "{path}: {told}");
            assert!(told["message"].as_str().unwrap().contains(GAP), "{path}: {told}");
        }
    }
    let (_, listed) = get(server.addr, "/v1/models").await;
    assert_eq!(listed["data"][0]["missing_layers"], json!([[10, 20]]));
    let (status, told) = error(send(server.addr, "GET", "/ready", "", b"").await).await;
    assert_eq!((status, told["code"].as_str()), (503, Some("no_route")));
    let words = told["message"].as_str().unwrap();
    assert!(words.contains(GAP) && words.contains("toy"), "{words}");
    assert_eq!(get(server.addr, "/health").await.0, 200);

    swarm.add(LayerSpan::new(10, 20).unwrap(), served, None).await;
    until(server.addr, 200).await;
    let (path, body) = &endpoints()[0];
    assert_eq!(ask(server.addr, path, body, Some("toy")).await.status, 200);
    // A node that answers no more holds nothing, whatever it announced.
    swarm.faults[1].freeze();
    let told = until(server.addr, 503).await;
    assert!(
        told["error"]["message"].as_str().unwrap().contains("layers 20..30 are held by nobody"),
        "{told}"
    );
    let (_, listed) = get(server.addr, "/v1/models").await;
    assert_eq!(listed["data"][0]["missing_layers"], json!([[20, 30]]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_model_of_a_strangers_takes_nobody_away_from_a_whole_one() {
    let mut swarm = ToySwarm::start(Settings::talking(1)).await;
    let half = ServedModel { name: "half".into(), ..served(swarm.model, &[7], None) };
    swarm.add(LayerSpan::new(0, 12).unwrap(), half, None).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let (status, told) = get(server.addr, "/ready").await;
    assert_eq!((status, &told["status"]), (200, &json!("ok")));
    assert!(told["incomplete"][0].as_str().unwrap().starts_with("half: "), "{told}");
    assert!(told["incomplete"][0].as_str().unwrap().contains("layers 12..30 are held by nobody"), "{told}");
    server.stop().await;
    // One that was told to serve it is not ready.
    let both = vec!["toy".parse().unwrap(), "half".parse().unwrap()];
    let server = TestServer::start(&swarm, 101, |config| config.models = both).await;
    let (status, told) = error(send(server.addr, "GET", "/ready", "", b"").await).await;
    assert!(status == 503 && told["message"].as_str().unwrap().contains("half: "), "{told}");
    server.stop().await;
    // Neither is one whose model is not there at all.
    let both = vec!["toy".parse().unwrap(), "nowhere".parse().unwrap()];
    let server = TestServer::start(&swarm, 102, |config| config.models = both).await;
    let (status, told) = error(send(server.addr, "GET", "/ready", "", b"").await).await;
    assert!(status == 503 && told["message"].as_str().unwrap().contains("nowhere: "), "{told}");
    server.stop().await;
}

/// Until `/ready` says so.
async fn until(addr: SocketAddr, wanted: u16) -> Value {
    let look = async {
        let mut every = interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            let (status, told) = get(addr, "/ready").await;
            if status == wanted {
                return told;
            }
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("/ready should be {wanted}"))
}

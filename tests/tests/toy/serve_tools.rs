//! Calls of tools end to end: as the model likes, none, at least one, and this one.

use std::net::SocketAddr;

use cluster_tests::http;
use cluster_tests::toy::saying;
use serde_json::{Value, json};
use shard_node_stage::ToyModel;
use tokio::time::timeout;

use crate::serve::TestServer;
use crate::swarm::{LAYERS, PATIENCE, Settings, ToySwarm};

const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

async fn start() -> (ToySwarm, TestServer) {
    let base = Settings::split(2);
    let (model, served) = saying(ToyModel { n_layers: LAYERS, ..base.model }, CALL);
    let swarm = ToySwarm::start(Settings { model, served, kv_positions: Some(1 << 20), ..base }).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    (swarm, server)
}

fn functions() -> Vec<Value> {
    let city = json!({"type": "string", "enum": ["Rome", "Oslo"]});
    let parameters = json!({"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": false});
    let nothing = json!({"type": "object", "properties": {}, "additionalProperties": false});
    vec![json!({"name": "weather", "parameters": parameters}), json!({"name": "now", "parameters": nothing})]
}

fn body(path: &str, choice: &Value) -> Value {
    let mut body = json!({"model": "toy", "temperature": 0, "parallel_tool_calls": false});
    let tool = |mut function: Value| {
        if path == CHAT {
            return json!({"type": "function", "function": function});
        }
        function["type"] = json!("function");
        function
    };
    body["tools"] = functions().into_iter().map(tool).collect();
    body["tool_choice"] = match choice.as_str() {
        Some(name) if !["auto", "none", "required"].contains(&name) => match path {
            CHAT => json!({"type": "function", "function": {"name": name}}),
            _ => json!({"type": "function", "name": name}),
        },
        _ => choice.clone(),
    };
    if path == CHAT {
        body["messages"] = json!([{"role": "user", "content": "Weather in Rome?"}]);
        body["max_tokens"] = json!(2000);
    } else {
        body["input"] = json!("Weather in Rome?");
        body["max_output_tokens"] = json!(2000);
    }
    body
}

/// What an answer comes to: its text, its calls, and why it ended.
type Told = (String, Vec<(String, String)>, String);

async fn whole(addr: SocketAddr, path: &str, body: &Value) -> Told {
    let answer = timeout(PATIENCE, http::post(addr, path, body)).await.unwrap().unwrap();
    let status = answer.status;
    let object = answer.json().await.unwrap();
    assert_eq!(status, 200, "{object}");
    if path == RESPONSES {
        return of_items(&object);
    }
    let (choice, mut calls) = (&object["choices"][0], Vec::new());
    for call in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
        assert!(call["type"] == "function" && call["id"].as_str().is_some_and(|id| !id.is_empty()));
        calls.push(words(&call["function"]));
    }
    let text = choice["message"]["content"].as_str().unwrap_or_default();
    (text.to_owned(), calls, choice["finish_reason"].as_str().unwrap().to_owned())
}

fn words(call: &Value) -> (String, String) {
    ["name", "arguments"].map(|name| call[name].as_str().unwrap_or_default().to_owned()).into()
}

fn of_items(response: &Value) -> Told {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for item in response["output"].as_array().unwrap() {
        match item["type"].as_str().unwrap() {
            "function_call" => calls.push(words(item)),
            _ => text.push_str(item["content"][0]["text"].as_str().unwrap()),
        }
    }
    (text, calls, response["status"].as_str().unwrap().to_owned())
}

/// The same of a stream's pieces.
async fn streamed(addr: SocketAddr, path: &str, mut body: Value) -> Told {
    body["stream"] = json!(true);
    let answer = timeout(PATIENCE, http::post(addr, path, &body)).await.unwrap().unwrap();
    assert_eq!(answer.status, 200);
    let (mut events, mut told) = (answer.events(), (String::new(), Vec::new(), String::new()));
    while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        let object: Value = serde_json::from_str(&event.data).unwrap_or_default();
        if object["response"]["status"] == "completed" {
            told = of_items(&object["response"]);
        }
        let (delta, calls) = (&object["choices"][0]["delta"], &mut told.1);
        told.0.push_str(delta["content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"].as_u64().unwrap() as usize;
            calls.resize(calls.len().max(at + 1), (String::new(), String::new()));
            let (name, arguments) = words(&call["function"]);
            calls[at].0.push_str(&name);
            calls[at].1.push_str(&arguments);
        }
        if let Some(finish) = object["choices"][0]["finish_reason"].as_str() {
            finish.clone_into(&mut told.2);
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tool_choice_is_what_becomes_of_the_models_call() {
    let (swarm, server) = start().await;
    for path in [CHAT, RESPONSES] {
        let (finish, end) = if path == CHAT { ("tool_calls", "stop") } else { ("completed", "completed") };
        for choice in ["auto", "none", "required", "weather", "now"] {
            let body = body(path, &json!(choice));
            let (text, calls, finished) = whole(server.addr, path, &body).await;
            eprintln!("{path} {choice}: {text:?} {calls:?} {finished}");
            let names: Vec<&str> = calls.iter().map(|(name, _)| &name[..]).collect();
            match choice {
                // What the model wrote of itself is a call, or text.
                "auto" => assert_eq!((&names[..], &text[..]), (&["weather"][..], "")),
                "none" => assert_eq!((&names[..], &text[..]), (&[][..], CALL)),
                "required" => assert!(names.len() == 1 && ["weather", "now"].contains(&names[0])),
                named => assert_eq!(names, [named]),
            }
            assert_eq!(finished, if choice == "none" { end } else { finish }, "{path} {choice}");
            for (name, arguments) in &calls {
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                let city = arguments["city"].as_str();
                let fits = if name == "now" {
                    arguments == json!({})
                } else {
                    matches!(city, Some("Rome" | "Oslo"))
                };
                assert!(fits && (choice != "auto" || city == Some("Rome")), "{name} {arguments}");
            }
            assert_eq!(streamed(server.addr, path, body).await, (text, calls, finished), "{path} {choice}");
        }
    }
    swarm.wait_until_idle().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_calls_come_only_if_they_may() {
    let (swarm, server) = start().await;
    let mut body = body(CHAT, &json!("required"));
    body["temperature"] = json!(1);
    let mut most = 0;
    for (seed, parallel) in (0..12).flat_map(|seed| [(seed, true), (seed, false)]) {
        body["seed"] = json!(seed);
        body["parallel_tool_calls"] = json!(parallel);
        let (text, calls, finished) = whole(server.addr, CHAT, &body).await;
        assert!(text.is_empty() && finished == "tool_calls" && !calls.is_empty(), "{text} {finished}");
        assert!(parallel || calls.len() == 1, "{calls:?}");
        most = most.max(calls.len());
    }
    eprintln!("{most} calls at most");
    assert!(most > 1);
    swarm.wait_until_idle().await;
    server.stop().await;
}

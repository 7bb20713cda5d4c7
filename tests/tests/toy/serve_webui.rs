//! What Open `WebUI` asks a server for, in its order: the models of a new connection, a chat with its streamed answer, and
//! the requests that make a chat's title, its tags and what might be asked next.

use cluster_tests::http;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::serve::TestServer;
use crate::serve_openai::send;
use crate::swarm::{PATIENCE, Settings, ToySwarm};

/// As its server sends them, with the user's name where an administrator allows it.
const HEADERS: &str = "authorization: Bearer any\r\ncontent-type: application/json\r\naccept: */*\r\n\
    accept-encoding: gzip, deflate, br\r\nuser-agent: Python/3.11 aiohttp/3.12\r\n\
    x-openwebui-user-name: Ann\r\nx-openwebui-user-id: 5d1b\r\nx-openwebui-chat-id: 77aa\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_webui_finds_the_models_chats_and_names_the_chat() {
    let swarm = ToySwarm::start(Settings::talking(2)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let listed = send(server.addr, "GET", "/v1/models", HEADERS, b"").await.json().await.unwrap();
    assert_eq!(listed["object"], "list");
    let model = listed["data"][0]["id"].as_str().unwrap().to_owned();

    // Settings of the chat and of the model go into the body; a regenerated answer has the earlier turns before it.
    let chat = json!({
        "stream": true, "model": model, "stream_options": {"include_usage": true},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello! 👋"},
            {"role": "user", "content": [{"type": "text", "text": "Name a colour.", "cache_control": {"type": "ephemeral"}}]},
        ],
        "temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 24, "seed": 42,
        "frequency_penalty": 0.1, "presence_penalty": 0.1, "stop": ["\n\n\n"], "logit_bias": {"5": -1}, "reasoning_effort": "low", "reasoning": {"effort": "low"},
    });
    let answer =
        send(server.addr, "POST", "/v1/chat/completions", HEADERS, chat.to_string().as_bytes()).await;
    // By this it tells a stream from an object.
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(answer.header("content-encoding"), None);
    let (mut events, mut text, mut ends) = (answer.events(), String::new(), Vec::new());
    let mut usage = Value::Null;
    while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        if event.data == "[DONE]" {
            ends.push("done".to_owned());
            continue;
        }
        let chunk: Value = serde_json::from_str(&event.data).unwrap();
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        ends.extend(chunk["choices"][0]["finish_reason"].as_str().map(str::to_owned));
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
    }
    assert!(!text.is_empty() && ends == ["length", "done"], "{text} {ends:?}");
    assert_eq!(usage["completion_tokens"], 24);

    // Title, tags, follow-ups, a search's words and a line's end are asked for like this, one after the other.
    for limit in ["max_tokens", "max_completion_tokens"] {
        for _ in 0..5 {
            let words = "### Task:\nGenerate a concise, 3-5 word title.\n### Output:\nJSON format: { \"title\": \"..\" }";
            let mut task =
                json!({"model": model, "messages": [{"role": "user", "content": words}], "stream": false});
            task[limit] = json!(50);
            let answer =
                send(server.addr, "POST", "/v1/chat/completions", HEADERS, task.to_string().as_bytes()).await;
            assert_eq!(answer.status, 200);
            let object = answer.json().await.unwrap();
            assert!(object["choices"][0]["message"]["content"].is_string(), "{object}");
        }
    }
    // A picture in the chat is told as what it is, in the words that it shows its user.
    let picture = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]});
    let refused =
        timeout(PATIENCE, http::post(server.addr, "/v1/chat/completions", &picture)).await.unwrap().unwrap();
    let (status, told) = crate::serve_openai::error(refused).await;
    assert!(status == 400 && told["message"].as_str().unwrap().contains("image_url"), "{told}");
    server.stop().await;
}

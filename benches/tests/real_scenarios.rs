//! Short runs of the load generator's scenarios, each with `router serve` in a process of its own and, but for one,
//! toy nodes.
//!
//! Their limits of time are the three times over, since other tests run beside them; `cargo xtask soak` has the
//! long ones with the limits themselves.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stdout, reason = "each test prints its figures")]

use std::process::Command;

use serde_json::Value;

fn play(scenario: &str, arguments: &[&str]) -> Value {
    play_with(&["--toy"], scenario, arguments)
}

fn play_with(model: &[&str], scenario: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_benches"));
    command
        .args(["load", "--seconds", "2", "--factor", "3", "--scenario", scenario])
        .args(model)
        .args(arguments);
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    let figures = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}\n{figures}");
    let figures: Value = serde_json::from_str(figures.lines().last().unwrap()).unwrap();
    println!("{figures}");
    assert_eq!(figures["holds"], true);
    figures
}

#[test]
fn kv_is_free_on_every_node_soon_after_a_client_has_gone() {
    play("cancel", &[]);
}

#[test]
fn nodes_stand_still_for_slow_readers_and_nobody_else_notices() {
    let figures = play("slow-reader", &["--clients", "8", "--step-us", "1000"]);
    assert!(figures["generated_for_them_when_full"].as_f64() > Some(0.0));
}

#[test]
fn overload_is_refused_at_once_and_disturbs_no_answer() {
    let figures = play("overload", &["--clients", "8", "--tokens", "60", "--step-us", "3000"]);
    assert!(figures["overloaded"]["refusal_ms"]["count"].as_u64() > Some(10));
    assert!(figures["overloaded"]["text_refusal_ms"]["count"].as_u64() > Some(10));
}

#[test]
fn overload_by_several_tenants_leaves_each_its_share() {
    let arguments = ["--clients", "8", "--tokens", "60", "--step-us", "3000", "--tenants", "4"];
    let figures = play("overload", &arguments);
    assert_eq!(figures["overloaded"]["done_by_tenant"].as_object().map(serde_json::Map::len), Some(4));
}

#[test]
fn a_long_prompt_delays_answers_by_a_chunk_at_most() {
    play("prefill-burst", &["--clients", "4", "--tokens", "64", "--step-us", "3000"]);
}

#[test]
fn a_streamed_token_costs_the_router_little() {
    play("streaming", &["--clients", "64", "--tokens", "200", "--step-us", "10000"]);
}

#[test]
fn clients_read_a_token_soon_after_the_router_has_it() {
    let figures = play("lag", &["--clients", "64", "--tokens", "40", "--step-us", "10000"]);
    assert!(figures["tail_to_client_ms"]["count"].as_u64() > Some(1000), "{figures}");
}

#[test]
fn a_session_that_stands_still_costs_the_router_little_memory() {
    play("idle", &["--clients", "64", "--prompt-tokens", "16"]);
}

/// Twice as fast as one client, and 30 % of that over three stages, at least. A smaller model measures the router.
#[test]
fn sixteen_clients_share_a_models_steps_on_one_stage_and_on_three() {
    let model = ["--synthetic", "smol-135m", "--kv-positions", "4096"];
    play_with(&model, "scaling", &["--clients", "16", "--tokens", "40", "--rounds", "3"]);
}

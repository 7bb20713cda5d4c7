//! `cargo xtask demo --chaos`: an answer undisturbed, and the same one during which a node is killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::swarm::Swarm;
use super::{DemoArgs, generate};
use crate::process::Stopwatch;

/// Plays it; gives what is to be said of it in the end.
pub(super) fn play(router: &Path, args: &DemoArgs, swarm: &Swarm, directory: &Path) -> Result<String> {
    eprintln!("first undisturbed, for comparison");
    let calm = generate(router, args, true, swarm, directory, || {})?;
    let (tokens, figure) = (tokens(&calm), |name: &str| calm["timings"][name].as_f64());
    ensure!(tokens.len() >= FEWEST, "an answer of {} tokens is over too soon: ask for more", tokens.len());
    let rate = figure("decode_tokens_per_second").unwrap_or(10.0);
    let part = Duration::from_secs_f64(tokens.len() as f64 * PART / rate.max(0.1));
    eprintln!("now the same, and a node is killed on the way");
    let mut killed = None;
    let answer = generate(router, args, args.json, swarm, directory, || {
        let watch = Stopwatch::start();
        // From the moment that a session is open: what comes before it, finding nodes, takes its own time.
        let busy = loop {
            if let Some(busy) = swarm.busy() {
                break Some(busy);
            }
            if watch.elapsed() > PATIENCE {
                break None;
            }
            std::thread::park_timeout(LOOK);
        };
        let open = Stopwatch::start();
        while let Some(left) = part.checked_sub(open.elapsed()) {
            std::thread::park_timeout(left);
        }
        if let Some(id) = busy.and_then(|node| swarm.kill(node)) {
            eprintln!("\n[node {id:.8} is killed]");
            killed = Some(id.to_owned());
        }
    })?;
    let killed = killed.unwrap_or_default();
    ensure!(!killed.is_empty(), "no node had a session within {} s", PATIENCE.as_secs());
    summary(&calm, &answer, &killed, args.numerics == "exact")
}

/// What became of the answer.
fn summary(calm: &Value, answer: &Value, killed: &str, exact: bool) -> Result<String> {
    let moves = answer["moves"].as_u64().unwrap_or(0);
    ensure!(moves > 0, "the answer was over before node {killed:.8} was missed: ask for more tokens");
    let (before, after) = (tokens(calm), tokens(answer));
    let equal = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    let same = before == after;
    ensure!(same || !exact, "the answer differs from the undisturbed one after {equal} tokens");
    let route = answer["route"].as_array().map_or(&[][..], Vec::as_slice);
    let route: Vec<String> =
        route.iter().map(|stage| format!("{:.8}", stage["node"].as_str().unwrap_or("-"))).collect();
    ensure!(
        route.iter().all(|node| *node != killed[..8.min(killed.len())]),
        "{killed:.8} is still on the route"
    );
    let gap = answer["timings"]["itl_ms_max"].as_f64().unwrap_or(0.0);
    Ok(format!(
        "\n\nnode {killed:.8} was killed; the answer went on over {} after {:.2} s\n{}",
        route.join(" -> "),
        gap / 1000.0,
        if same {
            format!("output identical: {} tokens", after.len())
        } else {
            format!(
                "the first {equal} tokens are as undisturbed; what is computed anew rounds differently in this class, \
                 in `--numerics exact` it does not"
            )
        }
    ))
}

fn tokens(answer: &Value) -> &[Value] {
    answer["token_ids"].as_array().map_or(&[], Vec::as_slice)
}

/// Of the undisturbed answer's time, until the node is killed.
const PART: f64 = 0.4;
/// Tokens; a shorter answer is over before anything can happen to it.
const FEWEST: usize = 16;
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_identical_answer_over_another_route_is_said_to_be_one() {
        let calm = json!({"token_ids": [1, 2, 3]});
        let answer = |ids: Value, moves: u32, node: &str| json!({"token_ids": ids, "moves": moves, "route": [{"node": node}], "timings": {"itl_ms_max": 1234.5}});
        let killed = "0123456789abcdef";
        let text = summary(&calm, &answer(json!([1, 2, 3]), 1, "fedcba9876543210"), killed, true).unwrap();
        assert!(text.contains("01234567 was killed") && text.contains("after 1.23 s"), "{text}");
        assert!(text.ends_with("output identical: 3 tokens"), "{text}");
        for (wrong, why) in [
            (answer(json!([1, 2, 4]), 1, "fedcba98"), "differs"),
            (answer(json!([1, 2, 3]), 0, "fedcba98"), "was over"),
            (answer(json!([1, 2, 3]), 1, killed), "still on the route"),
        ] {
            let error = summary(&calm, &wrong, killed, true).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

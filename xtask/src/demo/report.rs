//! What the demo prints after the answer: a table with one row per hop, and the speed.
//!
//! Pure: the router's object in, text out. A figure that the router did not give is shown as `-`.

use std::fmt::Write as _;

use serde_json::Value;

/// The table for the object of `router generate`.
pub(super) fn table(answer: &Value) -> String {
    let mut text = format!(
        "{:>3}  {:8}  {:>8}  {:>10}  {:>10}  {:>11}\n",
        "hop", "node", "layers", "compute ms", "network ms", "bytes/token"
    );
    for (index, hop) in list(answer, "hops").iter().enumerate() {
        let node = hop.get("node").and_then(Value::as_str).unwrap_or("-");
        let layers: Vec<String> = list(hop, "layers").iter().map(Value::to_string).collect();
        let _ = writeln!(
            text,
            "{:>3}  {:8.8}  {:>8}  {:>10}  {:>10}  {:>11}",
            index + 1,
            node,
            layers.join(".."),
            number(hop, "compute_ms", 2),
            number(hop, "network_ms", 3),
            number(hop, "bytes_per_token", 0),
        );
    }
    let timings = answer.get("timings").unwrap_or(&Value::Null);
    let _ = write!(
        text,
        "{} tokens ({}); first after {} ms, then {} tokens/s (between tokens: p50 {} ms, p99 {} ms); prompt {} tokens/s",
        list(answer, "token_ids").len(),
        answer.get("finish_reason").and_then(Value::as_str).unwrap_or("-"),
        number(timings, "ttft_ms", 0),
        number(timings, "decode_tokens_per_second", 1),
        number(timings, "itl_ms_p50", 1),
        number(timings, "itl_ms_p99", 1),
        number(timings, "prefill_tokens_per_second", 0),
    );
    text
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(object: &Value, key: &str, decimals: usize) -> String {
    object
        .get(key)
        .and_then(Value::as_f64)
        .map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hop_has_a_row_and_unknown_figures_a_dash() {
        let answer = serde_json::json!({
            "token_ids": [1, 2, 3],
            "finish_reason": "stop",
            "timings": {"ttft_ms": 312.4, "decode_tokens_per_second": 41.25},
            "hops": [
                {"node": "0123456789abcdef", "layers": [0, 10], "compute_ms": 3.256, "network_ms": 0.1, "bytes_per_token": 1152},
                {"node": "fedcba9876543210", "layers": [10, 30]},
            ],
        });
        let text = table(&answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["1", "01234567", "0..10", "3.26", "0.100", "1152"]
        );
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            ["2", "fedcba98", "10..30", "-", "-", "-"]
        );
        assert!(lines[3].starts_with("3 tokens (stop); first after 312 ms, then 41.2 tokens/s"), "{text}");
    }

    #[test]
    fn an_empty_object_gives_a_table_not_a_panic() {
        assert!(table(&Value::Null).contains("0 tokens"));
    }
}

//! Ten times as many requests as are served: refusals at once, and answers as before for those admitted.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::Options;
use super::super::arrivals::{Arrivals, Load, run};
use super::super::report::Samples;
use super::super::swarm::Swarm;
use super::steady;
use crate::statistics::percentile;
use crate::tell;

/// Ten times as many requests as can be served.
pub(super) async fn overload(options: &Options) -> Result<Value> {
    let clients = options.clients.to_string();
    let swarm = Swarm::start(options, &["--sessions-per-node", &clients, "--queue", &clients]).await?;
    let load = steady(options, &swarm);
    let at_capacity = Samples::of(&run(&load).await);
    let rate = OVERLOAD * at_capacity.done as f64 / at_capacity.seconds;
    tell(&format!("at capacity: {:.1} requests/s; now {rate:.1}", rate / OVERLOAD));
    let overloaded = Samples::of(&run(&Load { arrivals: Arrivals::Open(rate), ..load }).await);
    let ratio = |q| percentile(&overloaded.itl, q) / percentile(&at_capacity.itl, q);
    let refused_late = percentile(&overloaded.refusal, 1.0);
    let limit = REFUSED_WITHIN_MS * options.factor;
    let holds = refused_late <= limit
        && !overloaded.refusal.is_empty()
        && overloaded.without_hint == 0
        && overloaded.broken.is_empty()
        && ratio(0.5) <= SLOWER * options.factor
        && ratio(0.99) <= SLOWER * options.factor;
    Ok(json!({
        "at_capacity": at_capacity.to_json(),
        "overloaded": overloaded.to_json(),
        "offered_requests_per_second": rate,
        "itl_p50_ratio": ratio(0.5),
        "itl_p99_ratio": ratio(0.99),
        "refusal_ms_max": refused_late,
        "holds": holds,
    }))
}

const OVERLOAD: f64 = 10.0;
/// From the request to its refusal, of every one.
const REFUSED_WITHIN_MS: f64 = 50.0;
/// The admitted ones' gaps, beside those at capacity.
const SLOWER: f64 = 1.5;

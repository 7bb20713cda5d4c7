//! Ten times as many requests as are served: refusals at once, and answers as before for those admitted.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::Options;
use super::super::arrivals::{Arrivals, Load, Texts, run};
use super::super::mix::{Length, Mix};
use super::super::report::{NO_PLACE, Samples};
use super::super::swarm::Swarm;
use super::{PROMPT, steady};
use crate::statistics::percentile;
use crate::tell;

/// Ten times as many requests as can be served, half of them with prompts of text where the model reads any.
pub(super) async fn overload(options: &Options) -> Result<Value> {
    let clients = options.clients.to_string();
    let swarm = Swarm::start(options, &["--sessions-per-node", &clients, "--queue", &clients]).await?;
    let texts = swarm.word.map(|word| {
        let [short, long] = [PROMPT, options.text_words].map(|words| Length::of(words, options.tokens));
        Texts { word, mix: Mix::either(short, long) }
    });
    let load = Load { texts, ..steady(options, &swarm) };
    let at_capacity = Samples::of(&run(&load).await);
    let rate = OVERLOAD * at_capacity.done as f64 / at_capacity.seconds;
    tell(&format!("at capacity: {:.1} requests/s; now {rate:.1}", rate / OVERLOAD));
    let overloaded = Samples::of(&run(&Load { arrivals: Arrivals::Open(rate), ..load.clone() }).await);
    let mut faults = at_capacity.faults(&[]);
    faults.extend(overloaded.faults(&NO_PLACE));
    faults.extend(unheard(&overloaded, options.tenants));
    if overloaded.refusal.is_empty() || load.texts.is_some() && overloaded.text_refusal.is_empty() {
        faults.push("nobody was refused: this is no overload".into());
    }
    if overloaded.without_hint > 0 {
        faults.push(format!("{} refusals do not say when to come again", overloaded.without_hint));
    }
    let ratio = |q| percentile(&overloaded.itl, q) / percentile(&at_capacity.itl, q);
    let refused_late = percentile(&[&overloaded.refusal[..], &overloaded.text_refusal].concat(), 1.0);
    let holds = faults.is_empty()
        && refused_late <= REFUSED_WITHIN_MS * options.factor
        && ratio(0.5) <= SLOWER * options.factor
        && ratio(0.99) <= SLOWER * options.factor;
    Ok(json!({
        "at_capacity": at_capacity.to_json(),
        "overloaded": overloaded.to_json(),
        "offered_requests_per_second": rate,
        "itl_p50_ratio": ratio(0.5),
        "itl_p99_ratio": ratio(0.99),
        "refusal_ms_max": refused_late,
        "faults": faults,
        "holds": holds,
    }))
}

/// Tenants that got far less than their share. Arrivals and ends are chance: half of it is well below that.
fn unheard(samples: &Samples, tenants: u32) -> impl Iterator<Item = String> {
    let share = samples.done as f64 / f64::from(tenants.max(1));
    let by_tenant = samples.done_by_tenant.iter();
    by_tenant
        .filter(move |&(_, &done)| (done as f64) < 0.5 * share.floor())
        .map(move |(tenant, done)| format!("{tenant} had {done} answers of {share:.0}"))
}

const OVERLOAD: f64 = 10.0;
/// From the request to its refusal, of every one.
const REFUSED_WITHIN_MS: f64 = 50.0;
/// The admitted ones' gaps, beside those at capacity.
const SLOWER: f64 = 1.5;

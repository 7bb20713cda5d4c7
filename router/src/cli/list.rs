//! `router nodes` and `router models`: what the swarm offers.

use std::collections::BTreeSet;
use std::process::ExitCode;

use proto::LayerSpan;
use proto::tensor::NumericsClass;
use router::Router;
use router::discovery::measure;
use router_plan::{Coverage, View, models as offered};
use serde_json::{Value, json};

use super::output;
use super::settings::Settings;

pub(super) async fn nodes(router: &Router, settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut view = router.view_of_all().await?;
    measure(&mut view, router.driver(), None, &mut |_| false).await;
    let list: Vec<Value> = view.nodes().map(|node| node_json(&view, node)).collect();
    if settings.json {
        output::line(&serde_json::to_string(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|node| {
            let layers = &node["layers"];
            vec![
                text(&node["node"])[..8].to_owned(),
                text(&node["addresses"][0]),
                text(&node["model"]),
                format!("{}..{} of {}", layers[0], layers[1], node["n_layers"]),
                text(&node["numerics"]),
                text(&node["sessions"]),
                text(&node["kv_free"]),
                text(&node["rtt_ms"]),
                text(&node["problem"]),
            ]
        })
        .collect();
    let head = ["node", "address", "model", "layers", "class", "sessions", "kv free", "rtt ms", "problem"];
    output::line(&output::table(&head, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn node_json(view: &View, node: &router_plan::NodeView) -> Value {
    let record = node.record();
    let offer = node.offer();
    let load = node.measured.load;
    json!({
        "node": node.node(),
        "addresses": record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "model": offer.map(|offer| &offer.model_name),
        "model_id": offer.map(|offer| offer.model),
        "layers": offer.map(|offer| offer.span),
        "n_layers": offer.map(|offer| offer.n_layers),
        "numerics": offer.map(|offer| offer.class),
        "kv_capacity": offer.map(|offer| offer.kv_capacity),
        "kv_free": load.map(|load| load.kv_free),
        "sessions": load.map(|load| load.sessions),
        "step_ms": load.and_then(|load| load.step_us).map(|us| f64::from(us) / 1000.0),
        "draining": load.map(|load| load.draining),
        "rtt_ms": node.measured.rtt_us.map(|us| f64::from(us) / 1000.0),
        "version": record.version,
        "expires_in_s": record.expires_unix_s().saturating_sub(view.unix_s()),
        "problem": node.measured.unreachable,
    })
}

pub(super) async fn models(router: &Router, settings: &Settings) -> anyhow::Result<ExitCode> {
    let view = router.view_of_all().await?;
    let mut list = Vec::new();
    for model in offered(&view) {
        let n_layers = view
            .nodes()
            .filter(|node| model.nodes.contains(&node.node()))
            .filter_map(|node| node.offer())
            .map(|offer| offer.n_layers)
            .max()
            .unwrap_or(0);
        for class in NumericsClass::ALL {
            let spans: BTreeSet<(proto::NodeId, LayerSpan)> = view
                .nodes()
                .filter(|node| model.nodes.contains(&node.node()))
                .filter_map(|node| Some((node.node(), node.offer()?)))
                .filter(|(_, offer)| offer.class == class)
                .map(|(node, offer)| (node, offer.span))
                .collect();
            if spans.is_empty() {
                continue;
            }
            let gaps = Coverage::of(n_layers, spans.iter().map(|(_, span)| *span)).gaps();
            list.push((model.clone(), class, n_layers, spans.len(), gaps));
        }
    }
    if settings.json {
        let objects: Vec<Value> = list
            .iter()
            .map(|(model, class, n_layers, nodes, gaps)| {
                json!({
                    "model": model.name,
                    "model_id": model.model,
                    "numerics": class,
                    "n_layers": n_layers,
                    "nodes": nodes,
                    "complete": gaps.is_empty(),
                    "gaps": gaps.spans(),
                })
            })
            .collect();
        output::line(&serde_json::to_string(&objects)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|(model, class, n_layers, nodes, gaps)| {
            vec![
                model.name.clone(),
                model.model.short(),
                class.to_string(),
                n_layers.to_string(),
                nodes.to_string(),
                gaps.to_string(),
            ]
        })
        .collect();
    output::line(&output::table(&["model", "id", "class", "layers", "nodes", "coverage"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

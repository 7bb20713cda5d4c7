//! `router explain`: the route that would be taken, and the reason for each node.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use router::Router;
use router::discovery::measure;
use router_plan::{Explanation, RouteRequest, explain};
use serde_json::{Value, json};

use super::options::Explain;
use super::output;
use super::settings::Settings;

/// Exit code 0 if there is a route, 1 if not.
pub(super) async fn run(
    router: &Router,
    settings: &Settings,
    arguments: &Explain,
) -> anyhow::Result<ExitCode> {
    let wanted = arguments.choice.model.clone().or_else(|| settings.model.clone());
    let (model, mut view) = router.model(wanted.as_ref()).await?;
    measure(&mut view, router.driver(), Some(model.id()), &mut |_| false).await;
    let n_layers = model.manifest().architecture.n_layers;
    let request = RouteRequest {
        model: model.id(),
        n_layers,
        class: arguments.choice.numerics,
        max_positions: arguments.max_positions,
        exclude: BTreeSet::new(),
        prefer: BTreeMap::new(),
        standby: true,
    };
    let explanation = explain(&view, &request);
    let code = if explanation.route.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if settings.json {
        let mut object = to_json(&explanation);
        object["model"] = json!(model.name());
        object["model_id"] = json!(model.id());
        object["n_layers"] = json!(n_layers);
        output::line(&serde_json::to_string(&object)?)?;
        return Ok(code);
    }
    output::line(&format!("{}@{} ({n_layers} layers)", model.name(), model.id().short()))?;
    let rows: Vec<Vec<String>> = explanation
        .nodes
        .iter()
        .map(|node| {
            let dash = || "-".to_owned();
            vec![
                node.node.short(),
                node.span.map_or_else(dash, |span| span.to_string()),
                node.class.map_or_else(dash, |class| class.to_string()),
                match node.stands_by {
                    Some(stage) => format!("{}; with --standby it stands by for stage {stage}", node.verdict),
                    None => node.verdict.to_string(),
                },
            ]
        })
        .collect();
    output::line(&output::table(&["node", "layers", "class", "verdict"], &rows))?;
    match &explanation.route {
        Ok(route) => {
            let stages: Vec<_> =
                route.stages.iter().map(|stage| format!("{} ({})", stage.node.short(), stage.span)).collect();
            output::line(&format!(
                "route in class {}: {}; about {:.1} ms a token",
                route.class,
                stages.join(" -> "),
                route.expected_us as f64 / 1000.0
            ))?;
        }
        Err(error) => output::line(&error.to_string())?,
    }
    Ok(code)
}

fn to_json(explanation: &Explanation) -> Value {
    let nodes: Vec<Value> = explanation
        .nodes
        .iter()
        .map(|node| {
            json!({
                "node": node.node,
                "layers": node.span,
                "numerics": node.class,
                "verdict": node.verdict.name(),
                "reason": node.verdict.to_string(),
                "stands_by_for_stage": node.stands_by,
            })
        })
        .collect();
    let route = explanation.route.as_ref().ok().map(|route| {
        route
            .stages
            .iter()
            .map(|stage| json!({"node": stage.node, "addr": stage.addr.to_string(), "layers": stage.span}))
            .collect::<Vec<_>>()
    });
    json!({
        "numerics": explanation.class,
        "route": route,
        "expected_token_ms": explanation.route.as_ref().ok().map(|route| route.expected_us as f64 / 1000.0),
        "error": explanation.route.as_ref().err().map(ToString::to_string),
        "gaps": explanation.gaps.spans(),
        "nodes": nodes,
    })
}

//! Whether a router is ready: the models that it is for can be answered now. Pure.

use std::time::Duration;

use router_openai::ErrorCode;

use super::Problem;

/// A model that is served, or ought to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// As clients call it.
    pub(super) model: String,
    /// The router was told to serve it.
    pub(super) configured: bool,
    /// Why no request for it is answered now.
    pub(super) lacks: Option<String>,
}

/// Whether the router is ready; if so, which models it could not answer for all the same. Each that it was told to serve
/// must be whole. One that serves whatever it finds needs one whole model: anybody may announce half a one, and must
/// not take the router away from those who use another.
pub(super) fn judge(models: &[Standing]) -> Result<Vec<String>, Problem> {
    let lacking = models.iter().filter_map(|model| Some((model, model.lacks.as_ref()?)));
    let told: Vec<String> = lacking.map(|(model, why)| format!("{}: {why}", model.model)).collect();
    let configured = models.iter().any(|model| model.configured && model.lacks.is_some());
    let unready = |what: String| {
        Problem::new(ErrorCode::NoRoute, what, "start nodes, or look at the router's log")
            .retry_after(READY_AFTER)
    };
    if models.is_empty() {
        return Err(unready("no model is served yet".to_owned()));
    }
    if configured || told.len() == models.len() {
        return Err(unready(format!("not ready: {}", told.join("; "))));
    }
    Ok(told)
}

/// Nodes announce themselves within some seconds.
const READY_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, configured: bool, lacks: Option<&str>) -> Standing {
        Standing { model: name.into(), configured, lacks: lacks.map(Into::into) }
    }

    #[test]
    fn a_router_is_ready_when_what_it_is_for_is_whole() {
        let gap = Some("layers 10..20 are held by nobody");
        let refused = |models: &[Standing]| {
            let problem = judge(models).unwrap_err();
            assert_eq!((problem.code(), problem.error().status()), (ErrorCode::NoRoute, 503));
            problem.error().message().to_owned()
        };
        assert!(refused(&[]).starts_with("no model is served yet"));
        assert!(refused(&[model("a", false, gap)]).contains("a: layers 10..20 are held by nobody"));
        assert!(refused(&[model("a", true, gap), model("b", true, None)]).contains("a: layers 10..20"));
        let all = refused(&[model("a", false, gap), model("b", false, gap)]);
        assert!(all.contains("a: layers") && all.contains("b: layers"), "{all}");
        assert_eq!(judge(&[model("a", true, None)]), Ok(Vec::new()));
        let strangers = judge(&[model("a", false, None), model("b", false, gap)]);
        assert_eq!(strangers, Ok(vec!["b: layers 10..20 are held by nobody".to_owned()]));
    }
}

//! May a session start here? Everything that does not depend on the sessions that are open.

use proto::session::Open;
use proto::status::{Refusal, RefusalCode};
use proto::{ModelId, NodeId};
use shard_node_stage::StageShape;

use super::terms::Terms;

/// What this stage serves.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// This node.
    pub own: NodeId,
    /// The weights.
    pub model: ModelId,
    /// The stage.
    pub shape: StageShape,
}

impl Admission {
    /// The terms under which a session of `router` may start, capacity aside.
    pub fn check(&self, router: NodeId, open: &Open) -> Result<Terms, Refusal> {
        let refuse = |code, detail: String| Err(Refusal::new(code, detail));
        let plan = &open.plan;
        let Some(stage) = plan.stages.get(usize::from(open.stage)) else {
            return refuse(RefusalCode::BadPlan, format!("the plan has no stage {}", open.stage));
        };
        if stage.node != self.own {
            let (named, own) = (stage.node.short(), self.own.short());
            return refuse(
                RefusalCode::BadPlan,
                format!("stage {} is node {named}, this is {own}", open.stage),
            );
        }
        if plan.stages.iter().filter(|stage| stage.node == self.own).count() > 1 {
            return refuse(RefusalCode::BadPlan, "the plan names this node twice".into());
        }
        if plan.model != self.model {
            let (asked, own) = (plan.model.short(), self.model.short());
            return refuse(RefusalCode::WrongModel, format!("asked for {asked}, this is {own}"));
        }
        let StageShape { span, n_layers, class, context, .. } = self.shape;
        if plan.n_layers != n_layers {
            return refuse(
                RefusalCode::BadPlan,
                format!("the model has {n_layers} layers, not {}", plan.n_layers),
            );
        }
        if !span.holds(stage.span) {
            return refuse(RefusalCode::WrongSpan, format!("asked for {}, this holds {span}", stage.span));
        }
        if plan.class != class {
            return refuse(RefusalCode::WrongClass, format!("asked for {}, this is {class}", plan.class));
        }
        if open.max_positions > context {
            let detail = format!("{} positions asked for, the context is {context}", open.max_positions);
            return refuse(RefusalCode::TooLong, detail);
        }
        if let Some(tail) = &open.tail
            && tail.history.len() > open.max_positions as usize
        {
            let detail =
                format!("{} tokens given, {} positions asked for", tail.history.len(), open.max_positions);
            return refuse(RefusalCode::TooLong, detail);
        }
        Terms::new(self.own, router, open, self.shape.vocab)
            .map_err(|error| Refusal::new(RefusalCode::BadSampling, error.to_string()))
    }
}

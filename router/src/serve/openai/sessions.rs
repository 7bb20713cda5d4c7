//! The sessions of a request: one for each choice of each prompt, begun side by side.

use std::sync::Arc;

use proto::answer::{AnswerTerms, Grammar};
use router_openai::{Delivery, ErrorCode, Generation, Head};
use router_plan::admission::Tenant;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::Prompt;
use crate::serve::answer::Answer;
use crate::serve::bill::Bill;
use crate::serve::catalogue::Served;
use crate::serve::desk::with_drawn_seed;
use crate::serve::routes::Shared;
use crate::serve::{Asked, Problem};

/// Tokens of an answer if the request does not say. KV is reserved for all of them on every stage, so that the whole
/// context for each would leave room for few.
const USUAL_MAX_TOKENS: u32 = 4096;

/// What all sessions of a request have in common.
pub(super) struct Sessions<'a> {
    pub(super) shared: &'a Shared,
    pub(super) generation: &'a Generation,
    pub(super) tenant: &'a Tenant,
    pub(super) bill: &'a Arc<Bill>,
    pub(super) id: &'a str,
    pub(super) at: Instant,
    pub(super) grammar: Option<Grammar>,
    /// Special tokens that are shown as text.
    pub(super) markers: Vec<&'static str>,
}

impl Sessions<'_> {
    /// Brings `n` choices of each prompt to their first token, all at once; one that can't be had is the end of all. The
    /// choices of a prompt follow each other.
    pub(super) async fn begin(&self, prompts: &[Vec<u32>], n: u32) -> Result<Vec<Answer>, Problem> {
        // Dropped with the request, it gives up what is still on its way.
        let mut beginning = JoinSet::new();
        let count = prompts.len() * n as usize;
        for choice in 0..count {
            let asked = self.asked(&prompts[choice / n as usize], choice as u32)?;
            let (desk, bill) = (Arc::clone(&self.shared.desk), Arc::clone(self.bill));
            let (id, at) = (self.id.to_owned(), self.at);
            beginning.spawn(async move { (choice, desk.answer(asked, (), bill, id, at).await) });
        }
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        while let Some(done) = beginning.join_next().await {
            let broke = |error| {
                Problem::new(ErrorCode::Internal, format_args!("begin a choice: {error}"), "try again")
            };
            let (choice, answer) = done.map_err(broke)?;
            answers[choice] = Some(answer?);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn asked(&self, ids: &[u32], choice: u32) -> Result<Asked, Problem> {
        let generation = self.generation;
        let mut sampling = generation.sampling_of(choice);
        if generation.draw_seed {
            sampling = with_drawn_seed(sampling)?;
        }
        let top_logprobs = generation.logprobs.unwrap_or(0);
        Ok(Asked {
            model: generation.model.clone(),
            class: generation.class,
            prompt: Prompt::TokenIds(ids.to_vec()),
            max_tokens: generation.max_tokens.unwrap_or(USUAL_MAX_TOKENS),
            sampling,
            draw_seed: false,
            stop: generation.stop.clone(),
            stream: generation.delivery != Delivery::Whole,
            tenant: self.tenant.clone(),
            priority: generation.priority,
            deadline: generation.deadline,
            answer: AnswerTerms { top_logprobs, grammar: self.grammar.clone() },
            markers: self.markers.clone(),
        })
    }
}

/// What all objects of an answer say of it.
pub(super) fn head(
    id: String,
    created: u64,
    generation: &Generation,
    served: &Served,
    first: &Answer,
) -> Head {
    Head {
        id,
        created,
        model: generation.model.as_ref().map_or_else(|| served.model.name().to_owned(), ToString::to_string),
        system_fingerprint: format!("{}-{}", served.model.id(), first.about.route.class),
    }
}

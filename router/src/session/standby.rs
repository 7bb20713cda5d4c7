//! Nodes that stand by for a session's stages: opened once it answers, told what they need, and dropped without a word
//! when they can't keep up. The answer never waits for them.
//!
//! ```text
//!            first token          opened
//! Idle ---------------> Asked -------------> Following
//!                         |   refused, lost, failed  |
//!                         +----------> Gone <--------+
//! ```

use proto::Position;
use proto::session::{Close, Follow, Opened, Plan, Tokens};
use proto::status::CloseCode;

use super::{Action, Control, OpenFailure, Report, SessionTerms, StandbyStage};

/// All that stand by for one session.
#[derive(Debug)]
pub(super) struct Standbys {
    stages: usize,
    list: Vec<Standby>,
    /// Tokens of this generation, for one that stands by for stage 0; otherwise none are kept.
    came: Vec<u32>,
    leads: bool,
}

#[derive(Debug)]
struct Standby {
    at: StandbyStage,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    Asked,
    Following {
        /// Rows computed, by its own word.
        applied: Position,
        /// Stage 0's: the first token that it was not told.
        next: u32,
    },
    Gone,
}

impl Standbys {
    pub(super) fn new(terms: &SessionTerms) -> Self {
        let list: Vec<_> = terms.standbys.iter().map(|&at| Standby { at, state: State::Idle }).collect();
        let leads = terms.standbys.iter().any(|standby| standby.stage == 0);
        Self { stages: terms.stages().len(), list, came: Vec::new(), leads }
    }

    /// Those that have been asked and not been lost since, as the session's stages are numbered.
    pub(super) fn open(&self) -> Vec<usize> {
        let open = |standby: &Standby| matches!(standby.state, State::Asked | State::Following { .. });
        (self.stages..)
            .zip(&self.list)
            .filter(|(_, standby)| open(standby))
            .map(|(number, _)| number)
            .collect()
    }

    /// Whether one of them has not answered yet.
    pub(super) fn is_asking(&self) -> bool {
        self.list.iter().any(|standby| standby.state == State::Asked)
    }

    /// Whether somebody could take this stage's place at once.
    pub(super) fn keeps_up(&self, stage: usize, position: Position) -> bool {
        self.list.iter().any(|standby| match standby.state {
            State::Following { applied, .. } => {
                standby.at.stage == stage && applied.get().saturating_add(BEHIND) >= position.get()
            }
            _ => false,
        })
    }

    /// A token came. With the first one they are asked: the prompt is computed then, and nobody waits for it longer.
    pub(super) fn token(&mut self, terms: &SessionTerms, token: u32, actions: &mut Vec<Action>) {
        if self.leads {
            self.came.push(token);
        }
        for (number, standby) in (self.stages..).zip(&mut self.list) {
            if standby.state == State::Idle {
                standby.state = State::Asked;
                actions.push(Action::Open { stage: number, open: Box::new(terms.open_standby(standby.at)) });
            }
        }
        if self.leads {
            self.tell(terms, actions);
        }
    }

    /// One of them answered.
    pub(super) fn answered(
        &mut self,
        terms: &SessionTerms,
        over: Option<CloseCode>,
        number: usize,
        answer: &Result<Opened, OpenFailure>,
        actions: &mut Vec<Action>,
    ) {
        let Some(standby) = self.list.get_mut(number - self.stages) else { return };
        if standby.state != State::Asked {
            return;
        }
        if let (Ok(_), Some(code)) = (answer, over) {
            // The end overtook the answer.
            standby.state = State::Gone;
            return actions.push(close(terms, number, code));
        }
        let StandbyStage { stage, at } = standby.at;
        let mut plan = Plan { ..terms.plan.clone() };
        plan.stages[stage] = at;
        let held = match answer {
            Ok(opened)
                if opened.session == terms.session
                    && opened.generation == terms.generation
                    && opened.digest == plan.digest()
                    && terms.may_begin_at(*opened.reusable) =>
            {
                *opened.reusable
            }
            // It is busy, gone or broken: the session goes on without it.
            Ok(_) => {
                standby.state = State::Gone;
                return actions.push(close(terms, number, CloseCode::Protocol));
            }
            Err(_) => {
                standby.state = State::Gone;
                return;
            }
        };
        standby.state = State::Following { applied: Position::new(held), next: held };
        let Some(before) = stage.checked_sub(1) else { return self.tell(terms, actions) };
        let (session, generation) = (terms.session, terms.generation);
        let follow = Follow { session, generation, standby: at, from: Position::new(held) };
        actions.push(Action::Send { stage: before, frame: Control::Follow(follow) });
    }

    /// One of them reported.
    pub(super) fn reported(&mut self, number: usize, report: &Report) {
        let Some(standby) = self.list.get_mut(number - self.stages) else { return };
        match (report, &mut standby.state) {
            (Report::Progress(progress), State::Following { applied, .. }) => *applied = progress.applied,
            (Report::Progress(_) | Report::Signed(_), _) => {}
            // It ended, or does what it was not asked to.
            _ => standby.state = State::Gone,
        }
    }

    /// The connection to one of them is gone.
    pub(super) fn lost(&mut self, number: usize) {
        if let Some(standby) = self.list.get_mut(number - self.stages) {
            standby.state = State::Gone;
        }
    }

    /// Whoever stands by for stage 0 is told the tokens that it lacks, in portions.
    fn tell(&mut self, terms: &SessionTerms, actions: &mut Vec<Action>) {
        let known = (terms.prompt.len() + self.came.len()) as u32;
        for (number, standby) in (self.stages..).zip(&mut self.list) {
            let State::Following { next, .. } = &mut standby.state else { continue };
            if standby.at.stage != 0 || known.saturating_sub(*next) < PORTION {
                continue;
            }
            let tokens = terms.prompt.iter().chain(&self.came).skip(*next as usize).copied().collect();
            let start = Position::new(std::mem::replace(next, known));
            let (session, generation) = (terms.session, terms.generation);
            let tokens = Tokens { session, generation, start, tokens };
            actions.push(Action::Send { stage: number, frame: Control::Tokens(tokens) });
        }
    }
}

fn close(terms: &SessionTerms, number: usize, code: CloseCode) -> Action {
    let (session, generation) = (terms.session, terms.generation);
    Action::Send { stage: number, frame: Control::Close(Close { session, generation, code }) }
}

/// Tokens that are told together, as rows are sent together by the other stages.
const PORTION: u32 = 8;
/// A standby that is so many rows behind still takes over within a step or two (`docs/PROTOCOL.md` 3.6): three portions,
/// one of them being computed and one under way.
const BEHIND: u32 = 3 * PORTION;

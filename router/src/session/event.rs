//! What happens to a session and what it wants done.

use std::time::Duration;

use proto::attest::Attest;
use proto::session::{Close, Credit, Ended, Failed, Follow, Open, Opened, Progress, Sampled, Tokens};
use proto::status::Refusal;

use super::SessionError;

/// A frame of a stage's report stream.
#[derive(Clone, PartialEq, Debug)]
pub enum Report {
    // Boxed, as a session has room for a hundred of these, most of which are signs of life.
    /// A token.
    Sampled(Box<Sampled>),
    /// A sign of life.
    Progress(Progress),
    /// The stage gives up.
    Failed(Box<Failed>),
    /// The stage's account.
    Ended(Box<Ended>),
    /// Something that it signed. For whoever gathers evidence: the session itself does not look at it.
    Signed(Signed),
}

/// What a stage signs, as its encoded statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Signed {
    /// That it takes part.
    Ack(Vec<u8>),
    /// For rows.
    Receipt(Vec<u8>),
    /// Leaves of rows that it signed for.
    SentRows(Vec<u8>),
}

/// What happened. Stages are numbered as in the plan, and behind them come those that stand by, in the order of
/// [`SessionTerms::standbys`](super::SessionTerms::standbys).
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The session may begin.
    Start,
    /// A stage answered `Open`, or could not be asked.
    OpenAnswered {
        /// Which stage.
        stage: usize,
        /// Its answer.
        answer: Result<Opened, OpenFailure>,
    },
    /// A stage reported.
    Reported {
        /// Which stage, by the connection it came on.
        stage: usize,
        /// What.
        report: Report,
    },
    /// The connection to a stage is gone.
    LinkLost {
        /// Which stage.
        stage: usize,
        /// Why.
        why: String,
    },
    /// A stage was asked whether it lives.
    Probed {
        /// Which stage.
        stage: usize,
        /// It answered in time.
        alive: bool,
    },
    /// What a stage signed does not hold, or it does not sign.
    NotAttested {
        /// Which stage.
        stage: usize,
        /// What is wrong.
        what: String,
    },
    /// The client has read this many tokens in all.
    Consumed {
        /// Tokens.
        tokens: u32,
    },
    /// The client has what it wants: a stop string matched.
    Satisfied,
    /// The client gives up.
    Cancelled,
    /// The session goes on in another generation.
    Superseded,
    /// Time has passed.
    Tick,
}

/// Why a stage did not open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenFailure {
    /// It refused.
    Refused(Refusal),
    /// It could not be asked, or gave no answer.
    Unreachable(String),
}

/// A control frame.
#[derive(Clone, PartialEq, Debug)]
pub enum Control {
    /// The prompt.
    Tokens(Tokens),
    /// Credit and sign of life.
    Credit(Credit),
    /// The end.
    Close(Close),
    /// Somebody stands by for the next stage.
    Follow(Follow),
    /// What the stage is asked to sign.
    Attest(Box<Attest>),
}

/// What is to be done, in order. Stages are numbered as in [`Event`].
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Ask a stage to take part and bring back its answer.
    Open {
        /// Which stage.
        stage: usize,
        /// The question.
        open: Box<Open>,
    },
    /// All stages are open: ask them to sign. Before the prompt goes out.
    Attest {
        /// Where each goes on.
        goes_on: Vec<u32>,
    },
    /// Send a control frame.
    Send {
        /// Which stage.
        stage: usize,
        /// The frame.
        frame: Control,
    },
    /// Ask a stage whether it lives, and say what came of it in [`Event::Probed`].
    Probe {
        /// Which stage.
        stage: usize,
        /// How long it has, beside twice the way there and back.
        patience: Duration,
    },
    /// The next token of the answer.
    Emit {
        /// The token.
        token: Sampled,
        /// Since the session's start.
        at: Duration,
    },
    /// The answer is complete, or will not be. No `Emit` follows.
    Conclude(Outcome),
    /// All is over: accounts are in or not to be had. Nothing follows.
    Done {
        /// The stages' accounts in order.
        accounts: Vec<Option<Ended>>,
    },
}

/// How an answer ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// As it should.
    Finished(FinishReason),
    /// The client gave up.
    Cancelled,
    /// It goes on in another generation.
    Superseded,
    /// It could not be completed.
    Failed(SessionError),
}

/// Why an answer is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// An end-of-sequence id, or a stop string.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
}

impl FinishReason {
    /// The word in `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

//! The task of one session: carries events to its [`SessionMachine`] and does what it says. What its stages sign is in
//! `shell/signing.rs`.

mod signing;

use std::sync::Arc;
use std::time::Duration;

use proto::session::{Ended, Open, Opened, Refused};
use proto::status::{Refusal, RefusalCode};
use proto::{FrameKind, Message};
use proto_attest::keys::VerifiedBinding;
use proto_transport::Connection;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{Client, SessionEnd, TimedToken, Wish};
use super::link::{Arrived, Inbox, Link};
use super::links::Links;
use super::losses::Losses;
use crate::metrics::RouterMetrics;
use crate::session::{
    Action, Control, Event, OpenFailure, Outcome, Report, SessionError, SessionMachine, SessionTerms,
};

/// What came of asking a stage to open: which one, by which link if there is one, and its answer.
type Asked = (usize, Option<Arc<Link>>, Result<Opened, OpenFailure>);

/// A session's task before it runs.
#[derive(Debug)]
pub(super) struct Shell {
    terms: Arc<SessionTerms>,
    links: Links,
    client: Client,
    metrics: RouterMetrics,
}

/// A timer that fires this much late means that the router itself did not run.
const LATE: Duration = Duration::from_millis(250);

impl Shell {
    pub(super) const fn new(
        terms: Arc<SessionTerms>,
        links: Links,
        client: Client,
        metrics: RouterMetrics,
    ) -> Self {
        Self { terms, links, client, metrics }
    }

    pub(super) async fn run(self, cancel: CancellationToken) {
        let start = Instant::now();
        let links = tokio::select! {
            links = connect(&self.links, &self.terms) => links,
            () = cancelled_by(&self.client) => Err(Outcome::Cancelled),
            () = cancel.cancelled() => Err(Outcome::Failed(SessionError::ShuttingDown)),
        };
        match links {
            Ok((links, bindings)) => {
                let (terms, bindings) = signing::signing(self.terms, bindings);
                let mut running = Running::new(start, terms, links, (self.links, self.client), self.metrics);
                running.bindings = bindings;
                running.run(&cancel).await;
                running.finish();
            }
            Err(outcome) => {
                self.metrics.session_ended(&outcome);
                self.client.finish(SessionEnd { outcome, accounts: Vec::new(), prompt_sent: None });
            }
        }
    }
}

type Connected = (Vec<Arc<Link>>, Vec<Option<VerifiedBinding>>);

/// Links to all stages, dialled at once, and what the stages sign with.
async fn connect(links: &Links, terms: &SessionTerms) -> Result<Connected, Outcome> {
    let mut dials = JoinSet::new();
    let signed = terms.evidence.is_some();
    for (stage, at) in terms.stages().iter().enumerate() {
        let (links, at) = (links.clone(), *at);
        dials.spawn(async move {
            let link = match links.get(at.node, &[at.addr]).await {
                Ok(link) => link,
                Err(error) => return (stage, Err(error)),
            };
            let binding = if signed { link.binding().await } else { None };
            (stage, Ok((link, binding)))
        });
    }
    let mut found = vec![None; terms.stages().len()];
    while let Some(dialled) = dials.join_next().await {
        let Ok((stage, dialled)) = dialled else { return Err(Outcome::Failed(SessionError::ShuttingDown)) };
        match dialled {
            Ok(link) => found[stage] = Some(link),
            Err(error) => {
                let stage = terms.label(stage);
                return Err(Outcome::Failed(SessionError::Unreachable { stage, why: error.to_string() }));
            }
        }
    }
    Ok(found.into_iter().flatten().unzip())
}

async fn cancelled_by(client: &Client) {
    while client.wish().is_none() {
        client.changed().await;
    }
}

/// A session whose links stand.
#[derive(Debug)]
struct Running {
    start: Instant,
    machine: SessionMachine,
    /// Of the stages, and behind them of those that stand by: dialled when they are asked.
    links: Vec<Option<Arc<Link>>>,
    dialler: Links,
    client: Client,
    metrics: RouterMetrics,
    /// Where links put reports; kept for those of nodes that stand by.
    reports_in: mpsc::Sender<Arrived>,
    /// Bounded: what stages may report while the task does not run, see [`report_queue`].
    reports: mpsc::Receiver<Arrived>,
    /// When the report that is being looked at was there.
    arrived: Instant,
    losses: Arc<Losses>,
    /// At most one open of a stage is under way, and one of each node that stands by.
    opens: JoinSet<Asked>,
    /// Tokens that came.
    tokens: u32,
    /// What the stages sign with, if they do.
    bindings: Vec<VerifiedBinding>,
    /// Stages whose signatures do not hold, and what is wrong.
    faults: Vec<(usize, String)>,
    /// At most one of each stage.
    probes: JoinSet<(usize, bool)>,
    outcome: Option<Outcome>,
    accounts: Vec<Option<Ended>>,
    prompt_sent: Option<Duration>,
}

impl Running {
    fn new(
        start: Instant,
        terms: Arc<SessionTerms>,
        links: Vec<Arc<Link>>,
        (dialler, client): (Links, Client),
        metrics: RouterMetrics,
    ) -> Self {
        let (reports_in, reports) = mpsc::channel(report_queue(&terms));
        let losses = Arc::new(Losses::default());
        for (stage, link) in links.iter().enumerate() {
            let inbox = Inbox { stage, reports: reports_in.clone(), losses: Arc::clone(&losses) };
            link.join((terms.session, terms.generation), inbox);
        }
        let mut links: Vec<_> = links.into_iter().map(Some).collect();
        links.resize(links.len() + terms.standbys.len(), None);
        Self {
            start,
            machine: SessionMachine::new(terms),
            links,
            dialler,
            client,
            metrics,
            reports_in,
            reports,
            arrived: start,
            losses,
            opens: JoinSet::new(),
            tokens: 0,
            bindings: Vec::new(),
            faults: Vec::new(),
            probes: JoinSet::new(),
            outcome: None,
            accounts: Vec::new(),
            prompt_sent: None,
        }
    }

    async fn run(&mut self, cancel: &CancellationToken) {
        self.feed(Event::Start);
        let mut stopping = false;
        while !self.machine.is_done() {
            let due = self.machine.next_tick().map_or_else(|| self.start + FAR, |tick| self.start + tick);
            tokio::select! {
                biased;
                Some(arrived) = self.reports.recv() => self.feed_report(arrived),
                () = self.losses.changed() => self.feed_losses(),
                Some(Ok((stage, link, answer))) = self.opens.join_next() => {
                    if let Some(link) = link {
                        self.join(stage, link);
                    }
                    self.feed(Event::OpenAnswered { stage, answer });
                }
                Some(Ok((stage, alive))) = self.probes.join_next() => self.feed(Event::Probed { stage, alive }),
                () = self.client.changed() => self.feed_wishes(),
                () = cancel.cancelled(), if !stopping => {
                    stopping = true;
                    self.feed(Event::Cancelled);
                }
                () = sleep_until(due) => self.tick(due),
            }
            // Reports come first above; a talkative stage must not hide another one's silence.
            if self.machine.next_tick().is_some_and(|tick| tick <= self.start.elapsed()) {
                self.feed(Event::Tick);
            }
        }
    }

    fn finish(self) {
        let terms = self.machine.terms();
        let session = (terms.session, terms.generation);
        for link in self.links.iter().flatten() {
            link.leave(session);
        }
        let outcome = self.outcome.unwrap_or(Outcome::Failed(SessionError::ShuttingDown));
        if let (Outcome::Finished(_), Some(evidence)) = (&outcome, &terms.evidence) {
            // The last token has no row of its own.
            let rows = terms.first_position().get() + self.tokens.saturating_sub(1);
            for stage in evidence.short(terms.generation, rows) {
                self.metrics.short();
                let stage = terms.label(stage);
                tracing::warn!(session = %terms.session, %stage, "did not sign for all of its rows");
            }
        }
        self.metrics.session_ended(&outcome);
        self.client.finish(SessionEnd { outcome, accounts: self.accounts, prompt_sent: self.prompt_sent });
    }

    fn tick(&mut self, due: Instant) {
        let late = due.elapsed();
        if late > LATE {
            tracing::warn!(
                late_ms = late.as_millis() as u64,
                "router was not scheduled; stages get that time"
            );
            self.machine.forgive(late);
        }
        self.feed(Event::Tick);
    }

    fn feed_report(&mut self, Arrived { stage, report, at }: Arrived) {
        self.arrived = at;
        match report {
            Report::Signed(signed) => {
                self.signed(stage, &signed);
                self.feed_faults();
            }
            report => self.feed(Event::Reported { stage, report }),
        }
    }

    /// What came before a loss counts before it.
    fn feed_losses(&mut self) {
        while let Ok(arrived) = self.reports.try_recv() {
            self.feed_report(arrived);
        }
        for (stage, why) in self.losses.list() {
            self.feed(Event::LinkLost { stage, why });
        }
    }

    fn feed_wishes(&mut self) {
        self.feed(Event::Consumed { tokens: self.client.consumed() });
        match self.client.wish() {
            Some(Wish::Satisfied) => self.feed(Event::Satisfied),
            Some(Wish::Cancelled) => self.feed(Event::Cancelled),
            Some(Wish::Superseded) => self.feed(Event::Superseded),
            None => {}
        }
    }

    fn feed(&mut self, event: Event) {
        for action in self.machine.on_event(self.start.elapsed(), event) {
            self.act(action);
        }
        if !self.faults.is_empty() {
            self.feed_faults();
        }
    }

    /// Hears a node that stands by.
    fn join(&mut self, stage: usize, link: Arc<Link>) {
        let terms = self.machine.terms();
        let inbox = Inbox { stage, reports: self.reports_in.clone(), losses: Arc::clone(&self.losses) };
        link.join((terms.session, terms.generation), inbox);
        self.links[stage] = Some(link);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open { stage, open } => {
                let known = self.links[stage].clone();
                let (dialler, timeout) = (self.dialler.clone(), self.machine.terms().limits.open);
                let metrics = self.metrics.clone();
                self.opens.spawn(async move {
                    let link = match known {
                        Some(link) => link,
                        None => match dial(&dialler, &open, timeout).await {
                            Ok(link) => link,
                            Err(failure) => return (stage, None, Err(failure)),
                        },
                    };
                    let answer = ask(link.connection(), &open, timeout).await;
                    if let Err(OpenFailure::Refused(refusal)) = &answer {
                        metrics.refused(refusal.code);
                    }
                    (stage, Some(link), answer)
                });
            }
            Action::Attest { goes_on } => self.attest(&goes_on),
            Action::Send { stage, frame } => {
                if let (0, Control::Tokens(tokens)) = (stage, &frame) {
                    self.client.prompted(tokens.start.get());
                    self.prompt_sent = Some(self.start.elapsed());
                }
                if let Some(link) = &self.links[stage] {
                    link.send(&frame);
                }
            }
            Action::Probe { stage, patience } => {
                if let Some(link) = self.links[stage].clone() {
                    self.probes.spawn(async move { (stage, link.lives(patience).await) });
                }
            }
            Action::Emit { token, at } => {
                self.metrics.token();
                self.tokens += 1;
                self.count(&token);
                self.client.emit(TimedToken { token, at, arrived: self.arrived });
            }
            Action::Conclude(outcome) => {
                self.client.conclude(&outcome);
                self.outcome = Some(outcome);
            }
            Action::Done { accounts } => self.accounts = accounts,
        }
    }
}

/// Dials the node that an open is for.
async fn dial(links: &Links, open: &Open, timeout: Duration) -> Result<Arc<Link>, OpenFailure> {
    let unreachable = |why: String| OpenFailure::Unreachable(why);
    let at =
        open.plan.stages.get(usize::from(open.stage)).ok_or_else(|| unreachable("no such stage".into()))?;
    let dialled = tokio::time::timeout(timeout, links.get(at.node, &[at.addr])).await;
    let dialled =
        dialled.map_err(|_| unreachable(format!("no connection within {} ms", timeout.as_millis())))?;
    dialled.map_err(|error| unreachable(error.to_string()))
}

/// Asks a stage to take part.
async fn ask(connection: &Connection, open: &Open, timeout: Duration) -> Result<Opened, OpenFailure> {
    let unreachable = |why: String| OpenFailure::Unreachable(why);
    let answer = connection
        .request(FrameKind::Open, open.encode(), timeout)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    if answer.kind != FrameKind::Refused {
        return answer.decode().map_err(|error| unreachable(error.to_string()));
    }
    let refused: Refused = answer.decode().map_err(|error| unreachable(error.to_string()))?;
    Err(OpenFailure::Refused(if refused.session == open.session {
        refused.refusal
    } else {
        Refusal::new(RefusalCode::Other, "answered for another session")
    }))
}

/// A second of progress from every stage, a whole credit of tokens, and the stages' last words.
fn report_queue(terms: &SessionTerms) -> usize {
    let stages = terms.stages().len() + terms.standbys.len();
    let signed = if terms.evidence.is_some() { SIGNED_AT_ONCE } else { 0 };
    stages * (10 + 2 + signed) + terms.credit.min(super::client::MAX_CREDIT) as usize + 8
}

/// Receipts and leaves of one stage that come together: the end of a long prompt, see `proto_attest::recorder`.
const SIGNED_AT_ONCE: usize = 24;

/// A tick that never comes.
const FAR: Duration = Duration::from_hours(1);

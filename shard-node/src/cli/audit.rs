//! `shard-node audit`: whether nodes computed what they signed for, by an answer's evidence and the weights.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use kademlia_dht::{Dht, DhtConfig, Directory as _};
use proto::tensor::NumericsClass;
use proto::{ContentHash, LayerSpan, ModelId, NodeId};
use proto_attest::Digest;
use proto_attest::audit::{AuditRate, AuditSeed};
use proto_attest::bundle::{self, MAX_BUNDLE_BYTES};
use proto_attest::calibration::{Calibration, Statistic};
use proto_attest::check::{Evidence, check};
use proto_attest::delta::{ChunkDelta, session_mean};
use proto_attest::sprt::{Decision, Sprt, SprtTerms};
use proto_attest::verdict::{Judgement, Method, Outcome};
use proto_keys::KeyRing;
use shard_node_stage::{Stage, StageShape};

use super::serve::{runtime, targets};
use super::source::{self, Source};
use super::{merged, print_line};
use crate::attest::exec_build;
use crate::audit::{AuditError, Auditor, Judge, Opened, Subject, device_name, recompute, subjects};
use crate::by_id::{Client, JOIN_PATIENCE};
use crate::clock::unix_seconds;
use crate::engine::{Engine, LoadRequest};
use crate::identity;
use crate::settings::{Checked, Settings};

/// Options of `audit`.
#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    /// An answer's evidence, as `router generate --bundle` saves it; several answers together show finer cheats
    #[arg(long = "bundle", value_name = "FILE", required = true)]
    bundles: Vec<PathBuf>,
    /// Which part of the receipts is opened, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    rate: f64,
    /// Only this node; may be given several times. By default all that took part
    #[arg(long = "node", value_name = "ID")]
    nodes: Vec<NodeId>,
    /// What honest nodes give, as `shard-node calibrate` measured it; class exact needs none
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Save the signed verdicts in this file, one in hexadecimal on each line
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Configuration file instead of layerlane/node.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AuditArgs {
    pub(super) fn checked(&self) -> Result<Checked> {
        ensure!((0.0..=1.0).contains(&self.rate), "--rate {} is no share between 0 and 1", self.rate);
        let checked = merged(self.settings.clone(), self.config.clone())?.check()?;
        checked
            .model
            .as_ref()
            .context("no model was named: give --model REF, the weights to compute with")?;
        ensure!(!checked.bootstrap.is_empty(), "no peer is named that knows the nodes: give --bootstrap");
        Ok(checked)
    }
}

/// Opened rows of one receipt.
struct Ready<'a> {
    /// Of which answer.
    answer: usize,
    subject: &'a Subject,
    challenge: Digest,
    receipt: Digest,
    opened: Opened,
}

/// What was found.
#[derive(Default)]
struct Tally {
    judged: u32,
    caught: Vec<String>,
    refused: u32,
    verdicts: Vec<String>,
    /// Of each node and span a test over its sessions.
    tests: HashMap<(NodeId, LayerSpan), Sprt>,
}

impl Tally {
    /// A session of a node and span was judged, with this mean.
    fn session(&mut self, subject: &Subject, mean: f64, calibration: Option<&Calibration>) -> Result<()> {
        let of_span = calibration.and_then(|calibration| calibration.span(subject.span));
        let Some(honest) = of_span.and_then(|span| span.honest(Statistic::SessionMean)) else {
            return Ok(());
        };
        let test = match self.tests.entry((subject.node, subject.span)) {
            Entry::Occupied(test) => test.into_mut(),
            Entry::Vacant(place) => place.insert(Sprt::new(honest, SprtTerms::STANDARD)?),
        };
        let known = test.observe(0.0) == Decision::Cheat;
        let decision = test.observe(mean);
        let usual = honest.ln_mean.exp();
        let what = format!(
            "mean delta of the session {mean:.5}, usually {usual:.5}; sequential test at {:.1} after {} sessions",
            test.ln_ratio(),
            test.chunks()
        );
        match decision {
            Decision::Cheat if !known => found(self, subject, Outcome::Fail, &what),
            _ => print_line(&format!("so far: {}: {what}", name(subject))),
        }
        Ok(())
    }
}

/// Audits; an error in the end if a node was caught.
pub(super) fn audit(engine: &dyn Engine, args: &AuditArgs, checked: &Checked) -> Result<()> {
    let mut answers = Vec::new();
    for path in &args.bundles {
        let evidence = read_evidence(path)?;
        for fault in check(&evidence).faults() {
            print_line(&format!("fault: {fault}"));
        }
        let mut subjects = subjects(&evidence)?;
        subjects.retain(|subject| args.nodes.is_empty() || args.nodes.contains(&subject.node));
        answers.push((evidence, subjects));
    }
    let all: Vec<&Subject> = answers.iter().flat_map(|(_, subjects)| subjects).collect();
    ensure!(!all.is_empty(), "none of the nodes asked for signed anything in this evidence");
    let node_key = identity::key_in(&checked.state_dir)?;
    let keys = KeyRing::open(&checked.state_dir, &node_key, unix_seconds())?;
    let (served, class) = served(answers.iter().map(|(evidence, _)| evidence))?;
    let runtime = runtime()?;
    let reference = checked.model.clone().context("read the model")?;
    let hull = hull(&all)?;
    let Source { path, span, described } = source::from_files(&runtime, &reference, Some(hull))?;
    ensure!(
        served == described.id,
        "the evidence is of model {}, {reference} is {}: name the weights that were served",
        served.short(),
        described.id.short()
    );
    let calibration = args.calibration.as_deref().map(read_calibration).transpose()?;
    let row_bytes = described.manifest.architecture.hidden as usize * class.wire_dtype().bytes();

    let mut tally = Tally::default();
    let ready =
        runtime.block_on(gather(&answers, args, checked, (&node_key, &keys), row_bytes, &mut tally))?;
    let loader = engine.loader(LoadRequest {
        checkpoint: path,
        manifest: Arc::new(described.manifest),
        span,
        class,
        device: checked.device,
        threads: checked.threads,
    });
    let mut stage = loader()?;
    let shape = StageShape { class, ..stage.shape() };
    for (index, (evidence, subjects)) in answers.iter().enumerate() {
        let judge = Judge {
            shape,
            evidence,
            calibration: calibration.as_ref().map(|(calibration, name)| (calibration, *name)),
            exec_build: exec_build(),
            key: keys.receipt(),
        };
        for subject in subjects {
            let of_it = |ready: &&Ready<'_>| ready.answer == index && std::ptr::eq(ready.subject, subject);
            let mut deltas = Vec::new();
            for ready in ready.iter().filter(of_it) {
                deltas.extend(judge_one(stage.as_mut(), &judge, ready, &mut tally)?);
            }
            let calibration = judge.calibration.map(|(calibration, _)| calibration);
            tally.session(subject, session_mean(&deltas), calibration)?;
        }
    }
    if let Some(path) = &args.verdicts {
        let text = tally.verdicts.join("\n") + "\n";
        std::fs::write(path, text).with_context(|| format!("write the verdicts {}", path.display()))?;
    }
    print_line(&format!("audited {} receipts of {} answers", tally.judged, answers.len()));
    ensure!(
        tally.refused == 0 || !tally.caught.is_empty(),
        "{} times a node did not open what it signed for",
        tally.refused
    );
    if tally.caught.is_empty() {
        return Ok(());
    }
    tally.caught.iter().for_each(|line| print_line(line));
    bail!("{} findings speak against nodes", tally.caught.len())
}

/// Has each subject open what a fresh seed chooses.
async fn gather<'a>(
    answers: &'a [(Evidence, Vec<Subject>)],
    args: &AuditArgs,
    checked: &Checked,
    (node_key, keys): (&proto::NodeKey, &KeyRing),
    row_bytes: usize,
    tally: &mut Tally,
) -> Result<Vec<Ready<'a>>> {
    let bootstrap = targets(&checked.bootstrap, checked.trust_first).await?;
    let client = Client::start(node_key, &bootstrap)?;
    let dht = Dht::start(client.endpoint.clone(), DhtConfig::client(bootstrap)).await;
    let gathered = async {
        dht.joined(JOIN_PATIENCE).await?;
        let mut ready = Vec::new();
        let subjects = answers.iter().enumerate();
        let subjects = subjects.flat_map(|(answer, (_, of_it))| of_it.iter().map(move |one| (answer, one)));
        for (answer, subject) in subjects {
            let record = dht.lookup_node(subject.node).await?;
            let addrs = record.map(|record| record.record().addresses.clone());
            let Some(addrs) = addrs else {
                print_line(&format!("unjudged: {} is not to be found", name(subject)));
                continue;
            };
            let opened = open_all(&client, subject, &addrs, (args.rate, keys), row_bytes).await;
            match opened {
                Ok(opened) => {
                    ready.extend(opened.into_iter().map(|(challenge, receipt, opened)| Ready {
                        answer,
                        subject,
                        challenge,
                        receipt,
                        opened,
                    }));
                }
                Err(error) => found(tally, subject, error.outcome(), &error.to_string()),
            }
        }
        Ok(ready)
    }
    .await;
    dht.shutdown().await;
    client.endpoint.shutdown().await;
    gathered
}

async fn open_all(
    client: &Client,
    subject: &Subject,
    addrs: &[std::net::SocketAddr],
    (rate, keys): (f64, &KeyRing),
    row_bytes: usize,
) -> Result<Vec<(Digest, Digest, Opened)>, AuditError> {
    let auditor = Auditor::connect(&client.peers, subject.node, addrs).await?;
    let mut ready = Vec::new();
    for epoch in subject.epochs() {
        let mut seed = [0; 32];
        if getrandom::fill(&mut seed).is_err() {
            return Err(AuditError::Refused("there is no randomness for a seed".into()));
        }
        let seed = (AuditSeed::from_bytes(seed), AuditRate::of_share(rate));
        let asked = auditor.ask(subject, epoch, seed, keys.receipt(), unix_seconds()).await?;
        for receipt in asked.chosen {
            match subject.work(&receipt) {
                Some(Ok(work)) => {
                    let opened = auditor.open(&work, row_bytes).await?;
                    ready.push((asked.challenge, receipt, opened));
                }
                Some(Err(error)) => print_line(&format!("unjudged: {}: {error}", name(subject))),
                None => {}
            }
        }
    }
    Ok(ready)
}

/// Judges one receipt; gives its deltas.
fn judge_one(
    stage: &mut dyn Stage,
    judge: &Judge<'_>,
    ready: &Ready<'_>,
    tally: &mut Tally,
) -> Result<Vec<ChunkDelta>> {
    let Ready { subject, challenge, receipt, opened, .. } = ready;
    let Some(Ok(work)) = subject.work(receipt) else { return Ok(Vec::new()) };
    let rows = work.receipt.receipt().rows;
    if rows.sent() == 0 {
        return Ok(Vec::new());
    }
    let exact = judge.shape.class == NumericsClass::Exact;
    let again = recompute(stage, subject.span, &opened.input, rows.sent_start..rows.end, exact)?;
    let judged = [Some(judge.rows(subject.span, opened, &again)), judge.tokens(&work, &again)];
    tally.judged += 1;
    for judgement in judged.into_iter().flatten() {
        let what = describe(&judgement, rows.sent_start..rows.end);
        found(tally, subject, judgement.outcome, &what);
        let verdict = judge.sign(
            (*challenge, subject.node),
            (subject.span, &work),
            judgement,
            &device_name(),
            unix_seconds(),
        );
        tally.verdicts.extend(verdict.map(|verdict| hex::encode(verdict.signed.encode())));
    }
    Ok(judge.deltas(opened, &again))
}

fn found(tally: &mut Tally, subject: &Subject, outcome: Outcome, what: &str) {
    print_line(&format!("{}: {}: {what}", word(outcome), name(subject)));
    // Who has forgotten its rows and who hides them look alike.
    if outcome == Outcome::RefusedToOpen {
        tally.refused += 1;
    } else if outcome.is_fault() {
        tally.caught.push(format!("caught: {}: {what}", name(subject)));
    }
}

fn name(subject: &Subject) -> String {
    format!("{} layers {}", subject.node.short(), subject.span)
}

fn describe(judgement: &Judgement, rows: std::ops::Range<u32>) -> String {
    let Judgement { method, statistic, threshold, count, .. } = *judgement;
    let place = format!("rows {}..{}", rows.start, rows.end);
    match method {
        Method::Equality => format!("{place}: {statistic} of {count} differ"),
        Method::SeededChoice => {
            format!("{place}: {statistic} of {count} tokens do not follow from the logits")
        }
        _ => format!("{place}: delta {statistic:.5}, honest at most {threshold:.5}, {count} chunks"),
    }
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "fail",
        Outcome::Borderline => "borderline",
        Outcome::Uncalibrated => "uncalibrated",
        Outcome::RefusedToOpen => "refused to open",
        Outcome::BadOpening => "opened something else",
        Outcome::Unjudged => "unjudged",
    }
}

/// The weights and the class of all answers.
fn served<'a>(all: impl Iterator<Item = &'a Evidence>) -> Result<(ModelId, NumericsClass)> {
    let of = |evidence: &Evidence| {
        let open = evidence.generations.first().map(|generation| &generation.open.open);
        open.map(|open| (open.model, open.class))
    };
    let mut served = all.filter_map(of);
    let first = served.next().context("read what was served")?;
    ensure!(served.all(|other| other == first), "the answers are of different models or classes");
    Ok(first)
}

/// The layers of all of them, with what lies between.
fn hull(chosen: &[&Subject]) -> Result<LayerSpan> {
    let start = chosen.iter().map(|subject| subject.span.start()).min().unwrap_or(0);
    let end = chosen.iter().map(|subject| subject.span.end()).max().unwrap_or(0);
    Ok(LayerSpan::new(start, end)?)
}

fn read_evidence(path: &Path) -> Result<Evidence> {
    let size = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
    ensure!(size <= MAX_BUNDLE_BYTES as u64, "{} is too long for evidence", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    bundle::read(&bytes).with_context(|| format!("read the evidence {}", path.display()))
}

fn read_calibration(path: &Path) -> Result<(Calibration, ContentHash)> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let name = ContentHash::of(&bytes);
    let calibration = Calibration::decode(&bytes, name)
        .with_context(|| format!("read the calibration {}", path.display()))?;
    Ok((calibration, name))
}

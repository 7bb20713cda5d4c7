//! `shard-node audit`: whether nodes computed what they signed for, by an answer's evidence and the weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use kademlia_dht::{Dht, DhtConfig, Directory as _};
use proto::{ContentHash, LayerSpan, NodeId};
use proto_attest::Digest;
use proto_attest::audit::{AuditRate, AuditSeed};
use proto_attest::bundle::{self, MAX_BUNDLE_BYTES};
use proto_attest::calibration::Calibration;
use proto_attest::check::{Evidence, check};
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
    /// The answer's evidence, as `router generate --bundle` saves it
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
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
    verdicts: Vec<String>,
}

/// Audits; an error in the end if a node was caught.
pub(super) fn audit(engine: &dyn Engine, args: &AuditArgs, checked: &Checked) -> Result<()> {
    let evidence = read_evidence(&args.bundle)?;
    let report = check(&evidence);
    for fault in report.faults() {
        print_line(&format!("fault: {fault}"));
    }
    let all = subjects(&evidence)?;
    let chosen: Vec<&Subject> =
        all.iter().filter(|subject| args.nodes.is_empty() || args.nodes.contains(&subject.node)).collect();
    ensure!(!chosen.is_empty(), "none of the nodes asked for signed anything in this evidence");
    let node_key = identity::key_in(&checked.state_dir)?;
    let keys = KeyRing::open(&checked.state_dir, &node_key, unix_seconds())?;
    let class = evidence.generations.first().map(|generation| generation.open.open.class);
    let class = class.context("read the class of the evidence")?;
    let runtime = runtime()?;
    let reference = checked.model.clone().context("read the model")?;
    let hull = hull(&chosen)?;
    let Source { path, span, described } = source::from_files(&runtime, &reference, Some(hull))?;
    let served = evidence.generations[0].open.open.model;
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
        runtime.block_on(gather(&chosen, args, checked, (&node_key, &keys), row_bytes, &mut tally))?;
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
    let judge = Judge {
        shape,
        evidence: &evidence,
        calibration: calibration.as_ref().map(|(calibration, name)| (calibration, *name)),
        exec_build: exec_build(),
        key: keys.receipt(),
    };
    for ready in &ready {
        judge_one(stage.as_mut(), &judge, ready, &mut tally)?;
    }
    if let Some(path) = &args.verdicts {
        let text = tally.verdicts.join("\n") + "\n";
        std::fs::write(path, text).with_context(|| format!("write the verdicts {}", path.display()))?;
    }
    print_line(&format!("audited {} receipts of {} nodes", tally.judged, chosen.len()));
    if tally.caught.is_empty() {
        return Ok(());
    }
    tally.caught.iter().for_each(|line| print_line(line));
    bail!("{} findings speak against nodes", tally.caught.len())
}

/// Has each subject open what a fresh seed chooses.
async fn gather<'a>(
    chosen: &[&'a Subject],
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
        for &subject in chosen {
            let record = dht.lookup_node(subject.node).await?;
            let addrs = record.map(|record| record.record().addresses.clone());
            let Some(addrs) = addrs else {
                print_line(&format!("unjudged: {} is not to be found", name(subject)));
                continue;
            };
            let opened = open_all(&client, subject, &addrs, (args.rate, keys), row_bytes).await;
            match opened {
                Ok(opened) => ready.extend(opened),
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

async fn open_all<'a>(
    client: &Client,
    subject: &'a Subject,
    addrs: &[std::net::SocketAddr],
    (rate, keys): (f64, &KeyRing),
    row_bytes: usize,
) -> Result<Vec<Ready<'a>>, AuditError> {
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
                    ready.push(Ready { subject, challenge: asked.challenge, receipt, opened });
                }
                Some(Err(error)) => print_line(&format!("unjudged: {}: {error}", name(subject))),
                None => {}
            }
        }
    }
    Ok(ready)
}

fn judge_one(stage: &mut dyn Stage, judge: &Judge<'_>, ready: &Ready<'_>, tally: &mut Tally) -> Result<()> {
    let Ready { subject, challenge, receipt, opened } = ready;
    let Some(Ok(work)) = subject.work(receipt) else { return Ok(()) };
    let rows = work.receipt.receipt().rows;
    if rows.sent() == 0 {
        return Ok(());
    }
    let exact = judge.shape.class == proto::tensor::NumericsClass::Exact;
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
    Ok(())
}

fn found(tally: &mut Tally, subject: &Subject, outcome: Outcome, what: &str) {
    print_line(&format!("{}: {}: {what}", word(outcome), name(subject)));
    if outcome.is_fault() {
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

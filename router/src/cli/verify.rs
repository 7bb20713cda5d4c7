//! `router verify`: an answer's evidence in one table. No network, no weights.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use proto_attest::bundle::{self, MAX_BUNDLE_BYTES};
use proto_attest::check::{Evidence, Report, Severity, check};
use serde_json::{Value, json};

use super::options::Verify;
use super::output;

pub(super) fn run(arguments: &Verify, as_json: bool) -> anyhow::Result<ExitCode> {
    let bytes = read(&arguments.file)?;
    let evidence =
        bundle::read(&bytes).with_context(|| format!("read the evidence {}", arguments.file.display()))?;
    let report = check(&evidence);
    let gaps = report.gaps().count();
    let holds = report.holds() && (gaps == 0 || !arguments.strict);
    if as_json {
        output::line(&to_json(&evidence, &report, holds).to_string())?;
    } else {
        output::line(&table(&evidence, &report))?;
        output::line(verdict(&report, gaps))?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more says that it is too long.
    let read =
        File::open(path).and_then(|file| file.take(MAX_BUNDLE_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("read {}", path.display()))?;
    Ok(bytes)
}

fn table(evidence: &Evidence, report: &Report) -> String {
    let mut lines = Vec::new();
    if let Some(open) = evidence.generations.first().map(|generation| &generation.open.open) {
        lines.push(format!("session   {} of router {}", open.session, open.router));
        lines.push(format!("model     {} in class {}", open.model, open.class));
    }
    lines.push(format!("generations {}", evidence.generations.len()));
    lines.push(format!(
        "tokens    {} of the answer, {} signed for by their tail, {} follow from their logits",
        report.tokens_delivered, report.tokens_signed, report.tokens_judged
    ));
    lines.push(format!("receipts  {} of {} hold", report.receipts_verified, report.receipts_shown));
    lines.push(String::new());
    let head = ["node", "layers", "receipts", "prompt rows", "token rows", "unused rows", "due"];
    let rows: Vec<Vec<String>> = report
        .hops
        .iter()
        .map(|hop| {
            vec![
                hop.node.short(),
                hop.span.to_string(),
                hop.receipts.to_string(),
                hop.prefill_rows.to_string(),
                hop.decode_rows.to_string(),
                hop.waste_rows.to_string(),
                hop.price_due.get().to_string(),
            ]
        })
        .collect();
    lines.push(output::table(&head, &rows));
    if !report.findings.is_empty() {
        lines.push(String::new());
    }
    lines.extend(report.findings.iter().map(|finding| format!("{}: {finding}", word(finding.severity))));
    lines.join("\n")
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Fault(_) => "fault",
        Severity::Gap => "gap",
        Severity::Note => "note",
    }
}

fn verdict(report: &Report, gaps: usize) -> &'static str {
    match (report.holds(), gaps) {
        (false, _) => "\ndoes not hold: somebody's own signature contradicts it",
        (true, 0) => {
            "\nholds: every row behind the answer is signed for, and what was sent is what was received"
        }
        (true, _) => "\nholds, with gaps: what was signed fits together, but not every row is signed for",
    }
}

fn to_json(evidence: &Evidence, report: &Report, holds: bool) -> Value {
    let hops: Vec<Value> = report
        .hops
        .iter()
        .map(|hop| {
            json!({
                "node": hop.node, "layers": hop.span, "receipts": hop.receipts,
                "prefill_rows": hop.prefill_rows, "decode_rows": hop.decode_rows, "waste_rows": hop.waste_rows,
                "price_due": hop.price_due.get().to_string(),
            })
        })
        .collect();
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| json!({"severity": word(finding.severity), "text": finding.to_string()}))
        .collect();
    json!({
        "holds": holds,
        "generations": evidence.generations.len(),
        "receipts_verified": report.receipts_verified,
        "receipts_shown": report.receipts_shown,
        "tokens_delivered": report.tokens_delivered,
        "tokens_signed": report.tokens_signed,
        "tokens_judged": report.tokens_judged,
        "guilty": report.guilty().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "hops": hops,
        "findings": findings,
    })
}

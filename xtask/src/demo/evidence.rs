//! What the nodes of the demo signed, as `router verify` finds it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Checks the evidence; says how much of it holds. Fails if somebody's signature contradicts it.
pub(super) fn verified(router: &Path, file: &Path) -> Result<String> {
    let output = Command::new(router)
        .arg("verify")
        .arg(file)
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", router.display()))?;
    let report: Value =
        serde_json::from_slice(&output.stdout).context("read the output of `router verify`")?;
    let text = line(&report);
    ensure!(
        output.status.success(),
        "{text}: the evidence does not hold: run `router verify {}`",
        file.display()
    );
    Ok(text)
}

fn line(report: &Value) -> String {
    let number = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or(0);
    format!(
        "receipts verified {}/{}; {} of {} tokens signed for by their tail",
        number("receipts_verified"),
        number("receipts_shown"),
        number("tokens_signed"),
        number("tokens_delivered"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_holds() {
        let report = serde_json::json!({
            "receipts_verified": 11, "receipts_shown": 12, "tokens_signed": 99, "tokens_delivered": 100,
        });
        assert_eq!(line(&report), "receipts verified 11/12; 99 of 100 tokens signed for by their tail");
        assert!(line(&Value::Null).starts_with("receipts verified 0/0"));
    }
}

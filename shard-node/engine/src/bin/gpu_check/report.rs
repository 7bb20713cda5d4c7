//! What the checks found: a line of JSON each, then a table and a verdict that names the device.

use serde_json::{Map, Value, json};
use shard_node_engine::DeviceChoice;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Held against a bound, and within it.
    Passed,
    /// Outside its bound.
    Failed,
    /// A figure without a bound.
    Measured,
}

/// All results of a run on one device.
#[derive(Debug)]
pub(crate) struct Report {
    device: DeviceChoice,
    lines: Vec<(String, Status, Map<String, Value>)>,
}

impl Report {
    pub(crate) fn new(device: DeviceChoice) -> Self {
        Self { device, lines: vec![] }
    }

    pub(crate) fn device(&self) -> DeviceChoice {
        self.device
    }

    /// A figure without a bound.
    pub(crate) fn figure(&mut self, check: &str, figures: &[(&str, f64)]) {
        self.add(check, Status::Measured, figures);
    }

    /// A figure that passes or fails.
    pub(crate) fn judge(&mut self, check: &str, passed: bool, figures: &[(&str, f64)]) {
        self.add(check, if passed { Status::Passed } else { Status::Failed }, figures);
    }

    fn add(&mut self, check: &str, status: Status, figures: &[(&str, f64)]) {
        let figures: Map<String, Value> =
            figures.iter().map(|&(name, value)| (name.to_owned(), json!(value))).collect();
        println!(
            "{}",
            json!({"check": check, "device": self.device.to_string(), "status": status.word(), "figures": figures})
        );
        self.lines.push((check.to_owned(), status, figures));
    }

    /// Prints the table and the verdict.
    pub(crate) fn close(self) -> Status {
        println!();
        for (check, status, figures) in &self.lines {
            let figures = figures.iter().map(|(name, value)| format!("{name} {}", short(value)));
            println!("{:8} {check:24} {}", status.word(), figures.collect::<Vec<_>>().join(", "));
        }
        let count = |wanted| self.lines.iter().filter(|(_, status, _)| *status == wanted).count();
        let (passed, failed) = (count(Status::Passed), count(Status::Failed));
        println!();
        println!("{}", verdict(self.device, passed, failed));
        if failed > 0 || passed == 0 { Status::Failed } else { Status::Passed }
    }
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "PASS",
            Self::Failed => "FAIL",
            Self::Measured => "figure",
        }
    }
}

/// The last line. A run on the CPU must not be taken for one on a GPU, whoever quotes it.
fn verdict(device: DeviceChoice, passed: usize, failed: usize) -> String {
    let word = if failed > 0 || passed == 0 { "FAIL" } else { "PASS" };
    match device {
        DeviceChoice::Cuda(_) => format!("gpu-check: {word} on {device}: {passed} passed, {failed} failed"),
        DeviceChoice::Cpu | DeviceChoice::Auto => {
            format!(
                "gpu-check: {word} of the program itself, on the CPU: {passed} passed, {failed} failed; NO GPU WAS USED"
            )
        }
    }
}

fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number == number.trunc() && number.abs() < 1e15 => format!("{number:.0}"),
        Some(number) if number.abs() >= 100.0 => format!("{number:.0}"),
        Some(number) if number.abs() >= 0.01 => format!("{number:.3}"),
        Some(number) => format!("{number:.2e}"),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_on_the_cpu_claims_no_gpu() {
        let line = verdict(DeviceChoice::Cpu, 9, 0);
        assert!(line.contains("NO GPU WAS USED") && !line.contains("cuda"), "{line}");
        assert!(verdict(DeviceChoice::Cuda(1), 9, 0).contains("PASS on cuda:1"));
    }

    #[test]
    fn nothing_checked_and_anything_failed_are_failures() {
        assert!(verdict(DeviceChoice::Cuda(0), 0, 0).contains("FAIL"));
        assert!(verdict(DeviceChoice::Cuda(0), 9, 1).contains("FAIL"));
        let mut report = Report::new(DeviceChoice::Cpu);
        report.figure("speed", &[("tokens_per_second", 1.0)]);
        assert_eq!(report.close(), Status::Failed);
        let mut report = Report::new(DeviceChoice::Cpu);
        report.judge("parity", true, &[]);
        report.judge("stages", false, &[]);
        assert_eq!(report.close(), Status::Failed);
    }
}

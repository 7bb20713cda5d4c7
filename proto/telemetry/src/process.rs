//! What the system says of this process: memory, CPU time, open files; read when somebody asks.
//!
//! Names and meanings are those of all Prometheus client libraries. It reads `/proc` and nothing else; where
//! a figure cannot be read the metric keeps its last value.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge};

use crate::{RegisterMetricError, Registry};

/// Registers `process_resident_memory_bytes`, `process_cpu_seconds_total` and `process_open_fds`.
pub fn register_process(registry: &Registry) -> Result<(), RegisterMetricError> {
    let wrap = |source| RegisterMetricError::new("process_*", source);
    let process = Process::new().map_err(wrap)?;
    registry.as_prometheus().register(Box::new(process)).map_err(wrap)
}

struct Process {
    resident: IntGauge,
    cpu: Counter,
    files: IntGauge,
}

impl Process {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            resident: IntGauge::new("process_resident_memory_bytes", "Resident memory in bytes.")?,
            cpu: Counter::new("process_cpu_seconds_total", "CPU time spent, user and system, in seconds.")?,
            files: IntGauge::new("process_open_fds", "Open file descriptors.")?,
        })
    }

    fn refresh(&self) {
        if let Some(bytes) =
            std::fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text))
        {
            self.resident.set(bytes);
        }
        if let Some(seconds) =
            std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_seconds(&text))
        {
            // Two scrapes at once may read in one order and come here in the other.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One of them is this folder.
            self.files.set(i64::try_from(files.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        [self.resident.desc(), self.cpu.desc(), self.files.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        [self.resident.collect(), self.cpu.collect(), self.files.collect()].concat()
    }
}

/// `VmRSS` of `/proc/self/status`, which is in kB.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Fields 14 and 15 of `/proc/self/stat`, in ticks. The name in field 2 may hold spaces and brackets, so
/// counting begins after the last bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Linux shows times to programs in hundredths on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_cpu_time_and_files() {
        let registry = Registry::new();
        register_process(&registry).unwrap();
        let text = registry.encode().unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0, "{text}");
        assert!(value("process_open_fds") >= 3.0 && value("process_cpu_seconds_total") >= 0.0, "{text}");
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12_288));
    }

    #[test]
    fn unreadable_text_gives_nothing() {
        assert_eq!(
            (cpu_seconds("x"), cpu_seconds("1 (x) S 1"), resident_bytes("VmRSS: many")),
            (None, None, None)
        );
    }
}

//! What a process has used so far, by the kernel's account.

use anyhow::{Context, Result};

/// What a process has used.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Usage {
    /// User and system time, seconds.
    pub(crate) cpu: f64,
    /// Resident memory, bytes.
    pub(crate) resident: f64,
}

/// From /proc, not from the time that passed.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read a process's times")?;
    // The program's name may hold spaces; the fields behind it do not.
    let (_, fields) = stat.rsplit_once(") ").context("a stat line has a name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    // Fields 14, 15 and 24 of proc(5), counted from the state, which is the third.
    let number = |index: usize| -> Result<f64> {
        fields.get(index).context("a stat line is longer")?.parse().context("read a stat line")
    };
    let cpu = (number(11)? + number(12)?) / TICKS_PER_SECOND;
    Ok(Usage { cpu, resident: number(21)? * PAGE })
}

/// `USER_HZ`, which is 100 on every Linux architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE: f64 = 4096.0;

//! What the router measured or heard of a node, beside its record. All of it optional: a record alone is enough to plan.

use proto::status::NodeStatus;

/// A node's load at the time of the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Sessions open.
    pub sessions: u32,
    /// Positions of KV that are not reserved.
    pub kv_free: u64,
    /// Median time of a decode step, microseconds; `None` if none ran.
    pub step_us: Option<u32>,
    /// Refuses new sessions.
    pub draining: bool,
}

impl From<NodeStatus> for Load {
    fn from(status: NodeStatus) -> Self {
        Self {
            sessions: status.sessions,
            kv_free: status.kv_capacity.saturating_sub(status.kv_reserved),
            step_us: (status.step_us > 0).then_some(status.step_us),
            draining: status.draining,
        }
    }
}

/// What is known of a node beyond its record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measurement {
    /// Round-trip time from the router, microseconds.
    pub rtt_us: Option<u32>,
    /// Its load.
    pub load: Option<Load>,
    /// Why it can't be used at present: a failed dial, a refusal. In words, for `explain`.
    pub unreachable: Option<String>,
    /// It is only not known to be reachable: it had not answered when others had waited long enough.
    pub late: bool,
}

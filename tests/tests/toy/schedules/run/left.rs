//! What nodes may hold while a schedule runs, and what must not be left when it is over.

use std::fmt::Write as _;
use std::time::Duration;

use shard_node::node::Node;
use tokio::time::interval;

use super::Play;
use crate::swarm::{metric, value};

impl Play {
    /// Of what is bounded, nobody holds more.
    pub(super) fn check_bounds(&self) -> Result<(), String> {
        let Some(most) = self.boundary_bytes else { return Ok(()) };
        for node in self.lock().nodes.iter().flatten() {
            let held = metric(node, "shard_node_boundary_bytes") as u64;
            if held > most {
                return Err(format!("{held} bytes of rows sent on are held, {most} may be"));
            }
        }
        Ok(())
    }

    /// Waits until nothing is left of any session, and looks what the nodes say of the time before.
    pub(super) async fn left_over(&self) {
        let mut look = interval(Duration::from_millis(100));
        while !self.open().is_empty() {
            look.tick().await;
        }
        // All metrics of a node take their time where many nodes are one process: not often.
        let mut look = interval(Duration::from_secs(1));
        while !self.kept().is_empty() {
            look.tick().await;
        }
    }

    /// Sessions that are open, in words; empty for none.
    pub(super) fn open(&self) -> String {
        let mut left = String::new();
        let driven = self.routers.iter().map(|router| router.router.driver().open_sessions()).sum::<usize>();
        if driven > 0 {
            let _ = write!(left, "{driven} sessions are driven; ");
        }
        for (number, node) in self.lock().nodes.iter().enumerate() {
            let Some(status) = node.as_ref().map(Node::status) else { continue };
            if status.sessions > 0 || status.kv_reserved > 0 {
                let (sessions, reserved) = (status.sessions, status.kv_reserved);
                let _ = write!(left, "node {number}: {sessions} sessions, {reserved} KV; ");
            }
        }
        left
    }

    /// What is kept of sessions that are over, and is of no use to others; and what must not have happened at all.
    pub(super) fn kept(&self) -> String {
        let mut left = String::new();
        for (number, node) in self.lock().nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            let metrics = node.metrics_text();
            let of = |name: &str| value(&metrics, name);
            let (parked, boundary) = (of("shard_node_kv_parked_positions"), of("shard_node_boundary_bytes"));
            // What is kept for reuse is in whole rows of all layers.
            let cached =
                of("shard_node_kv_cached_positions") * node.ready().layers.unwrap().len() as usize * 8;
            let bytes = of("shard_node_kv_bytes");
            if parked > 0 || boundary > 0 || bytes > cached {
                let _ = write!(
                    left,
                    "node {number}: {parked} parked, {boundary} bytes sent on, {bytes} bytes of KV, {cached} for \
                     reuse; "
                );
            }
            let failures = of("shard_node_step_failures_total");
            let breaches = of("shard_node_protocol_errors_total");
            if failures + breaches > 0 {
                let _ = write!(left, "node {number}: {failures} steps failed, {breaches} breaches; ");
            }
        }
        left
    }
}

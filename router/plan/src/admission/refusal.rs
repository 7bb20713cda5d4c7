//! Why a request gets no place, and when it is worth trying again.

use std::time::Duration;

use crate::route::RouteError;

/// Why a request gets no place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdmissionRefusal {
    /// As many wait as may.
    #[error("{waiting} requests wait already, which is as many as may")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// It waited in a full queue, and its tenant had more than another one who came.
    #[error("it waited for {} ms; then one of a tenant with fewer requests took its place in the full queue", .waited.as_millis())]
    Displaced {
        /// How long it waited.
        waited: Duration,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// No place became free in time.
    #[error("no place became free within {} ms", .waited.as_millis())]
    Waited {
        /// How long it waited.
        waited: Duration,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// No route, however empty the nodes.
    #[error("{source}")]
    NoRoute {
        /// Why.
        source: RouteError,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// No node that could take part has that much KV, even when empty.
    #[error("it needs {positions} positions of KV (prompt and max_tokens), the nodes have {largest} at most")]
    TooLarge {
        /// Wanted.
        positions: u32,
        /// What the largest route has when empty.
        largest: u64,
    },
    /// Nodes turned it away again and again.
    #[error("nodes turned it away {tries} times")]
    TurnedAway {
        /// How often.
        tries: u32,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// Nothing new is taken.
    #[error("the router is draining")]
    Closed,
}

impl AdmissionRefusal {
    /// When it is worth trying again; `None` if it is not, or not here.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. }
            | Self::Displaced { retry_after, .. }
            | Self::Waited { retry_after, .. }
            | Self::NoRoute { retry_after, .. }
            | Self::TurnedAway { retry_after, .. } => Some(*retry_after),
            Self::TooLarge { .. } | Self::Closed => None,
        }
    }
}

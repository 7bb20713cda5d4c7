//! Counters of an endpoint, registered once on a registry that the process passes in. Owns names and labels;
//! labels come from closed enums only.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use proto::handshake::ConnectionClass;

use crate::connection::Stats;

/// All metrics of the transport. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct TransportMetrics {
    /// `transport_connections{class,direction}`: connections that are open now. Moves when a handshake
    /// completes and when a connection ends; not during a handshake.
    connections: IntGaugeVec,
    /// `transport_connections_total{class,direction}`: connections ever opened.
    opened: IntCounterVec,
    /// `transport_closed_total{reason}`: connections that ended, by who ended them.
    closed: IntCounterVec,
    /// `transport_handshake_failures_total{direction,reason}`: handshakes that ended without a connection.
    /// Junk that is no QUIC at all never becomes a handshake and is not counted.
    handshake_failures: IntCounterVec,
    /// `transport_frames_total{class,direction}`: whole frames taken by QUIC or given to the application.
    frames: IntCounterVec,
    /// `transport_frame_bytes_total{class,direction}`: their bytes with headers, without QUIC's own.
    frame_bytes: IntCounterVec,
    /// `transport_udp_bytes_total{direction}`: bytes in UDP datagrams, all overheads and retransmissions
    /// included. Updated every few seconds and at the end of a connection.
    udp_bytes: IntCounterVec,
    /// `transport_lost_packets_total{class}`: packets we sent and declared lost. Updated like `udp_bytes`.
    lost_packets: IntCounterVec,
    /// `transport_retries_total`: dialers asked to prove their address because of many half-open handshakes.
    retries: IntCounter,
}

impl TransportMetrics {
    /// Registers everything on `registry`; fails if that was done before.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let connections = IntGaugeVec::new(
            Opts::new("transport_connections", "Connections open now"),
            &["class", "direction"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        let retries = IntCounter::new("transport_retries_total", "Dialers asked to prove their address")?;
        registry.register(Box::new(retries.clone()))?;
        Ok(Self {
            connections,
            opened: counters("transport_connections_total", "Connections opened", &["class", "direction"])?,
            closed: counters("transport_closed_total", "Connections ended", &["reason"])?,
            handshake_failures: counters(
                "transport_handshake_failures_total",
                "Handshakes that ended without a connection",
                &["direction", "reason"],
            )?,
            frames: counters("transport_frames_total", "Frames", &["class", "direction"])?,
            frame_bytes: counters(
                "transport_frame_bytes_total",
                "Bytes of frames with headers",
                &["class", "direction"],
            )?,
            udp_bytes: counters("transport_udp_bytes_total", "Bytes in UDP datagrams", &["direction"])?,
            lost_packets: counters("transport_lost_packets_total", "Packets declared lost", &["class"])?,
            retries,
        })
    }

    pub(crate) fn connection_opened(&self, class: ConnectionClass, direction: Direction) {
        let labels = [label(class), direction.label()];
        self.connections.with_label_values(&labels).inc();
        self.opened.with_label_values(&labels).inc();
    }

    pub(crate) fn connection_closed(&self, class: ConnectionClass, direction: Direction, reason: CloseKind) {
        self.connections.with_label_values(&[label(class), direction.label()]).dec();
        self.closed.with_label_values(&[reason.label()]).inc();
    }

    pub(crate) fn handshake_failed(&self, direction: Direction, reason: HandshakeFailure) {
        self.handshake_failures.with_label_values(&[direction.label(), reason.label()]).inc();
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    /// Adds what moved between two samples of one connection.
    pub(crate) fn moved(&self, class: ConnectionClass, before: &Stats, now: &Stats) {
        self.udp_bytes.with_label_values(&["sent"]).inc_by(now.sent_bytes.saturating_sub(before.sent_bytes));
        self.udp_bytes
            .with_label_values(&["received"])
            .inc_by(now.received_bytes.saturating_sub(before.received_bytes));
        self.lost_packets
            .with_label_values(&[label(class)])
            .inc_by(now.lost_packets.saturating_sub(before.lost_packets));
    }

    /// The per-frame counters of one class, looked up once per connection.
    pub(crate) fn frame_counters(&self, class: ConnectionClass) -> FrameCounters {
        let class = label(class);
        FrameCounters {
            frames_sent: self.frames.with_label_values(&[class, "sent"]),
            frames_received: self.frames.with_label_values(&[class, "received"]),
            bytes_sent: self.frame_bytes.with_label_values(&[class, "sent"]),
            bytes_received: self.frame_bytes.with_label_values(&[class, "received"]),
        }
    }
}

impl Default for TransportMetrics {
    /// Counters that nobody scrapes.
    fn default() -> Self {
        Self::new(&Registry::new()).expect("names are valid and unique on a fresh registry")
    }
}

/// The counters that move with every frame: two atomic additions.
#[derive(Clone, Debug)]
pub(crate) struct FrameCounters {
    frames_sent: IntCounter,
    frames_received: IntCounter,
    bytes_sent: IntCounter,
    bytes_received: IntCounter,
}

impl FrameCounters {
    pub(crate) fn sent(&self, bytes: usize) {
        self.frames_sent.inc();
        self.bytes_sent.inc_by(bytes as u64);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.frames_received.inc();
        self.bytes_received.inc_by(bytes as u64);
    }
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This side.
    Dialled,
    /// The peer.
    Accepted,
}

impl Direction {
    fn label(self) -> &'static str {
        match self {
            Self::Dialled => "dialled",
            Self::Accepted => "accepted",
        }
    }
}

/// Why a handshake came to nothing, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    WrongNode,
    Version,
    TimedOut,
    Refused,
    Overload,
    Other,
}

impl HandshakeFailure {
    fn label(self) -> &'static str {
        match self {
            Self::WrongNode => "wrong_node",
            Self::Version => "version",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Overload => "overload",
            Self::Other => "other",
        }
    }
}

/// How a connection ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseKind {
    Peer,
    Local,
    TimedOut,
    Reset,
    Broken,
}

impl CloseKind {
    fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Local => "local",
            Self::TimedOut => "timed_out",
            Self::Reset => "reset",
            Self::Broken => "broken",
        }
    }
}

fn label(class: ConnectionClass) -> &'static str {
    match class {
        ConnectionClass::Interactive => "interactive",
        ConnectionClass::Bulk => "bulk",
        ConnectionClass::Discovery => "discovery",
    }
}

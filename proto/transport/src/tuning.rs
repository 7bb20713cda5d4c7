//! Every number of the transport, in one struct, each with its reason. Owns no behaviour but the
//! translation into quinn's own configuration.
//!
//! A dialler's numbers and an acceptor's numbers meet as QUIC prescribes: idle timeouts take the
//! smaller of both, windows and stream counts are promises of the receiving side. The acceptor learns the
//! class only from the ALPN, so it starts every connection with the smallest promises
//! ([`Tuning::acceptor`]) and widens them when the class is known.

use std::{net::IpAddr, sync::Arc, time::Duration};

use proto::handshake::ConnectionClass;

use crate::budget::SMALL_BODY;

/// Which congestion controller a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// Cubic: fair to others and well tried. Below 0.1 % loss it fills the link.
    #[default]
    Cubic,
    /// quinn's BBR, marked experimental there. At 1 % loss over 50 ms it moved 8.1 MB/s where Cubic moved
    /// 0.4 MB/s: for links that lose packets without being full. Never with an enlarged initial window
    /// (24-28 % loss was measured).
    Bbr,
}

/// The numbers of one connection class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassTuning {
    /// A connection without a packet from the peer for this long is dead. QUIC takes the smaller of both
    /// sides and never less than three probe timeouts.
    pub idle_timeout: Duration,
    /// How often the **dialler** pings when idle; `None` lets idle connections expire. A quarter of the idle
    /// timeout, so that two lost pings in a row do not kill a connection.
    pub keep_alive: Option<Duration>,
    /// How long a dial may take, from first packet to authenticated peer. A peer that answers *nothing* is given
    /// up earlier, after `idle_timeout` (session classes: 1 s).
    pub connect_timeout: Duration,
    /// Bytes that a peer may send on one stream before we have read them.
    pub stream_window: u32,
    /// Bytes that a peer may send on all streams together before we have read them. What we have read no longer
    /// counts here: see `frame_budget`.
    pub connection_window: u32,
    /// Bytes of our own that may wait for acknowledgement; `send` waits beyond it.
    pub send_window: u32,
    /// Unidirectional streams that the peer may have open at once.
    pub uni_streams: u32,
    /// Bidirectional streams (requests) that the peer may have open at once.
    pub bi_streams: u32,
    /// Bytes of frame bodies over 256 KiB, from their header until the application has dropped them: those that
    /// arrive (as announced) and those that it holds. A peer that has more under way at once is closed with
    /// `Overload`; while the application holds too much, large frames wait unread and flow control stops the peer.
    pub frame_budget: u32,
}

impl ClassTuning {
    /// The most that one connection makes us hold of what its peer sent: unread, in large bodies, and in one small
    /// body on each stream. What the application copies, or keeps of small bodies, is the application's to bound.
    ///
    /// By default 40 MiB interactive, 58 MiB bulk, 10 MiB discovery. A hostile peer with 16 bulk connections pins
    /// 928 MiB at the worst, one address with 256 of them 14.5 GiB, and 4,096 bulk connections, from at least 16
    /// addresses, 232 GiB: more than most machines have. A process with less memory to spare must lower
    /// `max_connections`, `max_connections_per_address` or the budgets; there is no common budget of all connections.
    #[must_use]
    pub const fn most_received_bytes(&self) -> usize {
        let streams = self.uni_streams as usize + self.bi_streams as usize;
        self.connection_window as usize + self.frame_budget as usize + streams * SMALL_BODY
    }
}

/// All numbers of an endpoint. `Tuning::default()` is what the product runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Kernel socket buffers, both directions. With the usual 208 kB default even loopback loses packets
    /// while a 2 MB prefill chunk arrives; 4 MiB holds two such chunks and is what most kernels grant at most
    /// (`net.core.rmem_max`); less is accepted and logged.
    pub socket_buffer_bytes: usize,
    /// Decode frames, tokens, control.
    pub interactive: ClassTuning,
    /// Prefill chunks, weights, manifests.
    pub bulk: ClassTuning,
    /// DHT requests.
    pub discovery: ClassTuning,
    /// Congestion controller of every connection.
    pub congestion: Congestion,
    /// The assumed round-trip time before the first measurement. The first retransmission of a handshake
    /// packet comes after three times this: 333 ms (the RFC's choice) means that one lost packet costs a
    /// second; 100 ms costs 300 ms, and peers further away than 300 ms merely cause a spare packet.
    pub initial_rtt: Duration,
    /// The peer may let so many packets pass before it acknowledges (QUIC's ACK frequency extension). A receiver
    /// sends its ACK before it wakes its application, ~15 us that a frame need not wait for. Measured with 8 against
    /// the usual 1, one way on loopback, 8 KiB frames (6 packets) 1, 2 and 20 ms apart: the best of four runs went
    /// from 98 to 85, 163 to 106 and 266 to 225 us; by the median it is 16, 5 and 14 %. With 1 KiB frames nothing
    /// is clear. Below the initial window of 10
    /// packets, or every connection would begin with a stall.
    pub ack_threshold: u32,
    /// How long the peer may hold an ACK back. 10 ms instead of QUIC's 25: the loss of a frame's last packet is
    /// noticed that much sooner. Out-of-order packets are acknowledged at once.
    pub max_ack_delay: Duration,
    /// The same between processes of one machine (loopback addresses), where next to nothing is lost. Each ACK wakes
    /// the network threads of two processes, some 50 us of a core each, while stages compute: with 10 ms a token's
    /// frames are acknowledged one by one, with this eight at a time.
    pub max_ack_delay_on_this_machine: Duration,
    /// Let the kernel cut one large send into packets (GSO). Off costs twice the CPU per byte and 108 instead
    /// of 68 us per 8 KiB echo; switch off only for network cards that break it.
    pub segmentation_offload: bool,
    /// Handshakes in progress at once. By estimate, not measured, a half-open one costs about 60 kB and 1 ms of
    /// CPU, which would bound strangers to some 16 MB.
    pub max_half_open: usize,
    /// Of those, from one address (IPv6: one /64): one stranger can't take them all.
    pub max_half_open_per_address: usize,
    /// From this many half-open handshakes on, a dialler must first prove its address (QUIC retry, one more
    /// round trip), so that forged source addresses stop counting.
    pub retry_above: usize,
    /// How long the accepting side lets a handshake take. Longer than any honest dialler waits itself.
    pub handshake_timeout: Duration,
    /// Authenticated connections that wait for `accept`; when full, handshakes wait, then time out.
    pub accept_queue: usize,
    /// Accepted connections at once; more is refused. By estimate, not measured, an idle one costs 90 kB, so 370 MB
    /// at the limit; see [`ClassTuning::most_received_bytes`] for busy and hostile ones.
    pub max_connections: usize,
    /// Accepted connections from one NodeId: three classes, twice for a simultaneous reconnect, and room for
    /// a peer that restarts faster than its old discovery connections expire.
    pub max_connections_per_peer: usize,
    /// Accepted connections from one address (IPv6: one /64), whatever their keys, as keys are free: one address
    /// takes at most a sixteenth of all. Enough for some 80 nodes or routers with three classes each behind one NAT.
    /// Loopback addresses have only the common limit: whoever runs on this machine can exhaust it without us, and
    /// whole swarms run there in tests and demonstrations.
    pub max_connections_per_address: usize,
    /// How long `shutdown` waits for peers to hear of it: three probe timeouts of a 200 ms path.
    pub shutdown_timeout: Duration,
}

impl Tuning {
    /// The numbers of one class.
    #[must_use]
    pub fn class(&self, class: ConnectionClass) -> &ClassTuning {
        match class {
            ConnectionClass::Interactive => &self.interactive,
            ConnectionClass::Bulk => &self.bulk,
            ConnectionClass::Discovery => &self.discovery,
        }
    }

    /// quinn's configuration for a dial of this class to this address.
    pub(crate) fn dialler(&self, class: ConnectionClass, to: IpAddr) -> Arc<quinn::TransportConfig> {
        let class = self.class(class);
        let mut config = self.base(class, to.is_loopback());
        config.keep_alive_interval(class.keep_alive);
        Arc::new(config)
    }

    /// quinn's configuration for connections whose class is not known yet: the smallest promises and the
    /// longest idle timeout of all classes (the dialler's shorter one wins). The stream window can't be
    /// changed later, so it is the largest; the connection window bounds it.
    pub(crate) fn acceptor(&self, from_this_machine: bool) -> Arc<quinn::TransportConfig> {
        let all = [&self.interactive, &self.bulk, &self.discovery];
        let least = |number: fn(&ClassTuning) -> u32| all.map(number).into_iter().min().unwrap_or_default();
        let widest = ClassTuning {
            idle_timeout: all.map(|c| c.idle_timeout).into_iter().max().unwrap_or_default(),
            keep_alive: None,
            connect_timeout: self.handshake_timeout,
            stream_window: all.map(|c| c.stream_window).into_iter().max().unwrap_or_default(),
            connection_window: least(|c| c.connection_window),
            send_window: least(|c| c.send_window),
            uni_streams: least(|c| c.uni_streams),
            bi_streams: least(|c| c.bi_streams),
            frame_budget: least(|c| c.frame_budget),
        };
        Arc::new(self.base(&widest, from_this_machine))
    }

    fn base(&self, class: &ClassTuning, on_this_machine: bool) -> quinn::TransportConfig {
        let mut config = quinn::TransportConfig::default();
        // A timeout too long for QUIC's 62-bit milliseconds can't come from a sane Tuning: none, then.
        config.max_idle_timeout(class.idle_timeout.try_into().ok());
        config.stream_receive_window(class.stream_window.into());
        config.receive_window(class.connection_window.into());
        config.send_window(class.send_window.into());
        config.max_concurrent_uni_streams(class.uni_streams.into());
        config.max_concurrent_bidi_streams(class.bi_streams.into());
        config.initial_rtt(self.initial_rtt);
        config.enable_segmentation_offload(self.segmentation_offload);
        let mut acks = quinn::AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(self.ack_threshold.into());
        let delay = if on_this_machine { self.max_ack_delay_on_this_machine } else { self.max_ack_delay };
        acks.max_ack_delay(Some(delay));
        acks.reordering_threshold(1_u32.into());
        config.ack_frequency_config(Some(acks));
        // Unreliable datagrams are no part of our protocol; off means a peer can't fill their buffer.
        config.datagram_receive_buffer_size(None);
        // A ClientHello with a raw key has under 1 KiB; quinn's default of 16 KiB only helps strangers.
        config.crypto_buffer_size(4 << 10);
        match self.congestion {
            Congestion::Cubic => {
                config.congestion_controller_factory(Arc::new(quinn::congestion::CubicConfig::default()))
            }
            Congestion::Bbr => {
                config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()))
            }
        };
        config
    }
}

impl Default for Tuning {
    fn default() -> Self {
        // Session classes: a dead peer is seen within 1.25 s (issue: "which node and span within 1.5 s").
        // A dial may take 2 s: two lost first packets (300 ms, then 600 ms), then a retry and a handshake at
        // 200 ms round trip each. If nothing at all comes back it ends after 1 s: three first packets were lost,
        // or nobody is there, and a router does better to dial another node.
        let session = ClassTuning {
            idle_timeout: Duration::from_secs(1),
            keep_alive: Some(Duration::from_millis(250)),
            connect_timeout: Duration::from_secs(2),
            // A decode frame of 32 rows of 16 KiB is 512 KiB; four of them.
            stream_window: 2 << 20,
            connection_window: 4 << 20,
            send_window: 4 << 20,
            // docs/PROTOCOL.md 2 knows four: hop, control, report, tail return. As many again, for those that
            // replace others whose end is still on its way.
            uni_streams: 8,
            // Opens and status requests in flight; more wait at the opener. An open takes at most some dials of 1 s,
            // so a router still opens 64 sessions a second where a neighbour is dead.
            bi_streams: 64,
            // One body at the wire's limit of 16 MiB, and 2 MiB for a prompt (1 MiB) and opens beside it.
            frame_budget: 18 << 20,
        };
        Self {
            socket_buffer_bytes: 4 << 20,
            interactive: session,
            bulk: ClassTuning {
                // Four prefill chunks of 2 MB: 100 Mbit/s over 200 ms needs 2.5 MB in flight, 1 Gbit/s over
                // 50 ms 6.3 MB.
                stream_window: 8 << 20,
                connection_window: 16 << 20,
                send_window: 16 << 20,
                // Hops only, in practice one.
                uni_streams: 8,
                // Blobs, of which a fetcher asks for few at a time.
                bi_streams: 32,
                // Two bodies at the wire's limit, so that one arrives while one is computed; of the usual 2 MB
                // chunks sixteen.
                frame_budget: 32 << 20,
                ..session
            },
            discovery: ClassTuning {
                // Contacts are many and rarely used: no pings, gone after 30 s.
                idle_timeout: Duration::from_secs(30),
                keep_alive: None,
                // Records are <= 1 KiB and a page of them <= 64 KiB.
                stream_window: 256 << 10,
                connection_window: 1 << 20,
                send_window: 1 << 20,
                uni_streams: 0,
                bi_streams: 32,
                // Nothing there is large; the largest request of any class has 1 MiB.
                frame_budget: 1 << 20,
                ..session
            },
            congestion: Congestion::Cubic,
            initial_rtt: Duration::from_millis(100),
            ack_threshold: 8,
            max_ack_delay: Duration::from_millis(10),
            max_ack_delay_on_this_machine: Duration::from_millis(100),
            segmentation_offload: true,
            max_half_open: 256,
            max_half_open_per_address: 128,
            retry_above: 32,
            handshake_timeout: Duration::from_secs(3),
            accept_queue: 64,
            max_connections: 4096,
            max_connections_per_peer: 16,
            max_connections_per_address: 256,
            shutdown_timeout: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_peer_of_a_session_class_is_seen_within_the_issues_limit() {
        for class in [ConnectionClass::Interactive, ConnectionClass::Bulk] {
            let tuning = Tuning::default();
            let class = tuning.class(class);
            let keep_alive = class.keep_alive.expect("session classes ping");
            assert!(keep_alive * 4 <= class.idle_timeout);
            assert!(class.idle_timeout + keep_alive <= Duration::from_millis(1300));
        }
    }

    #[test]
    fn the_documented_worst_cases_are_those_of_the_defaults() {
        let tuning = Tuning::default();
        let mib = |class: ClassTuning| class.most_received_bytes() >> 20;
        assert_eq!([tuning.interactive, tuning.bulk, tuning.discovery].map(mib), [40, 58, 10]);
        assert_eq!(mib(tuning.bulk) * tuning.max_connections_per_peer, 928);
        assert_eq!(mib(tuning.bulk) * tuning.max_connections_per_address, 14_848);
        assert_eq!((mib(tuning.bulk) * tuning.max_connections) >> 10, 232);
    }

    #[test]
    fn every_frame_that_the_wire_allows_fits_into_a_session_classs_budget() {
        let most = proto::FrameKind::ALL.iter().map(|kind| kind.max_body()).max().unwrap_or_default();
        let tuning = Tuning::default();
        assert!(tuning.interactive.frame_budget as usize > most);
        assert!(tuning.bulk.frame_budget as usize >= 2 * most);
    }

    #[test]
    fn no_stream_may_fill_more_than_its_connection() {
        let tuning = Tuning::default();
        for class in [tuning.interactive, tuning.bulk, tuning.discovery] {
            assert!(class.stream_window <= class.connection_window);
        }
    }
}

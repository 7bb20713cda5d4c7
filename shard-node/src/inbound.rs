//! What others want of this node: connections that they dialled, and the streams on them.
//!
//! Each connection has one task, each of its streams another one beneath it; the transport bounds both. A stream is
//! told by the kind of its first frame. A peer that breaks the protocol loses the connection.

mod requests;
mod streams;

use std::sync::Arc;

use proto::NodeId;
use proto::handshake::ConnectionClass;
use proto::status::CloseCode;
use proto_transport::{Closed, Connection, Endpoint};
use shard_node_stage::StageShape;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attest::Notary;
use crate::blobs::Blobs;
use crate::compute::{Command, ComputeHandle};
use crate::discovery::DhtService;
use crate::grammar::Grammars;
use crate::links::{LinkIds, Links, ReportLink};
use crate::metrics::NodeMetrics;
use crate::session::Admission;
use crate::session::table::LinkId;

/// What the streams of a serving node need. A bootstrap node has no [`Serving`] part.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) dht: DhtService,
    pub(crate) serving: Option<Serving>,
    pub(crate) metrics: NodeMetrics,
    pub(crate) tasks: TaskTracker,
    pub(crate) most_connections: usize,
}

/// The part of a node that holds a stage.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) compute: ComputeHandle,
    pub(crate) notary: Option<Notary>,
    pub(crate) links: Arc<Links>,
    pub(crate) ids: LinkIds,
    pub(crate) blobs: Blobs,
    pub(crate) grammars: Grammars,
    pub(crate) admission: Admission,
    pub(crate) shape: StageShape,
    /// For report streams, which outlive the streams that they answer.
    pub(crate) writers: TaskTracker,
    /// Dials to nodes that stand by, see [`STANDBY_DIALS`].
    pub(crate) standby_dials: Arc<Semaphore>,
}

/// A peer broke the protocol; its connection was closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Recv(#[from] proto_transport::RecvError),
    #[error(transparent)]
    Send(#[from] proto_transport::SendError),
    #[error(transparent)]
    Decode(#[from] proto::DecodeError),
    #[error("{0}")]
    Protocol(&'static str),
}

impl StreamError {
    const fn breaks_protocol(&self) -> bool {
        matches!(
            self,
            Self::Decode(_)
                | Self::Protocol(_)
                | Self::Recv(proto_transport::RecvError::Frame(_) | proto_transport::RecvError::Truncated)
        )
    }
}

/// One connection that a peer dialled.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) id: LinkId,
    /// Prefill frames of this connection that the compute thread has not consumed: with none left the stream is not
    /// read, and QUIC's flow control stops the sender.
    pub(crate) prefill: Arc<Semaphore>,
}

impl Inbound {
    /// Accepts until the endpoint shuts down or `stop` is cancelled.
    pub(crate) async fn accept(self: Arc<Self>, endpoint: Endpoint, stop: CancellationToken) {
        loop {
            let connection = tokio::select! {
                () = stop.cancelled() => return,
                next = endpoint.accept() => match next {
                    Some(connection) => connection,
                    None => return,
                },
            };
            if self.tasks.len() >= self.most_connections {
                self.metrics.connections_refused.inc();
                connection.close(CloseCode::Overload, "too many connections");
                continue;
            }
            let (inbound, stop) = (self.clone(), stop.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = inbound.serve(connection) => {}
                }
            });
        }
    }

    /// Serves one connection to its end.
    async fn serve(self: Arc<Self>, connection: Connection) {
        let id = self.serving.as_ref().map_or(LinkId(0), |serving| serving.ids.next());
        let peer = Arc::new(Peer { id, prefill: Arc::new(Semaphore::new(PREFILL_FRAMES)), connection });
        let sessions = peer.connection.class().carries_sessions();
        if let Some(serving) = self.serving.as_ref().filter(|_| sessions)
            && peer.connection.class() == ConnectionClass::Interactive
        {
            let reports = ReportLink::start(id, &peer.connection, &serving.writers);
            serving.compute.send(Command::PeerUp { peer: peer.connection.peer(), reports }).await;
        }
        let closed = self.clone().streams(&peer).await;
        if let Some(serving) = self.serving.as_ref().filter(|_| sessions) {
            let broken = !matches!(closed, Closed::ByPeer { code: CloseCode::Finished, .. });
            let peer = peer.connection.peer();
            serving.compute.send(Command::PeerDown { peer, link: id, broken }).await;
        }
    }

    async fn streams(self: Arc<Self>, peer: &Arc<Peer>) -> Closed {
        // Bounded by the streams that the transport lets a peer have open. Dropped, it ends them all.
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                uni = peer.connection.accept_uni() => match uni {
                    Ok(stream) => {
                        let (inbound, peer) = (self.clone(), peer.clone());
                        streams.spawn(async move {
                            let ended = inbound.uni(&peer, stream).await;
                            inbound.judge(&peer, ended);
                        });
                    }
                    Err(closed) => return closed,
                },
                bi = peer.connection.accept_bi() => match bi {
                    Ok((send, receive)) => {
                        let (inbound, peer) = (self.clone(), peer.clone());
                        streams.spawn(async move {
                            let ended = inbound.request(&peer, send, receive).await;
                            inbound.judge(&peer, ended);
                        });
                    }
                    Err(closed) => return closed,
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }

    fn judge(&self, peer: &Peer, ended: Result<(), StreamError>) {
        let Err(error) = ended else { return };
        if error.breaks_protocol() {
            self.metrics.protocol_errors.inc();
            let node = peer.connection.peer();
            tracing::warn!(peer = %short(node), %error, "connection closed: the peer broke the protocol");
            peer.connection.close(CloseCode::Protocol, &error.to_string());
        } else {
            tracing::debug!(peer = %short(peer.connection.peer()), %error, "stream ended");
        }
    }
}

fn short(node: NodeId) -> String {
    node.short()
}

/// Dials at once to nodes that stand by. A dead one holds its place for a second; links are shared by sessions.
pub(crate) const STANDBY_DIALS: usize = 32;

/// Prefill frames of one connection given to the compute thread and not consumed yet: one being computed, one ready, two
/// on their way. Their memory is bounded by bytes, not by this: large bodies, arriving and held together, have the
/// connection's budget in the transport (`ClassTuning::frame_budget`, 32 MiB on bulk: the usual chunks of 2 MB never
/// come near it), and each other stream waits with at most one body of 256 KiB in hand.
const PREFILL_FRAMES: usize = 4;

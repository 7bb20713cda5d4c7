//! Streams in one direction: control from routers, rows and tokens from other stages.

use std::time::Duration;

use proto::activation::Activations;
use proto::attest::Attest;
use proto::handshake::ConnectionClass;
use proto::session::{Close, Credit, Follow, Sampled, Tokens};
use proto::{FrameKind, Generation, NodeId, SessionId};
use proto_transport::{FrameReceiver, RawFrame};

use super::requests::DIAL;
use super::{Inbound, Peer, Serving, StreamError};
use crate::attest::Job;
use crate::clock::unix_nanos;
use crate::compute::Command;
use crate::links::LinkKind;
use crate::session::{Arrival, Event, Hold, SessionKey};
use crate::transit::TransitClock;

impl Inbound {
    /// Reads a stream to its end. Its first frame decides what it is; other kinds on it break the protocol.
    pub(super) async fn uni(&self, peer: &Peer, mut stream: FrameReceiver) -> Result<(), StreamError> {
        let Some(first) = stream.recv().await? else { return Ok(()) };
        let Some(serving) = &self.serving else {
            return Err(StreamError::Protocol("a session stream to a node without a stage"));
        };
        let class = peer.connection.class();
        match first.kind {
            FrameKind::Activations if class.carries_sessions() => serving.hop(peer, stream, first).await,
            FrameKind::Tokens
            | FrameKind::Credit
            | FrameKind::Close
            | FrameKind::Follow
            | FrameKind::Attest
                if class == ConnectionClass::Interactive =>
            {
                serving.control(peer, stream, first).await
            }
            FrameKind::Sampled if class == ConnectionClass::Interactive => {
                serving.tail_return(peer, stream, first).await
            }
            _ => Err(StreamError::Protocol("a stream that begins with a frame of a wrong kind")),
        }
    }
}

impl Serving {
    async fn control(
        &self,
        peer: &Peer,
        mut stream: FrameReceiver,
        first: RawFrame,
    ) -> Result<(), StreamError> {
        let mut next = Some(first);
        while let Some(frame) = next {
            if frame.kind == FrameKind::Follow {
                self.follow(peer.connection.peer(), frame.decode()?);
                next = stream.recv().await?;
                continue;
            }
            if frame.kind == FrameKind::Attest {
                let attest: Attest = frame.decode()?;
                if let Some(notary) = &self.notary {
                    let router = peer.connection.peer();
                    notary.ask(Job::Asked { router, attest: Box::new(attest) }).await;
                }
                next = stream.recv().await?;
                continue;
            }
            let (session, generation, event) = control_event(&frame)?;
            let key = SessionKey { router: peer.connection.peer(), session };
            self.compute.send(Command::Control { key, generation, event }).await;
            next = stream.recv().await?;
        }
        Ok(())
    }

    /// Dials whoever stands by, beside the stream: other sessions' frames must not wait for it. One that can't be
    /// reached does not stand by; its router sees that it does not get on.
    fn follow(&self, router: NodeId, Follow { session, generation, standby, from }: Follow) {
        let Ok(dialling) = self.standby_dials.clone().try_acquire_owned() else { return };
        let (links, compute) = (self.links.clone(), self.compute.clone());
        self.writers.spawn(async move {
            let dialled = tokio::time::timeout(DIAL, links.link(&standby, LinkKind::Hop)).await;
            drop(dialling);
            match dialled {
                Ok(Ok(link)) => {
                    let key = SessionKey { router, session };
                    compute.send(Command::Follow { key, generation, link, from }).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(node = %standby.node.short(), %error, "standby not reached");
                }
                Err(_) => tracing::debug!(node = %standby.node.short(), "standby not reached in time"),
            }
        });
    }

    async fn hop(&self, peer: &Peer, mut stream: FrameReceiver, first: RawFrame) -> Result<(), StreamError> {
        let same_machine = peer.connection.remote_addr().ip().is_loopback();
        let mut transit = TransitClock::default();
        let mut next = Some(first);
        while let Some(raw) = next {
            let (received, received_ns) = (now(), unix_nanos());
            let frame: Activations = raw.decode()?;
            if frame.hidden != self.shape.hidden || frame.dtype != self.shape.class.wire_dtype() {
                return Err(StreamError::Protocol("rows of another width or type than this stage takes"));
            }
            let rtt = if same_machine { Duration::ZERO } else { peer.connection.stats().min_rtt };
            let under_way = transit.under_way(frame.sent_unix_ns, received_ns, same_machine, rtt);
            let arrival = Arrival { received, under_way: Some(under_way) };
            let hold = if frame.groups.iter().any(|group| group.prefill) {
                let permit = peer.prefill.clone().acquire_owned().await;
                // Fails only on a closed semaphore; ours is never closed.
                permit.ok().map(Hold::new)
            } else {
                None
            };
            let feeder = peer.connection.peer();
            self.compute.send(Command::Rows { feeder, link: peer.id, frame, arrival, hold }).await;
            next = stream.recv().await?;
        }
        Ok(())
    }

    async fn tail_return(
        &self,
        peer: &Peer,
        mut stream: FrameReceiver,
        first: RawFrame,
    ) -> Result<(), StreamError> {
        let mut next = Some(first);
        while let Some(raw) = next {
            let sampled: Sampled = raw.decode()?;
            // The frame carries no time: half the round trip stands for its way.
            let under_way = Some(peer.connection.stats().min_rtt / 2);
            let arrival = Arrival { received: now(), under_way };
            let feeder = peer.connection.peer();
            self.compute.send(Command::Sampled { feeder, link: peer.id, sampled, arrival }).await;
            next = stream.recv().await?;
        }
        Ok(())
    }
}

fn control_event(frame: &RawFrame) -> Result<(SessionId, Generation, Event<'static>), StreamError> {
    match frame.kind {
        FrameKind::Tokens => {
            let Tokens { session, generation, start, tokens } = frame.decode()?;
            Ok((session, generation, Event::Tokens { start, tokens }))
        }
        FrameKind::Credit => {
            let Credit { session, generation, run_until } = frame.decode()?;
            Ok((session, generation, Event::Credit { run_until }))
        }
        FrameKind::Close => {
            let Close { session, generation, code } = frame.decode()?;
            Ok((session, generation, Event::Close(code)))
        }
        _ => Err(StreamError::Protocol("a frame on a control stream that is no control frame")),
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

//! Streams in both directions: one request, one answer.

use std::time::Duration;

use proto::attest::{Keys, KeysRequest};
use proto::audit::Challenged;
use proto::session::{Open, Opened, Refused};
use proto::status::{CloseCode, Fetch, Refusal, RefusalCode, StatusRequest};
use proto::{Added, FrameKind, NodeId};
use proto_transport::{FrameReceiver, FrameSender, RawFrame};
use tokio::sync::oneshot;

use super::{Inbound, Peer, Serving, StreamError};
use crate::attest::Job;
use crate::blobs;
use crate::compute::Command;
use crate::links::LinkKind;
use crate::session::Terms;

impl Inbound {
    /// Answers one request.
    pub(super) async fn request(
        &self,
        peer: &Peer,
        mut send: FrameSender,
        mut receive: FrameReceiver,
    ) -> Result<(), StreamError> {
        let Some(frame) = receive.recv().await? else { return Ok(()) };
        let class = peer.connection.class();
        match (frame.kind, &self.serving) {
            (FrameKind::Open, Some(serving)) if class.carries_sessions() => {
                let open: Open = frame.decode()?;
                let (session, generation, digest) = (open.session, open.generation, open.plan.digest());
                match serving.open(peer.connection.peer(), open).await {
                    Ok(reusable) => {
                        let reusable = Added(reusable);
                        send.send_message(&Opened { session, generation, digest, reusable }).await?;
                    }
                    Err(refusal) => {
                        tracing::info!(%session, router = %peer.connection.peer().short(), %refusal, "session refused");
                        send.send_message(&Refused { session, refusal }).await?;
                    }
                }
            }
            (FrameKind::Fetch, Some(serving)) => {
                let fetch: Fetch = frame.decode()?;
                serving.blobs.answer(fetch.hash, &mut send).await?;
            }
            (FrameKind::StatusRequest, Some(serving)) => {
                let StatusRequest = frame.decode()?;
                send.send_message(&serving.compute.status()).await?;
            }
            (FrameKind::KeysRequest, Some(serving)) => {
                let KeysRequest = frame.decode()?;
                let binding = serving.notary.as_ref().map(|notary| notary.binding().to_vec());
                send.send_message(&Keys { binding: binding.unwrap_or_default() }).await?;
            }
            (FrameKind::AuditRequest | FrameKind::Challenge | FrameKind::OpenRows, Some(serving)) => {
                serving.audit(peer.connection.peer(), &frame, &mut send).await?;
            }
            (kind, _) if self.dht.serves(kind) => {
                let Some(answer) = self.dht.answer(&peer.connection, &frame) else {
                    send.reset(CloseCode::Overload);
                    return Ok(());
                };
                send.send(answer.kind, answer.body).await?;
            }
            (kind, _) => {
                tracing::debug!(peer = %peer.connection.peer().short(), %kind, "request not served here");
                send.reset(CloseCode::Protocol);
                return Err(StreamError::Protocol("a request that this node does not serve"));
            }
        }
        send.finish();
        Ok(())
    }
}

impl Serving {
    /// Reserves, dials the neighbour, attaches: after `Ok` the stage is ready for the session's first row, and holds so
    /// many of the prompt's rows.
    async fn open(&self, router: NodeId, open: Open) -> Result<u32, Refusal> {
        if *open.service.further.resume.role.attested && self.notary.is_none() {
            return Err(Refusal::new(RefusalCode::Other, "this node signs no receipts"));
        }
        let gone = || Refusal::new(RefusalCode::Draining, "the compute thread has ended");
        let shape = match (&open.tail, &open.service.further.answer.grammar) {
            (Some(tail), Some(grammar)) => {
                // Nothing is compiled for a session that can't be opened anyway.
                self.admission.check(router, &open)?;
                // `generated` is at most the history's length: checked when the message was decoded.
                let generated = tail.history[tail.history.len() - tail.generated as usize..].to_vec();
                Some(self.grammars.begin(grammar.clone(), generated).await?)
            }
            _ => None,
        };
        let (reply, admitted) = oneshot::channel();
        self.compute.send(Command::Open { router, open: Box::new(open), shape, reply }).await;
        let terms = admitted.await.map_err(|_| gone())??;
        let Err(refusal) = self.connect(&terms).await else { return Ok(terms.reusable) };
        let Terms { key, generation, .. } = terms;
        self.compute.send(Command::Withdraw { key, generation }).await;
        Err(refusal)
    }

    /// Answers an auditor. A node that signs nothing knows no epoch.
    async fn audit(
        &self,
        auditor: NodeId,
        frame: &RawFrame,
        send: &mut FrameSender,
    ) -> Result<(), StreamError> {
        let notary = self.notary.as_ref();
        match frame.kind {
            FrameKind::AuditRequest => {
                let request = frame.decode()?;
                let batch = match notary {
                    Some(notary) => notary.answer(|reply| Job::Audit { auditor, request, reply }).await,
                    None => None,
                };
                send.send_message(&batch.unwrap_or_default()).await?;
            }
            FrameKind::Challenge => {
                let challenge = Box::new(frame.decode()?);
                let answer = match notary {
                    Some(notary) => notary.answer(|reply| Job::Challenge { auditor, challenge, reply }).await,
                    None => None,
                };
                let gone = || Challenged { refusal: "this node signs nothing, or is leaving".into() };
                send.send_message(&answer.unwrap_or_else(gone)).await?;
            }
            _ => {
                let rows = frame.decode()?;
                let opened = match notary {
                    Some(notary) => notary.answer(|reply| Job::OpenRows { auditor, rows, reply }).await,
                    None => None,
                };
                blobs::send(opened.flatten(), send).await?;
            }
        }
        Ok(())
    }

    async fn connect(&self, terms: &Terms) -> Result<(), Refusal> {
        let (to, kind) = match (&terms.downstream, &terms.return_to) {
            (Some(next), _) => (next, LinkKind::Hop),
            (None, Some(first)) => (first, LinkKind::TailReturn),
            (None, None) => return Ok(()),
        };
        let unreachable = |why: String| {
            let detail = format!("node {} at {}: {why}", to.node.short(), to.addr);
            Refusal::new(RefusalCode::HopUnreachable, detail)
        };
        let link = tokio::time::timeout(DIAL, self.links.link(to, kind))
            .await
            .map_err(|_| unreachable(format!("no connection within {} ms", DIAL.as_millis())))?
            .map_err(|error| unreachable(error.to_string()))?;
        let (reply, attached) = oneshot::channel();
        let Terms { key, generation, .. } = *terms;
        let attach = Command::Attach { key, generation, link: link.clone(), reply };
        self.compute.send(attach).await;
        match attached.await {
            Ok(true) => Ok(()),
            _ if !link.is_alive() => Err(unreachable("lost again".into())),
            _ => Err(Refusal::new(RefusalCode::Stale, "closed while it was being opened")),
        }
    }
}

/// `docs/PROTOCOL.md` 3.1.
pub(super) const DIAL: Duration = Duration::from_secs(1);

//! One node's interactive connection: the control stream out, the report streams in, shared by all sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::session::{Ended, Failed, Progress, Sampled};
use proto::status::CloseCode;
use proto::{FrameKind, Message, SessionId};
use proto_transport::{Closed, Connection, FrameReceiver, RawFrame, StreamPriority};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::losses::Losses;
use crate::session::{Control, Report};

/// Control frames that wait for the connection. A session has a handful under way; a thousand mean that the peer
/// does not read.
const CONTROL_QUEUE: usize = 1024;

/// A shared connection to one node.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    control: mpsc::Sender<(FrameKind, Bytes)>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    inboxes: HashMap<SessionId, Inbox>,
    /// Why the connection is gone.
    lost: Option<String>,
}

/// Where one session takes this node's reports.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    pub(super) stage: usize,
    pub(super) reports: mpsc::Sender<(usize, Report)>,
    pub(super) losses: Arc<Losses>,
}

/// The control stream's queue, until the link's task takes it.
#[derive(Debug)]
pub(super) struct ControlQueue(mpsc::Receiver<(FrameKind, Bytes)>);

impl Link {
    pub(super) fn new(connection: Connection) -> (Arc<Self>, ControlQueue) {
        let (control, queue) = mpsc::channel(CONTROL_QUEUE);
        (Arc::new(Self { connection, control, sessions: Mutex::default() }), ControlQueue(queue))
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().lost.is_none() && self.connection.close_reason().is_none()
    }

    /// Lets a session hear this node's reports.
    pub(super) fn join(&self, session: SessionId, inbox: Inbox) {
        let mut sessions = self.lock();
        if let Some(why) = &sessions.lost {
            inbox.losses.report(inbox.stage, why.clone());
        }
        sessions.inboxes.insert(session, inbox);
    }

    pub(super) fn leave(&self, session: SessionId) {
        self.lock().inboxes.remove(&session);
    }

    /// Queues a control frame; does not wait. A full queue ends the connection.
    pub(super) fn send(&self, frame: &Control) {
        let (kind, body) = match frame {
            Control::Tokens(tokens) => (FrameKind::Tokens, tokens.encode()),
            Control::Credit(credit) => (FrameKind::Credit, credit.encode()),
            Control::Close(close) => (FrameKind::Close, close.encode()),
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.control.try_send((kind, body)) {
            self.connection.close(CloseCode::Overload, "control stream does not drain");
        }
    }

    /// Moves frames until the connection ends, then tells every session why.
    pub(super) async fn run(self: Arc<Self>, queue: ControlQueue, cancel: CancellationToken) {
        let why = tokio::select! {
            closed = self.connection.closed() => closed.to_string(),
            why = self.send_control(queue) => why,
            why = Arc::clone(&self).receive_reports() => why,
            () = cancel.cancelled() => "this router is shutting down".into(),
        };
        let why = match self.connection.close_reason() {
            Some(Closed::Locally) | None => why,
            Some(closed) => closed.to_string(),
        };
        self.connection.close(CloseCode::Finished, "");
        let mut sessions = self.lock();
        for inbox in sessions.inboxes.values() {
            inbox.losses.report(inbox.stage, why.clone());
        }
        sessions.lost = Some(why);
    }

    async fn send_control(&self, mut queue: ControlQueue) -> String {
        let mut stream = match self.connection.open_uni().await {
            Ok(stream) => stream,
            Err(closed) => return closed.to_string(),
        };
        stream.set_priority(StreamPriority::High);
        while let Some((kind, body)) = queue.0.recv().await {
            if let Err(error) = stream.send(kind, body).await {
                return error.to_string();
            }
        }
        // The queue's sender is part of `self`.
        std::future::pending().await
    }

    async fn receive_reports(self: Arc<Self>) -> String {
        // Bounded by the streams that the transport lets a peer have open.
        let mut readers = JoinSet::new();
        loop {
            tokio::select! {
                stream = self.connection.accept_uni() => match stream {
                    Ok(stream) => drop(readers.spawn(Arc::clone(&self).read(stream))),
                    Err(closed) => return closed.to_string(),
                },
                Some(read) = readers.join_next() => match read {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => return why,
                    Err(panicked) => return panicked.to_string(),
                },
            }
        }
    }

    /// Reads one report stream to its end. An error means that the connection is of no more use.
    async fn read(self: Arc<Self>, mut stream: FrameReceiver) -> Result<(), String> {
        while let Some(frame) = stream.recv().await.map_err(|error| error.to_string())? {
            self.dispatch(&frame).map_err(|what| {
                self.connection.close(CloseCode::Protocol, &what);
                format!("it broke the protocol: {what}")
            })?;
        }
        Ok(())
    }

    fn dispatch(&self, frame: &RawFrame) -> Result<(), String> {
        let bad = |error: proto::DecodeError| error.to_string();
        let (session, report) = match frame.kind {
            FrameKind::Sampled => {
                let sampled: Sampled = frame.decode().map_err(bad)?;
                (sampled.session, Report::Sampled(sampled))
            }
            FrameKind::Progress => {
                let progress: Progress = frame.decode().map_err(bad)?;
                (progress.session, Report::Progress(progress))
            }
            FrameKind::Failed => {
                let failed: Failed = frame.decode().map_err(bad)?;
                (failed.session, Report::Failed(failed))
            }
            FrameKind::Ended => {
                let ended: Ended = frame.decode().map_err(bad)?;
                (ended.session, Report::Ended(ended))
            }
            kind => return Err(format!("a {kind} frame has no place on a report stream")),
        };
        // Reports of sessions that are over arrive late; nobody wants them.
        if let Some(inbox) = self.lock().inboxes.get(&session) {
            let optional = matches!(report, Report::Progress(_));
            if inbox.reports.try_send((inbox.stage, report)).is_err() && !optional {
                inbox.losses.report(inbox.stage, "it reported more than its session can have".into());
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Every change under the lock is one map operation.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

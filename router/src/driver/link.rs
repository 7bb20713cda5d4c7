//! One node's interactive connection: the control stream out, the report streams in, shared by all sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::attest::{Acknowledged, Keys, KeysRequest, Receipt, SentRows};
use proto::session::{Ended, Failed, Progress, Sampled};
use proto::status::{CloseCode, NodeStatus, StatusRequest};
use proto::{FrameKind, Generation, Message, SessionId};
use proto_attest::keys::{BindingError, SignedBinding, VerifiedBinding};
use proto_transport::{Closed, Connection, FrameReceiver, RawFrame, RecvError, SendError, StreamPriority};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::losses::Losses;
use crate::clock::unix_seconds;
use crate::session::{Control, Report, Signed};

/// Control frames that wait for the connection. A session has a handful under way; a thousand mean that the peer
/// does not read.
const CONTROL_QUEUE: usize = 1024;

/// Timers fire within milliseconds: one that is this late means that the router's process did not run.
const OWN_SLEEP: Duration = Duration::from_millis(100);

/// A shared connection to one node.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    control: mpsc::Sender<(FrameKind, Bytes)>,
    sessions: Mutex<Sessions>,
    /// Why we ended the connection, if we did.
    broken: OnceLock<String>,
    /// When it last answered whether it lives, or did not, and which.
    probed: tokio::sync::Mutex<Option<(Instant, Duration, bool)>>,
    /// The keys that it signs with, once it was asked; `None` if it signs nothing.
    binding: OnceCell<Option<VerifiedBinding>>,
}

#[derive(Debug, Default)]
struct Sessions {
    /// A session's generations overlap: the older one still waits for its accounts.
    inboxes: HashMap<(SessionId, Generation), Inbox>,
    /// Why the connection is gone.
    lost: Option<String>,
}

/// Where one session takes this node's reports.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    pub(super) stage: usize,
    pub(super) reports: mpsc::Sender<Arrived>,
    pub(super) losses: Arc<Losses>,
}

/// A report with its sender and the time its frame was there.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) stage: usize,
    pub(super) report: Report,
    pub(super) at: Instant,
}

/// The control stream's queue, until the link's task takes it.
#[derive(Debug)]
pub(super) struct ControlQueue(mpsc::Receiver<(FrameKind, Bytes)>);

impl Link {
    pub(super) fn new(connection: Connection) -> (Arc<Self>, ControlQueue) {
        let (control, queue) = mpsc::channel(CONTROL_QUEUE);
        let link = Self {
            connection,
            control,
            sessions: Mutex::default(),
            broken: OnceLock::new(),
            probed: tokio::sync::Mutex::default(),
            binding: OnceCell::new(),
        };
        (Arc::new(link), ControlQueue(queue))
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether the node answers, within `patience` and twice the round trip. Sessions that ask at the same time share
    /// the answer.
    pub(super) async fn lives(&self, patience: Duration) -> bool {
        let asked = Instant::now();
        let mut probed = self.probed.lock().await;
        // Who waits longer does not take the word of one that waited less.
        if let Some((at, waited, alive)) = *probed
            && at >= asked
            && (alive || waited >= patience)
        {
            return alive;
        }
        let (begun, waited) = (Instant::now(), patience);
        let patience = patience + self.connection.rtt() * 2;
        let alive = self.connection.request_message(&StatusRequest, patience).await;
        // A router that slept itself knows nothing of the node.
        let slept = begun.elapsed() > patience + OWN_SLEEP;
        let alive = alive.map(|NodeStatus { .. }| ()).is_ok() || slept;
        *probed = Some((Instant::now(), waited, alive));
        alive
    }

    /// The keys that the node signs with, asked for once.
    pub(super) async fn binding(&self) -> Option<VerifiedBinding> {
        let known = self.binding.get_or_try_init(|| async {
            let Keys { binding } = self.connection.request_message(&KeysRequest, KEYS).await?;
            let peer = self.connection.peer();
            let checked = check_binding(&binding)
                .map(|binding| binding.filter(|binding| binding.binding().node == peer));
            if let Err(error) = &checked {
                tracing::warn!(node = %peer.short(), %error, "what it signs is not counted");
            }
            Ok::<_, proto_transport::RequestError>(checked.unwrap_or_default())
        });
        let holds = |binding: &VerifiedBinding| binding.binding().expires_unix_s > unix_seconds();
        known.await.ok().copied().flatten().filter(holds)
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().lost.is_none() && self.connection.close_reason().is_none()
    }

    /// Lets a session hear this node's reports.
    pub(super) fn join(&self, session: (SessionId, Generation), inbox: Inbox) {
        let mut sessions = self.lock();
        if let Some(why) = &sessions.lost {
            inbox.losses.report(inbox.stage, why.clone());
        }
        sessions.inboxes.insert(session, inbox);
    }

    pub(super) fn leave(&self, session: (SessionId, Generation)) {
        self.lock().inboxes.remove(&session);
    }

    /// Queues a control frame; does not wait. A full queue ends the connection.
    pub(super) fn send(&self, frame: &Control) {
        let (kind, body) = match frame {
            Control::Tokens(tokens) => (FrameKind::Tokens, tokens.encode()),
            Control::Credit(credit) => (FrameKind::Credit, credit.encode()),
            Control::Close(close) => (FrameKind::Close, close.encode()),
            Control::Follow(follow) => (FrameKind::Follow, follow.encode()),
            Control::Attest(attest) => (FrameKind::Attest, attest.encode()),
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.control.try_send((kind, body)) {
            self.give_up(CloseCode::Overload, "it does not read its control stream");
        }
    }

    /// Moves frames until the connection ends, then tells every session why.
    pub(super) async fn run(self: Arc<Self>, queue: ControlQueue, cancel: CancellationToken) {
        tokio::select! {
            () = Arc::clone(&self).receive_reports() => {}
            () = self.send_control(queue) => {}
            () = cancel.cancelled() => {}
        }
        let why = match (self.broken.get(), self.connection.close_reason()) {
            (Some(why), _) => why.clone(),
            (None, Some(Closed::Locally) | None) => "closed by this router".into(),
            (None, Some(closed)) => closed.to_string(),
        };
        self.connection.close(CloseCode::Finished, "");
        let mut sessions = self.lock();
        for inbox in sessions.inboxes.values() {
            inbox.losses.report(inbox.stage, why.clone());
        }
        sessions.lost = Some(why);
    }

    /// Returns when the peer does not want the control stream any more.
    async fn send_control(&self, mut queue: ControlQueue) {
        if let Ok(mut stream) = self.connection.open_uni().await {
            stream.set_priority(StreamPriority::High);
            while let Some((kind, body)) = queue.0.recv().await {
                if let Err(error) = stream.send(kind, body).await {
                    if !matches!(error, SendError::Connection(_)) {
                        self.give_up(CloseCode::Protocol, &error.to_string());
                        return;
                    }
                    break;
                }
            }
        }
        // The connection is gone, which the other half notices and says why.
        std::future::pending::<()>().await;
    }

    /// Returns when the connection is of no more use.
    async fn receive_reports(self: Arc<Self>) {
        // Bounded by the streams that the transport lets a peer have open.
        let mut readers = JoinSet::new();
        loop {
            tokio::select! {
                stream = self.connection.accept_uni() => match stream {
                    Ok(stream) => drop(readers.spawn(Arc::clone(&self).read(stream))),
                    Err(_) => break,
                },
                Some(_) = readers.join_next() => {}
            }
        }
        // They end with the connection; one of them may know why it did.
        while readers.join_next().await.is_some() {}
    }

    /// Reads one report stream to its end.
    async fn read(self: Arc<Self>, mut stream: FrameReceiver) {
        loop {
            match stream.recv().await {
                Ok(Some(frame)) => {
                    if let Err(what) = self.dispatch(&frame, Instant::now()) {
                        return self.give_up(CloseCode::Protocol, &format!("it broke the protocol: {what}"));
                    }
                }
                Ok(None) | Err(RecvError::Connection(_) | RecvError::Stopped) => return,
                Err(error) => return self.give_up(CloseCode::Protocol, &error.to_string()),
            }
        }
    }

    /// Closes the connection for this reason, the first one counts.
    fn give_up(&self, code: CloseCode, why: &str) {
        self.broken.get_or_init(|| why.to_owned());
        self.connection.close(code, why);
    }

    fn dispatch(&self, frame: &RawFrame, at: Instant) -> Result<(), String> {
        let bad = |error: proto::DecodeError| error.to_string();
        let (session, report) = match frame.kind {
            FrameKind::Sampled => {
                let sampled: Sampled = frame.decode().map_err(bad)?;
                ((sampled.session, sampled.generation), Report::Sampled(Box::new(sampled)))
            }
            FrameKind::Progress => {
                let progress: Progress = frame.decode().map_err(bad)?;
                ((progress.session, progress.generation), Report::Progress(progress))
            }
            FrameKind::Failed => {
                let failed: Failed = frame.decode().map_err(bad)?;
                ((failed.session, failed.generation), Report::Failed(Box::new(failed)))
            }
            FrameKind::Ended => {
                let ended: Ended = frame.decode().map_err(bad)?;
                ((ended.session, ended.generation), Report::Ended(Box::new(ended)))
            }
            FrameKind::Acknowledged => {
                let signed: Acknowledged = frame.decode().map_err(bad)?;
                ((signed.session, signed.generation), Report::Signed(Signed::Ack(signed.ack)))
            }
            FrameKind::Receipt => {
                let signed: Receipt = frame.decode().map_err(bad)?;
                ((signed.session, signed.generation), Report::Signed(Signed::Receipt(signed.receipt)))
            }
            FrameKind::SentRows => {
                let signed: SentRows = frame.decode().map_err(bad)?;
                ((signed.session, signed.generation), Report::Signed(Signed::SentRows(signed.leaves)))
            }
            kind => return Err(format!("a {kind} frame has no place on a report stream")),
        };
        // Reports of sessions that are over arrive late; nobody wants them.
        if let Some(inbox) = self.lock().inboxes.get(&session) {
            let optional = matches!(report, Report::Progress(_));
            if inbox.reports.try_send(Arrived { stage: inbox.stage, report, at }).is_err() && !optional {
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

/// The keys that a node shows; `None` if it shows none.
fn check_binding(bytes: &[u8]) -> Result<Option<VerifiedBinding>, BindingError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    SignedBinding::decode(bytes)?.verify(unix_seconds()).map(Some)
}

/// A node answers beside its steps.
const KEYS: Duration = Duration::from_secs(1);

//! The way back to a router: one report stream on the connection that it dialled.

use std::sync::Arc;

use proto::status::CloseCode;
use proto_transport::{Connection, SendError, StreamPriority};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::Frame;
use crate::session::table::LinkId;

/// Queues reports for one router connection. Clones are handles to the same queue.
#[derive(Debug, Clone)]
pub(crate) struct ReportLink {
    id: LinkId,
    frames: mpsc::Sender<Frame>,
    connection: Arc<Connection>,
}

impl ReportLink {
    /// Starts the writing task. The stream is opened with the first report: a peer that never opens a session never
    /// sees one.
    pub(crate) fn start(id: LinkId, connection: &Connection, tasks: &TaskTracker) -> Self {
        let (frames, queue) = mpsc::channel(REPORT_QUEUE);
        tasks.spawn(write(connection.clone(), queue));
        Self { id, frames, connection: Arc::new(connection.clone()) }
    }

    pub(crate) const fn id(&self) -> LinkId {
        self.id
    }

    /// Queues a report. A router that does not read loses its connection, and with it, after the lease, its sessions.
    pub(crate) fn send(&self, frame: Frame) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.frames.try_send(frame) {
            self.connection.close(CloseCode::Overload, "reports are not read");
        }
    }
}

async fn write(connection: Connection, mut frames: mpsc::Receiver<Frame>) {
    let written = async {
        // Ends when all handles are gone, or with the connection.
        let Some(mut next) = frames.recv().await else { return Ok(()) };
        let mut stream = connection.open_uni().await?;
        stream.set_priority(StreamPriority::High);
        loop {
            stream.send_chunks(next.kind, &mut next.body).await?;
            match frames.recv().await {
                Some(frame) => next = frame,
                None => break,
            }
        }
        stream.finish();
        stream.stopped().await.map(drop).map_err(SendError::from)
    };
    let ended: Result<(), SendError> = written.await;
    if let Err(error) = ended {
        tracing::debug!(router = %connection.peer().short(), %error, "report stream broke");
    }
}

/// Sixteen reports for each of 256 sessions; about 400 kB. A router that reads has a few waiting.
const REPORT_QUEUE: usize = 4096;

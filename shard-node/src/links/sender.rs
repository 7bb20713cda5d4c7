//! The task that writes one stream of a link.

use proto_transport::{Connection, SendError, StreamPriority};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Frame;
use crate::compute::{Command, ComputeHandle};

/// Writes frames in order until the link is released or breaks. With `poke`, tells the compute thread with each
/// frame taken that there is room again.
pub(super) async fn write(
    connection: Connection,
    mut frames: mpsc::Receiver<Frame>,
    poke: Option<ComputeHandle>,
    alive: CancellationToken,
) {
    let written = async {
        let mut stream = connection.open_uni().await?;
        if poke.is_none() {
            stream.set_priority(StreamPriority::High);
        }
        while let Some(mut frame) = frames.recv().await {
            if let Some(compute) = &poke {
                compute.poke(Command::Room);
            }
            stream.send_chunks(frame.kind, &mut frame.body).await?;
        }
        stream.finish();
        // Dropped at once, the last handle would close the connection over what is still under way.
        stream.stopped().await.map(drop).map_err(SendError::from)
    };
    let ended: Result<(), SendError> = written.await;
    if let Err(error) = ended {
        tracing::debug!(peer = %connection.peer().short(), %error, "stream to a neighbour broke");
    }
    alive.cancel();
}

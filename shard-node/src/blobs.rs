//! What this node serves by hash: its manifest and its tokenizer.

use std::collections::HashMap;

use bytes::Bytes;
use proto::status::{BlobStart, NotFound};
use proto::{ContentHash, FrameKind};
use proto_transport::{FrameSender, SendError, StreamPriority};

/// Blobs by their BLAKE3.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blobs {
    // What the node was started with; nothing is added later.
    by_hash: HashMap<ContentHash, Bytes>,
}

impl Blobs {
    pub(crate) fn new(blobs: impl IntoIterator<Item = Bytes>) -> Self {
        Self { by_hash: blobs.into_iter().map(|bytes| (ContentHash::of(&bytes), bytes)).collect() }
    }

    /// Sends the blob, or that it is not there.
    pub(crate) async fn answer(&self, hash: ContentHash, to: &mut FrameSender) -> Result<(), SendError> {
        send(self.by_hash.get(&hash).cloned(), to).await
    }
}

/// Sends bytes in parts, or that they are not there.
pub(crate) async fn send(blob: Option<Bytes>, to: &mut FrameSender) -> Result<(), SendError> {
    let Some(mut rest) = blob else { return to.send_message(&NotFound).await };
    // Whatever else flows on this connection is more urgent.
    to.set_priority(StreamPriority::Low);
    to.send_message(&BlobStart { bytes: rest.len() as u64 }).await?;
    while !rest.is_empty() {
        let part = rest.split_to(rest.len().min(FrameKind::BlobPart.max_body()));
        to.send(FrameKind::BlobPart, part).await?;
    }
    Ok(())
}

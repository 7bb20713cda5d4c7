//! A request's body, read within bounds of size and time.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use hyper::body::Body as HttpBody;
use router_openai::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Problem;
use super::config::HttpLimits;

/// Reads bodies; all that have come and are not yet ids together take no more than their bound.
#[derive(Debug)]
pub(super) struct BodyReader {
    limits: HttpLimits,
    /// In units of [`UNIT`] bytes, for what goes beyond [`SMALL`] of each body. Small ones have their own room: as many
    /// connections as there may be.
    budget: Arc<Semaphore>,
}

/// The room that a body takes until its prompt has become ids. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

/// What each connection may hold without asking: most requests are no larger, so that large ones that stand still
/// refuse nobody else.
const SMALL: usize = 16 << 10;
/// So large that it is taken seldom: hyper reads up to 16 KiB at once.
const UNIT: usize = 4 << 10;
/// What must come of a large body within [`STALL`], the slowest line in mind: 256 kbit/s.
const LEAST: usize = 160 << 10;
/// A large body that stands still keeps others out for no longer than this.
const STALL: Duration = Duration::from_secs(5);

/// Bodies come and go within a second or two, unless somebody holds them back.
const FULL_RETRY: Duration = Duration::from_secs(2);

impl BodyReader {
    pub(super) fn new(limits: HttpLimits) -> Self {
        let units = limits.bodies_bytes.max(limits.body_bytes.saturating_sub(SMALL)).div_ceil(UNIT);
        Self { limits, budget: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))) }
    }

    /// The whole body, and the room that it takes.
    ///
    /// # Cancel safety
    /// What was read is lost; the connection can't be used any further.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, Room), Problem> {
        let limit = self.limits.body_bytes;
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(self.too_large());
        }
        self.receive(body).await
    }

    async fn receive(
        &self,
        mut body: impl HttpBody<Data = Bytes, Error: std::fmt::Display> + Unpin,
    ) -> Result<(Bytes, Room), Problem> {
        let begun = Instant::now();
        // For the whole: whoever sends a byte now and then does not get more of it.
        let end = begun + self.limits.body_within;
        let mut read = BytesMut::new();
        let mut room = Room { budget: Arc::clone(&self.budget), taken: None };
        let mut deadline = (begun + self.limits.body_begins_within).min(end);
        // What has come since, of a large one.
        let (mut since, mut came) = (begun, 0);
        loop {
            let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            match timeout_at(deadline, next).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(part) = frame.into_data() {
                        if read.len() + part.len() > self.limits.body_bytes {
                            return Err(self.too_large());
                        }
                        room.grow(read.len() + part.len())?;
                        read.extend_from_slice(&part);
                        came += part.len();
                    }
                    let now = Instant::now();
                    if read.len() <= SMALL || came >= LEAST {
                        (since, came) = (now, 0);
                    }
                    deadline = if read.len() <= SMALL { end } else { end.min(since + STALL) };
                }
                Ok(None) => return Ok((read.freeze(), room)),
                Ok(Some(Err(error))) => {
                    let what = format!("read the body: {error}");
                    return Err(Problem::new(ErrorCode::InvalidValue, what, "send a whole body").closing());
                }
                Err(_) => {
                    let what = format!(
                        "{} bytes of the body came in {} ms",
                        read.len(),
                        begun.elapsed().as_millis()
                    );
                    return Err(Problem::new(ErrorCode::BodyTimeout, what, "send the body at once").closing());
                }
            }
        }
    }

    fn too_large(&self) -> Problem {
        Problem::new(
            ErrorCode::BodyTooLarge,
            format!("the body has more than {} bytes", self.limits.body_bytes),
            "shorten the prompt, or raise `max_body_bytes` in the router's configuration",
        )
        .closing()
    }
}

impl Room {
    /// Takes what is missing for so many bytes, or nothing.
    fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let has = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.saturating_sub(SMALL).div_ceil(UNIT).saturating_sub(has);
        if missing == 0 {
            return Ok(());
        }
        // Waiting for room would hold what is taken already, and two that wait hold it for ever.
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| Arc::clone(&self.budget).try_acquire_many_owned(missing).ok())
            .ok_or_else(|| {
                let cure = "try again after the time given, or start another router";
                Problem::new(ErrorCode::Busy, "other requests' bodies take all room", cure)
                    .retry_after(FULL_RETRY)
                    .closing()
            })?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

//! A request's body, read within bounds of size and time.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::config::HttpLimits;
use super::{Problem, ProblemCode};

/// Reads bodies; all together take no more than their bound.
#[derive(Debug)]
pub(super) struct BodyReader {
    limits: HttpLimits,
    /// In units of [`UNIT`] bytes.
    budget: Semaphore,
}

/// Most bodies are smaller than one unit.
const UNIT: usize = 64 << 10;

impl BodyReader {
    pub(super) fn new(limits: HttpLimits) -> Self {
        Self { limits, budget: Semaphore::new((limits.bodies_bytes / UNIT).max(units(limits.body_bytes))) }
    }

    /// The whole body.
    ///
    /// # Cancel safety
    /// What was read is lost; the connection can't be used any further.
    pub(super) async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<Bytes, Problem> {
        let limit = self.limits.body_bytes;
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(self.too_large());
        }
        let begun = Instant::now();
        let units = units(announced.unwrap_or(limit)) as u32;
        let end = begun + self.limits.body_within;
        let Ok(Ok(_budget)) = timeout_at(end, self.budget.acquire_many(units)).await else {
            return Err(Problem::new(ProblemCode::Busy, "other bodies take all room", "try again")
                .retry_after(self.limits.body_within)
                .closing());
        };
        let mut read = BytesMut::new();
        let mut deadline = (begun + self.limits.body_begins_within).min(end);
        loop {
            let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            match timeout_at(deadline, next).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(part) = frame.into_data() {
                        if read.len() + part.len() > limit {
                            return Err(self.too_large());
                        }
                        read.extend_from_slice(&part);
                    }
                    deadline = end;
                }
                Ok(None) => return Ok(read.freeze()),
                Ok(Some(Err(error))) => {
                    let what = format!("read the body: {error}");
                    return Err(Problem::new(ProblemCode::BadRequest, what, "send a whole body").closing());
                }
                Err(_) => {
                    let what = format!(
                        "{} bytes of the body came in {} ms",
                        read.len(),
                        begun.elapsed().as_millis()
                    );
                    return Err(
                        Problem::new(ProblemCode::BodyTimeout, what, "send the body at once").closing()
                    );
                }
            }
        }
    }

    fn too_large(&self) -> Problem {
        Problem::new(
            ProblemCode::BodyTooLarge,
            format!("the body has more than {} bytes", self.limits.body_bytes),
            "shorten the prompt, or raise `max_body_bytes` in the router's configuration",
        )
        .closing()
    }
}

const fn units(bytes: usize) -> usize {
    let units = bytes.div_ceil(UNIT);
    if units == 0 { 1 } else { units }
}

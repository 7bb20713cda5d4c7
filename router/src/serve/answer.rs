//! An answer on its way to a client: the HTTP body of a stream, or collected. It is read only as fast as the client
//! takes it, and whatever is ready goes out in one write.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Problem;
use super::bill::Bill;
use super::events::{self, About, Sum};
use crate::generate::{AnswerStream, GenerateError, Piece};
use crate::metrics::RouterMetrics;
use crate::session::{FinishReason, Outcome};

/// A running answer. Dropping it cancels the session on all nodes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) stream: Box<AnswerStream>,
    pub(super) about: About,
    pub(super) metrics: RouterMetrics,
    pub(super) sum: Sum,
    /// Read before the answer began: it decides about the status.
    pub(super) first: Option<Piece>,
    /// What the key is told of it.
    pub(super) bill: Arc<Bill>,
    /// Holds up the end of a drain.
    pub(super) _open: TaskTrackerToken,
}

impl Answer {
    /// The whole answer as one object.
    pub(super) async fn collected(mut self) -> Result<Value, Problem> {
        let (mut ids, mut text) = (Vec::new(), String::new());
        let mut next = self.first.take();
        loop {
            match next {
                Some(Piece::Token(token, piece)) => {
                    self.sum.times.push(token.at);
                    self.bill.generated(1);
                    ids.push(token.token.token);
                    text.push_str(&piece);
                }
                Some(Piece::Rest(piece)) => text.push_str(&piece),
                Some(Piece::Moved(moved)) => self.about.moved_to(moved.1),
                None => break,
            }
            next = self.stream.next().await?;
        }
        let mut object = self.about.end(self.finish()?, &self.sum);
        object["text"] = json!(text);
        object["token_ids"] = json!(ids);
        self.metrics.request("ok");
        Ok(object)
    }

    /// As a body of server-sent events.
    pub(super) fn streamed(self) -> AnswerBody {
        AnswerBody { answer: Some(self), buffer: BytesMut::new() }
    }

    fn finish(&self) -> Result<&'static str, Problem> {
        match self.stream.outcome() {
            Some(Outcome::Finished(FinishReason::Stop)) => Ok("stop"),
            Some(Outcome::Finished(FinishReason::Length)) => Ok("length"),
            Some(Outcome::Failed(error)) => Err(error.into()),
            // Nobody cancels but the router itself, when it shuts down.
            Some(Outcome::Cancelled | Outcome::Superseded) | None => Err(Problem::draining()),
        }
    }

    fn write(&mut self, out: &mut BytesMut, piece: &Piece) {
        let position = (self.about.prompt_tokens + self.sum.times.len()) as u32;
        match piece {
            Piece::Token(token, text) => {
                self.sum.times.push(token.at);
                self.bill.generated(1);
                self.metrics.handed_over(token.arrived.elapsed());
                events::token(out, token.token.position.get(), token.token.token, text);
            }
            Piece::Rest(text) => events::rest(out, position, text),
            Piece::Moved(moved) => self.about.moved_to(moved.1.clone()),
        }
    }

    fn write_end(&self, out: &mut BytesMut, failed: Option<GenerateError>) {
        let finish = failed.map_or_else(|| self.finish(), |error| Err(error.into()));
        match finish {
            Ok(finish) => {
                self.metrics.request("ok");
                events::done(out, &self.about.end(finish, &self.sum));
            }
            Err(problem) => {
                self.metrics.request(problem.code().name());
                events::error(out, &problem, &self.about.end("error", &self.sum));
            }
        }
    }
}

/// An answer as a body of server-sent events.
#[derive(Debug)]
pub(super) struct AnswerBody {
    /// `None` after the last event.
    answer: Option<Answer>,
    buffer: BytesMut,
}

/// Events of about a hundred tokens go out at once; more only comes together when the client is slow, and then this is
/// most of what its session costs.
const FRAME_BYTES: usize = 8 << 10;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { answer, buffer } = &mut *self;
        while let Some(running) = answer
            && buffer.len() < FRAME_BYTES
        {
            if let Some(first) = running.first.take() {
                running.write(buffer, &first);
            }
            match running.stream.poll_next(context) {
                Poll::Ready(Ok(Some(piece))) => running.write(buffer, &piece),
                Poll::Ready(ended) => {
                    running.write_end(buffer, ended.err());
                    *answer = None;
                }
                Poll::Pending if buffer.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if buffer.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(buffer.split().freeze()))))
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(answer) = &self.answer {
            answer.metrics.request(CLIENT_GONE);
        }
    }
}

/// The label of requests whose client did not wait for the end.
const CLIENT_GONE: &str = "client_gone";

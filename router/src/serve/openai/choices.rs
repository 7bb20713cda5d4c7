//! The choices of one answer, read side by side and written by one writer: the body of a stream, or collected. Each is
//! read only as fast as the client takes it, and whatever is ready goes out in one write.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use proto::session::Sampled;
use proto_text::Tokenizer;
use router_openai::{AnswerWriter, Delta, Finish, TokenLogprob, Usage};
use tokio::time::Instant;

use crate::generate::Piece;
use crate::metrics::RouterMetrics;
use crate::serve::Problem;
use crate::serve::answer::Answer;
use crate::session::{FinishReason, Outcome};

/// Answers under way. Dropping them cancels their sessions on all nodes.
#[derive(Debug)]
pub(super) struct Choices {
    /// `None` once complete.
    running: Vec<Option<Choice>>,
    writer: Box<dyn AnswerWriter>,
    /// For probabilities; without one ids have no text.
    tokenizer: Option<Arc<Tokenizer>>,
    logprobs: bool,
    usage: Usage,
    metrics: RouterMetrics,
    buffer: Vec<u8>,
    /// When the tokens arrived that are in the buffer; `None` of an answer that is collected.
    arrived: Option<Vec<Instant>>,
    end: End,
    /// Who is asked first next time, so that none is behind the others for ever.
    turn: usize,
}

#[derive(Debug)]
struct Choice {
    answer: Answer,
    /// Tokens given out.
    tokens: u64,
    /// Its finish is written; what it cost beyond that is waited for.
    written: bool,
}

#[derive(Debug)]
enum End {
    NotBegun,
    Running,
    /// Everything is written.
    Complete,
    Failed(Problem),
}

/// Events of about a hundred tokens go out at once; more only comes together when the client is slow.
const FRAME_BYTES: usize = 16 << 10;

impl Choices {
    /// At least one answer; `each` to a prompt, one after the other.
    pub(super) fn new(
        answers: Vec<Answer>,
        each: u32,
        writer: Box<dyn AnswerWriter>,
        tokenizer: Option<Arc<Tokenizer>>,
        logprobs: bool,
    ) -> Self {
        let metrics = answers[0].metrics.clone();
        let mut usage = Usage::default();
        for prompt in answers.chunks(each.max(1) as usize) {
            usage.prompt += prompt[0].about.prompt_tokens as u64;
            // What none of its choices had to compute.
            usage.cached += prompt.iter().map(|answer| u64::from(answer.about.cached)).min().unwrap_or(0);
        }
        let choice = |answer| Some(Choice { answer, tokens: 0, written: false });
        let running = answers.into_iter().map(choice).collect();
        let (buffer, arrived, end) = (Vec::new(), None, End::NotBegun);
        Self { running, writer, tokenizer, logprobs, usage, metrics, buffer, arrived, end, turn: 0 }
    }

    /// The whole answer as one object.
    pub(super) async fn collected(mut self) -> Result<Vec<u8>, Problem> {
        std::future::poll_fn(|context| self.poll_some(context, usize::MAX)).await;
        match std::mem::replace(&mut self.end, End::Complete) {
            End::Failed(error) => Err(error),
            _ => Ok(std::mem::take(&mut self.buffer)),
        }
    }

    /// Reads until so many bytes are written, all is complete, or (with something written) nothing is ready.
    fn poll_some(&mut self, context: &mut Context<'_>, enough: usize) -> Poll<()> {
        if matches!(self.end, End::NotBegun) {
            self.writer.begin(&mut self.buffer);
            self.end = End::Running;
        }
        while matches!(self.end, End::Running) && self.buffer.len() < enough {
            let count = self.running.len();
            let mut pending = true;
            for step in 0..count {
                let choice = (self.turn + step) % count;
                if self.poll_choice(context, choice) {
                    pending = false;
                    self.turn = choice + 1;
                    break;
                }
            }
            if pending {
                // Collecting waits for the end, a stream for whatever comes.
                return if self.buffer.is_empty() || enough == usize::MAX {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                };
            }
        }
        Poll::Ready(())
    }

    /// Whether something of it was ready.
    fn poll_choice(&mut self, context: &mut Context<'_>, choice: usize) -> bool {
        let Some(Choice { answer, tokens, written }) = &mut self.running[choice] else { return false };
        if *written {
            let Poll::Ready(end) = answer.stream.poll_end(context) else { return false };
            self.usage.waste += end.waste(*tokens);
            self.running[choice] = None;
            self.end_if_complete();
            return true;
        }
        let next = match answer.first.take() {
            Some(first) => Ok(Some(first)),
            None => match answer.stream.poll_next(context) {
                Poll::Ready(next) => next,
                Poll::Pending => return false,
            },
        };
        match next {
            Ok(Some(piece)) => {
                if let Piece::Token(token, _) = &piece {
                    if let Some(arrived) = &mut self.arrived {
                        arrived.push(token.arrived);
                    }
                    answer.bill.generated(1);
                    *tokens += 1;
                    self.usage.completion += 1;
                }
                self.write(choice as u32, &piece);
            }
            Ok(None) => self.finish(choice),
            Err(error) => self.fail(Problem::from(error)),
        }
        true
    }

    fn write(&mut self, choice: u32, piece: &Piece) {
        match piece {
            // The client sees nothing of it but a pause.
            Piece::Moved(_) => {}
            Piece::Rest(text) => self.writer.push(choice, &Delta::rest(text), &mut self.buffer),
            Piece::Token(token, text) if self.logprobs => {
                let told = Told::new(self.tokenizer.as_deref(), &token.token);
                let top: Vec<(&[u8], f32)> =
                    told.top.iter().map(|(bytes, logprob)| (&bytes[..], *logprob)).collect();
                let logprob = TokenLogprob { bytes: &told.bytes, logprob: token.token.logprob, top: &top };
                self.writer.push(choice, &Delta::token(text).with_logprob(logprob), &mut self.buffer);
            }
            Piece::Token(_, text) => self.writer.push(choice, &Delta::token(text), &mut self.buffer),
        }
    }

    fn finish(&mut self, choice: usize) {
        let Some(ended) = &mut self.running[choice] else { return };
        let finish = match ended.answer.stream.outcome() {
            Some(Outcome::Finished(FinishReason::Stop)) => Finish::Stop,
            Some(Outcome::Finished(FinishReason::Length)) => Finish::Length,
            Some(Outcome::Failed(error)) => return self.fail(Problem::from(error)),
            // Nobody cancels but the router itself, when it shuts down.
            Some(Outcome::Cancelled | Outcome::Superseded) | None => return self.fail(Problem::draining()),
        };
        if ended.answer.stream.may_have_waste() {
            ended.written = true;
        } else {
            self.running[choice] = None;
        }
        self.writer.finish(choice as u32, finish, &mut self.buffer);
        self.end_if_complete();
    }

    fn end_if_complete(&mut self) {
        if self.running.iter().all(Option::is_none) {
            self.writer.end(&self.usage, &mut self.buffer);
            self.metrics.request("ok");
            self.end = End::Complete;
        }
    }

    /// One that can't be completed is the end of all.
    fn fail(&mut self, error: Problem) {
        self.metrics.request(error.code().name());
        self.writer.fail(error.error(), &mut self.buffer);
        self.running.clear();
        self.end = End::Failed(error);
    }
}

/// The texts of a token and of what else might have been chosen.
struct Told {
    bytes: Vec<u8>,
    top: Vec<(Vec<u8>, f32)>,
}

impl Told {
    fn new(tokenizer: Option<&Tokenizer>, sampled: &Sampled) -> Self {
        let text = |id| tokenizer.and_then(|tokenizer| tokenizer.token_bytes(id)).unwrap_or_default();
        let top = sampled.top.iter().map(|&(id, logprob)| (text(id), logprob)).collect();
        Self { bytes: text(sampled.token), top }
    }
}

impl Body for Choices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let choices = &mut *self;
        choices.arrived.get_or_insert_default();
        if choices.poll_some(context, FRAME_BYTES).is_pending() {
            return Poll::Pending;
        }
        for arrived in choices.arrived.iter_mut().flat_map(|arrived| arrived.drain(..)) {
            choices.metrics.handed_over(arrived.elapsed());
        }
        if choices.buffer.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut choices.buffer).into()))))
    }
}

impl Drop for Choices {
    fn drop(&mut self) {
        if matches!(self.end, End::NotBegun | End::Running) {
            self.metrics.request(CLIENT_GONE);
        }
    }
}

/// The label of requests whose client did not wait for the end.
const CLIENT_GONE: &str = "client_gone";

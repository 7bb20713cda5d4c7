//! Answers that must be texts of a grammar: compiles grammars, and finds out which tokens may come next while the ring
//! turns, beside the compute thread.
//!
//! Grammars come from strangers. They are compiled before their session is opened, one at a time; a step is one job,
//! and a session has one at a time.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use proto::answer::Grammar;
use proto::status::{Refusal, RefusalCode};
use proto_sampling::TokenMask;
use proto_text::{GrammarError, GrammarText, GrammarVocabulary, Tokenizer};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::session::Shape;

/// What a node needs to follow grammars of its model. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Grammars {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` if the model has none.
    tokenizer: Option<Bytes>,
    /// Ids that end an answer, by the manifest.
    eos: Vec<u32>,
    /// Entries of the model's vocabulary.
    vocab: u32,
    /// Made for the first grammar: most nodes never see one.
    vocabulary: OnceLock<Result<GrammarVocabulary, GrammarError>>,
    compiling: Semaphore,
    jobs: TaskTracker,
}

/// A grammar's text under way, and what is known of its next token.
#[derive(Debug)]
struct Writing {
    next: Next,
    vocab: u32,
    jobs: TaskTracker,
    runtime: Handle,
}

#[derive(Debug)]
enum Next {
    /// A job is finding out.
    Sought(Receiver<Found>),
    /// The tokens were asked for; one of them is chosen now.
    Known(Box<GrammarText>),
    /// An error was told.
    Over,
}

type Found = Result<(Box<GrammarText>, Vec<u64>), GrammarError>;

/// Compiling has limits of its own, of about a second; behind another one it takes two.
const COMPILE: Duration = Duration::from_secs(4);
/// A step has limits of its own, of some milliseconds. Longer than this the machine is too busy to serve.
const STEP: Duration = Duration::from_secs(2);
/// One is compiled at a time: when it is done is not known.
const BUSY_RETRY: Duration = Duration::from_secs(2);

impl Grammars {
    /// `jobs` must not be closed before the compute thread has ended.
    pub(crate) fn new(tokenizer: Option<Bytes>, eos: Vec<u32>, vocab: u32, jobs: TaskTracker) -> Self {
        let (vocabulary, compiling) = (OnceLock::new(), Semaphore::new(1));
        Self { inner: Arc::new(Inner { tokenizer, eos, vocab, vocabulary, compiling, jobs }) }
    }

    /// The text that goes on after `generated`.
    ///
    /// # Cancel safety
    /// Cancel-safe; a job under way ends by its own limits.
    pub(crate) async fn begin(
        &self,
        grammar: Grammar,
        generated: Vec<u32>,
    ) -> Result<Box<dyn Shape>, Refusal> {
        let busy = || {
            Refusal::new(RefusalCode::NoCapacity, "another grammar is being compiled").retry_after(BUSY_RETRY)
        };
        let Ok(Ok(_turn)) = timeout(COMPILE, self.inner.compiling.acquire()).await else {
            return Err(busy());
        };
        let inner = Arc::clone(&self.inner);
        let compiling = self.inner.jobs.spawn_blocking(move || inner.begin(&grammar, &generated));
        let bad = |why: String| Refusal::new(RefusalCode::BadGrammar, why);
        let found = match timeout(COMPILE, compiling).await {
            Ok(Ok(found)) => found.map_err(|error| bad(error.to_string()))?,
            Ok(Err(error)) => return Err(bad(error.to_string())),
            Err(_) => return Err(bad(format!("it is not compiled within {} s", COMPILE.as_secs()))),
        };
        let (sender, next) = sync_channel(1);
        // It has room for one.
        let _ = sender.send(Ok(found));
        let (vocab, jobs) = (self.inner.vocab, self.inner.jobs.clone());
        Ok(Box::new(Writing { next: Next::Sought(next), vocab, jobs, runtime: Handle::current() }))
    }
}

impl Inner {
    fn begin(&self, grammar: &Grammar, generated: &[u32]) -> Found {
        let vocabulary = self.vocabulary.get_or_init(|| self.vocabulary());
        let mut text = vocabulary.as_ref().map_err(Clone::clone)?.begin(grammar)?;
        for &token in generated {
            text.push(token)?;
        }
        let allowed = text.allowed()?;
        Ok((Box::new(text), allowed))
    }

    fn vocabulary(&self) -> Result<GrammarVocabulary, GrammarError> {
        let unusable = |why: String| GrammarError::Vocabulary(why);
        let bytes = self.tokenizer.as_ref().ok_or_else(|| unusable("the model has none".into()))?;
        let tokenizer = Tokenizer::from_json(bytes).map_err(|error| unusable(error.to_string()))?;
        GrammarVocabulary::new(&tokenizer, self.vocab, &self.eos)
    }
}

impl Shape for Writing {
    fn allowed(&mut self) -> Result<TokenMask, String> {
        let Next::Sought(found) = std::mem::replace(&mut self.next, Next::Over) else {
            return Err("the grammar's text is over".into());
        };
        let found = found.recv_timeout(STEP).map_err(|_| format!("no step within {} s", STEP.as_secs()))?;
        let (text, words) = found.map_err(|error| error.to_string())?;
        self.next = Next::Known(text);
        TokenMask::from_words(self.vocab as usize, words).map_err(|error| error.to_string())
    }

    fn push(&mut self, token: u32) {
        if let Next::Known(mut text) = std::mem::replace(&mut self.next, Next::Over) {
            let (sender, next): (SyncSender<Found>, _) = sync_channel(1);
            let seek = move || {
                let found = text.push(token).and_then(|()| text.allowed()).map(|allowed| (text, allowed));
                // Whoever has gone does not want to know.
                let _ = sender.send(found);
            };
            self.jobs.spawn_blocking_on(seek, &self.runtime);
            self.next = Next::Sought(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every printable character is a token, and `<end>` ends a text.
    fn tokenizer() -> Bytes {
        let letters =
            (0x21u8..0x7f).map(|byte| format!("{:?}:{}", char::from(byte).to_string(), byte - 0x21));
        let vocab: Vec<String> = letters.chain([r#""<end>":94"#.into()]).collect();
        let end = r#"{"id":94,"content":"<end>","special":true,"single_word":false,"lstrip":false,"rstrip":false,
            "normalized":false}"#;
        let level = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}"#;
        let json = format!(
            r#"{{"added_tokens":[{end}],"pre_tokenizer":{level},"decoder":{level},
                "model":{{"type":"BPE","vocab":{{{}}},"merges":[]}}}}"#,
            vocab.join(",")
        );
        json.into()
    }

    fn grammars(tokenizer: Option<Bytes>) -> Grammars {
        Grammars::new(tokenizer, vec![94], 128, TaskTracker::new())
    }

    fn schema(source: &str) -> Grammar {
        Grammar::JsonSchema(source.into())
    }

    /// On the compute thread's side nothing is asynchronous.
    fn write(shape: &mut dyn Shape, text: &str) {
        for byte in text.bytes() {
            let token = u32::from(byte - 0x21);
            assert!(shape.allowed().unwrap().allows(token), "{text} at {}", char::from(byte));
            shape.push(token);
        }
    }

    #[tokio::test]
    async fn masks_follow_the_text_and_a_generation_goes_on_where_the_last_one_ended() {
        let grammars = grammars(Some(tokenizer()));
        let wanted = schema(r#"{"type":"array","items":{"enum":[1,22]},"minItems":1}"#);
        let mut shape = grammars.begin(wanted.clone(), Vec::new()).await.unwrap();
        tokio::task::spawn_blocking(move || {
            write(&mut *shape, "[22");
            let mask = shape.allowed().unwrap();
            assert!(mask.allows(u32::from(b']' - 0x21)) && !mask.allows(u32::from(b'2' - 0x21)));
            assert!(!mask.allows(94) && !mask.allows(100));
        })
        .await
        .unwrap();
        let generated = b"[22".map(|byte| u32::from(byte - 0x21)).to_vec();
        let mut shape = grammars.begin(wanted, generated).await.unwrap();
        tokio::task::spawn_blocking(move || {
            write(&mut *shape, ",1]");
            assert!(shape.allowed().unwrap().allows(94));
            // Nobody asked for the next ones after an end that was not taken.
            shape.push(0);
            assert!(shape.allowed().is_err() && shape.allowed().is_err());
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn what_can_not_be_followed_is_refused_with_a_reason() {
        for (grammars, source, why) in [
            (grammars(None), r#"{"type":"object"}"#, "the model has none"),
            (grammars(Some(tokenizer())), r#"{"type":"nothing"}"#, "nothing"),
            (grammars(Some("{}".into())), r#"{"type":"object"}"#, "tokenizer"),
        ] {
            let refusal = grammars.begin(schema(source), Vec::new()).await.unwrap_err();
            assert_eq!(refusal.code, RefusalCode::BadGrammar);
            assert!(refusal.detail.contains(why), "{refusal}");
        }
        let refusal =
            grammars(Some(tokenizer())).begin(schema(r#"{"const":1}"#), vec![0, 0]).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::BadGrammar, "forced tokens that are none of the grammar's");
    }
}

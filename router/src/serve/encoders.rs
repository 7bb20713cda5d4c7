//! Prompts on their way to ids: a bounded number at once, each for a bounded time, whether or not its client stays.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Problem, ProblemCode};
use crate::model::{Model, Prompt};

/// The threads that turn prompts into ids.
#[derive(Clone, Debug)]
pub(super) struct Encoders {
    slots: Arc<Semaphore>,
}

/// A prompt that fills the longest context is encoded in well under a second: who waits for longer stands behind
/// many of them, and should hear so rather than wait.
const WAIT: Duration = Duration::from_secs(5);

impl Encoders {
    /// So many at once: more than there are cores would only share them.
    pub(super) fn new(at_once: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(at_once)) }
    }

    /// The ids of a prompt. `held` is dropped when the prompt takes no memory any more, which may be later than the
    /// future's end: a client that goes does not stop a thread.
    ///
    /// # Cancel safety
    /// Cancel-safe; the ids are lost.
    pub(super) async fn encode(
        &self,
        model: &Model,
        prompt: Prompt,
        now_unix_s: u64,
        held: impl Send + 'static,
    ) -> Result<Vec<u32>, Problem> {
        // Ids are only checked.
        if matches!(prompt, Prompt::TokenIds(_)) {
            return Ok(model.encode_aside(prompt, now_unix_s, held).await?);
        }
        let Ok(Ok(slot)) = timeout(WAIT, Arc::clone(&self.slots).acquire_owned()).await else {
            let what = format!("other prompts are being turned into tokens since {} s", WAIT.as_secs());
            let cure = "try again after the time given, give `token_ids`, or start another router";
            return Err(Problem::new(ProblemCode::Busy, what, cure).retry_after(WAIT));
        };
        Ok(model.encode_aside(prompt, now_unix_s, (slot, held)).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Builder;
    use tokio::task::yield_now;
    use tokio::time::{advance, pause};

    use super::*;
    use crate::model::testing::toy;

    /// A client that goes while its prompt's thread is at work, and one that comes then.
    #[test]
    fn a_client_that_goes_does_not_make_room_for_another_thread() {
        // One thread for blocking work: as long as it is held, nothing of the prompt is done.
        let runtime = Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let busy = runtime.spawn_blocking(move || wait.recv());
        runtime.block_on(async {
            pause();
            let (encoders, model, held) = (Encoders::new(1), toy(), Arc::new(()));
            let prompt = || Prompt::Text("hi".into());
            tokio::select! {
                biased;
                _ = encoders.encode(&model, prompt(), 0, Arc::clone(&held)) => panic!("the thread is held"),
                () = yield_now() => {}
            }
            assert_eq!(Arc::strong_count(&held), 2, "the prompt still takes memory");
            let second = encoders.encode(&model, prompt(), 0, ());
            let mut second = std::pin::pin!(second);
            tokio::select! {
                biased;
                _ = second.as_mut() => panic!("the only slot is taken"),
                () = yield_now() => {}
            }
            advance(WAIT + Duration::from_millis(1)).await;
            let problem = second.await.unwrap_err();
            assert_eq!(problem.code(), ProblemCode::Busy);
            assert!(problem.to_json()["error"]["retry_after_ms"].as_u64() > Some(0));
            // Ids need no thread.
            assert_eq!(encoders.encode(&model, Prompt::TokenIds(vec![5]), 0, ()).await.unwrap(), [5]);
            go.send(()).unwrap();
            let told = encoders.encode(&model, prompt(), 0, ()).await.unwrap_err();
            assert_eq!(told.code(), ProblemCode::BadRequest, "the toy has no tokenizer");
            assert_eq!(Arc::strong_count(&held), 1);
            busy.await.unwrap().unwrap();
        });
    }
}

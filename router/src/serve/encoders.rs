//! Prompts on their way to ids: a bounded number at once, tenants in turn, each for a bounded time, whether or not its
//! client stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use router_openai::ErrorCode;
use router_plan::admission::Tenant;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Problem;
use super::turns::{Number, Turn, Turns};
use crate::model::{Model, Prompt, PromptError};

/// The threads that turn prompts into ids.
#[derive(Clone, Debug)]
pub(super) struct Encoders {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    turns: Turns<Tenant>,
    /// Bounded by the turns.
    waiting: HashMap<Number, oneshot::Sender<Slot>>,
}

/// One that may work. Dropping it calls the next one.
#[derive(Debug)]
struct Slot {
    encoders: Encoders,
}

/// One that waits. Dropping it leaves the line.
#[derive(Debug)]
struct Waiter<'a> {
    encoders: &'a Encoders,
    tenant: &'a Tenant,
    number: Number,
}

/// A prompt that fills the longest context is encoded in well under a second: who waits for longer stands behind
/// many of them, and should hear so rather than wait.
const WAIT: Duration = Duration::from_secs(5);
/// As many as may be answered at once: each is encoded in about a millisecond, seldom in more, and what they hold
/// together is bounded by the room of bodies.
const MOST_WAITING: usize = crate::driver::MAX_SESSIONS;
/// So that it takes several tenants to keep the others out, and that hundreds of clients of one (a router without keys
/// has one) may begin at the same moment.
const MOST_WAITING_OF_ONE: usize = MOST_WAITING / 4;

impl Encoders {
    /// So many at once: more than there are cores would only share them.
    pub(super) fn new(at_once: usize) -> Self {
        let turns = Turns::new(at_once, MOST_WAITING, MOST_WAITING_OF_ONE);
        Self { state: Arc::new(Mutex::new(State { turns, waiting: HashMap::new() })) }
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
        tenant: &Tenant,
        now_unix_s: u64,
        held: impl Send + 'static,
    ) -> Result<Vec<u32>, Problem> {
        // Ids are only checked.
        if matches!(prompt, Prompt::TokenIds(_)) {
            return Ok(model.encode_aside(prompt, now_unix_s, held).await?);
        }
        let slot = self.slot(tenant).await?;
        Ok(model.encode_aside(prompt, now_unix_s, (slot, held)).await?)
    }

    /// Runs work of a template or a tokenizer in its turn.
    ///
    /// # Cancel safety
    /// Cancel-safe; the result is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        model: &Model,
        tenant: &Tenant,
        held: impl Send + 'static,
        work: impl FnOnce(&Model) -> Result<T, PromptError> + Send + 'static,
    ) -> Result<T, Problem> {
        let slot = self.slot(tenant).await?;
        Ok(model.aside((slot, held), work).await?)
    }

    async fn slot(&self, tenant: &Tenant) -> Result<Slot, Problem> {
        let (number, called) = {
            let mut state = self.lock();
            match state.turns.come(tenant) {
                Turn::Now => return Ok(Slot { encoders: self.clone() }),
                Turn::Full => return Err(busy("as many prompts as may wait to be turned into tokens")),
                Turn::Waits(number) => {
                    let (sender, called) = oneshot::channel();
                    state.waiting.insert(number, sender);
                    (number, called)
                }
            }
        };
        let _waiter = Waiter { encoders: self, tenant, number };
        match timeout(WAIT, called).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(busy(&format!("other prompts are being turned into tokens since {} s", WAIT.as_secs()))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The turns are whole after each of their methods.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn busy(what: &str) -> Problem {
    let cure = "try again after the time given, give `token_ids`, or start another router";
    Problem::new(ErrorCode::Busy, what, cure).retry_after(WAIT)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.encoders.lock();
        let next = state.turns.done().and_then(|number| state.waiting.remove(&number));
        drop(state);
        if let Some(next) = next {
            // Whoever has gone since drops its slot, which calls the next one.
            let _ = next.send(Self { encoders: self.encoders.clone() });
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.encoders.lock();
        state.turns.leave(self.tenant, self.number);
        state.waiting.remove(&self.number);
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
            let (encoders, model, held, tenant) = (Encoders::new(1), toy(), Arc::new(()), Tenant::default());
            let prompt = || Prompt::Text("hi".into());
            tokio::select! {
                biased;
                _ = encoders.encode(&model, prompt(), &tenant, 0, Arc::clone(&held)) => panic!("the thread is held"),
                () = yield_now() => {}
            }
            assert_eq!(Arc::strong_count(&held), 2, "the prompt still takes memory");
            let second = encoders.encode(&model, prompt(), &tenant, 0, ());
            let mut second = std::pin::pin!(second);
            tokio::select! {
                biased;
                _ = second.as_mut() => panic!("the only slot is taken"),
                () = yield_now() => {}
            }
            advance(WAIT + Duration::from_millis(1)).await;
            let problem = second.await.unwrap_err();
            assert_eq!(problem.code(), ErrorCode::Busy);
            assert!(problem.error().try_again_after() > Some(Duration::ZERO));
            // Ids need no thread.
            assert_eq!(encoders.encode(&model, Prompt::TokenIds(vec![5]), &tenant, 0, ()).await.unwrap(), [5]);
            go.send(()).unwrap();
            let told = encoders.encode(&model, prompt(), &tenant, 0, ()).await.unwrap_err();
            assert_eq!(told.code(), ErrorCode::InvalidValue, "the toy has no tokenizer");
            assert_eq!(Arc::strong_count(&held), 1);
            busy.await.unwrap().unwrap();
        });
    }
}

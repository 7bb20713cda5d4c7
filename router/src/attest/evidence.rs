//! One answer's evidence, through all generations of its session.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::attest::Attest;
use proto::{Generation, NodeId};
use proto_attest::bundle::{SealError, seal};
use proto_attest::check::Evidence;
use proto_attest::collector::{CollectError, Collector};
use proto_attest::keys::{SignedBinding, VerifiedBinding};
use proto_attest::open::{AckError, LaneId, OpenError, RouteHop, SessionOpen, SignedAck, VerifiedOpen};
use proto_attest::sample::SamplingTerms;
use proto_attest::{Amount, Digest};
use proto_keys::KeyRing;

use crate::session::SessionTerms;

/// Gathers the evidence of one answer. Clones are handles to the same one.
#[derive(Clone)]
pub struct AnswerEvidence {
    router: NodeId,
    keys: Arc<KeyRing>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    salt: [u8; 32],
    terms: Option<SamplingTerms>,
    vocab: u32,
    prompt: Vec<u32>,
    /// Of all hops; each once.
    bindings: Vec<SignedBinding>,
    /// In order. Bounded by the routes that an answer may try.
    generations: Vec<Collector>,
    /// A generation went without signatures: what comes after it would follow nothing.
    broken: bool,
    receipts: u64,
}

/// Why a generation can't be signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// An earlier one was not.
    #[error("an earlier generation was not signed for")]
    Broken,
    /// The open breaks a rule.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What came from the hops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Generations that were signed for.
    pub generations: u32,
    /// Receipts that hold.
    pub receipts: u64,
}

impl AnswerEvidence {
    /// For an answer of this router. `salt` is drawn at random; it hides the seed until it is shown.
    pub fn new(router: NodeId, keys: Arc<KeyRing>, salt: [u8; 32]) -> Self {
        Self { router, keys, state: Arc::new(Mutex::new(State { salt, ..State::default() })) }
    }

    /// What is sent to each stage, once all have opened: stage `i` goes on from row `goes_on[i]`, and signs with the key
    /// that `bindings[i]` names.
    ///
    /// # Errors
    /// [`AttestError`]; the generation then runs without signatures, and so do all after it.
    pub(crate) fn open(
        &self,
        terms: &SessionTerms,
        goes_on: &[u32],
        bindings: &[VerifiedBinding],
        now_unix_s: u64,
    ) -> Result<Vec<Attest>, AttestError> {
        let mut state = self.lock();
        if state.broken {
            return Err(AttestError::Broken);
        }
        let opened = state.open(terms, goes_on, bindings, (self.router, &self.keys, now_unix_s));
        state.broken = opened.is_err();
        let encoded = opened?;
        let binding = self.keys.binding().signed().encode();
        let tail = terms.stages().len() - 1;
        let attest = |stage: usize| Attest {
            session: terms.session,
            generation: terms.generation,
            binding: binding.clone(),
            open: encoded.clone(),
            salt: (stage == tail).then_some(state.salt),
        };
        Ok((0..=tail).map(attest).collect())
    }

    /// Whether no further generation can be signed for.
    pub(crate) fn is_broken(&self) -> bool {
        self.lock().broken
    }

    /// Stages that have not acknowledged a generation whose answer is whole, or not signed for all of its rows.
    pub(crate) fn short(&self, generation: Generation, last_row: u32) -> Vec<usize> {
        let mut state = self.lock();
        let Ok(collector) = state.collector(generation) else { return Vec::new() };
        collector.short(last_row).into_iter().map(usize::from).collect()
    }

    /// A generation runs without signatures.
    pub(crate) fn skip(&self) {
        self.lock().broken = true;
    }

    /// A stage acknowledged the open.
    pub(crate) fn acknowledged(
        &self,
        stage: usize,
        generation: Generation,
        ack: &[u8],
    ) -> Result<(), CollectError> {
        let ack = SignedAck::decode(ack)?;
        self.lock().collector(generation)?.ack(stage as u16, ack)
    }

    /// A stage signed for rows.
    pub(crate) fn receipt(
        &self,
        stage: usize,
        generation: Generation,
        receipt: &[u8],
    ) -> Result<(), CollectError> {
        let mut state = self.lock();
        state.collector(generation)?.receipt(stage as u16, receipt)?;
        state.receipts += 1;
        Ok(())
    }

    /// A stage told leaves of rows that it had signed for.
    pub(crate) fn sent_rows(
        &self,
        stage: usize,
        generation: Generation,
        leaves: &[u8],
    ) -> Result<(), CollectError> {
        self.lock().collector(generation)?.leaves(stage as u16, leaves)
    }

    /// A token came from the tail. Says which stage lags behind with its signatures by more than it may, if one does.
    pub(crate) fn token(
        &self,
        generation: Generation,
        position: u32,
        token: u32,
    ) -> Result<Option<usize>, CollectError> {
        let mut state = self.lock();
        // Without signatures there is nothing to compare with.
        let Ok(collector) = state.collector(generation) else { return Ok(None) };
        collector.token(position, token)?;
        // Receipts of the prompt may be on their way still when the first tokens come.
        let due = position.saturating_sub(MOST_UNSIGNED);
        let known = collector.open().open().known();
        Ok(if due < known { None } else { collector.lagging(due).map(usize::from) })
    }

    /// How much has come.
    pub fn collected(&self) -> Collected {
        let state = self.lock();
        Collected { generations: state.generations.len() as u32, receipts: state.receipts }
    }

    /// What there is to show for an answer with these `tokens`, the prompt's not among them; `None` if nothing was
    /// signed for. Whoever sees it learns the seed.
    pub fn evidence(&self, tokens: &[u32]) -> Option<Evidence> {
        let state = self.lock();
        if state.generations.is_empty() {
            return None;
        }
        let mut bindings = state.bindings.clone();
        bindings.push(*self.keys.binding().signed());
        Some(Evidence {
            presenter: self.keys.receipt().address(),
            bindings,
            tokens: state.prompt.iter().chain(tokens).copied().collect(),
            terms: state.terms.clone(),
            vocab_size: state.vocab,
            generations: state
                .generations
                .iter()
                .cloned()
                .map(|generation| generation.into_evidence(Vec::new()))
                .collect(),
        })
    }

    /// The same as a file, sealed by this router.
    ///
    /// # Errors
    /// [`SealError::Empty`] if nothing was signed for.
    pub fn bundle(&self, tokens: &[u32]) -> Result<Vec<u8>, SealError> {
        seal(&self.evidence(tokens).ok_or(SealError::Empty)?, self.keys.receipt())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked in a check left it as it was before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The open's bytes.
    fn open(
        &mut self,
        terms: &SessionTerms,
        goes_on: &[u32],
        bindings: &[VerifiedBinding],
        (router, keys, now_unix_s): (NodeId, &KeyRing, u64),
    ) -> Result<Vec<u8>, AttestError> {
        let sampling = SamplingTerms {
            params: terms.sampling.clone(),
            constrained: terms.answer.grammar.is_some(),
            salt: self.salt,
        };
        let before = self.generations.last().map(Collector::open);
        let deadline_unix_s = match before {
            Some(before) => before.open().deadline_unix_s,
            None => now_unix_s.saturating_add(terms.limits.total.unwrap_or(NO_DEADLINE).as_secs() + 1),
        };
        let route =
            terms.stages().iter().zip(bindings).zip(goes_on).map(|((stage, binding), &goes_on)| RouteHop {
                node: stage.node,
                span: stage.span,
                receipt_key: binding.binding().receipt,
                lane: LaneId::UNPAID,
                price_prefill: Amount::ZERO,
                price_decode: Amount::ZERO,
                goes_on,
            });
        let open = SessionOpen {
            router,
            router_key: keys.receipt().address(),
            session: terms.session,
            generation: terms.generation,
            prev: before.map_or(Digest::ZERO, VerifiedOpen::digest),
            model: terms.plan.model,
            class: terms.plan.class,
            n_layers: terms.plan.n_layers,
            route: route.collect(),
            prompt_rows: terms.prompt.len() as u32 - terms.generated,
            forced_rows: terms.generated,
            sampling_hash: sampling.hash(),
            seed_commit: sampling.seed_commit(),
            max_tokens: terms.max_tokens.saturating_add(terms.generated),
            // A clock that was set back in the meantime must not break the chain.
            opened_unix_s: now_unix_s.max(before.map_or(0, |before| before.open().opened_unix_s)),
            deadline_unix_s,
        };
        let open = open.sign(keys.receipt())?;
        let encoded = open.signed().encode();
        self.terms.get_or_insert(sampling);
        self.vocab = terms.vocab;
        if self.generations.is_empty() {
            self.prompt = terms.prompt[..open.open().prompt_rows as usize].to_vec();
        }
        for binding in bindings {
            if !self.bindings.contains(binding.signed()) {
                self.bindings.push(*binding.signed());
            }
        }
        self.generations.push(Collector::new(open));
        Ok(encoded)
    }

    fn collector(&mut self, generation: Generation) -> Result<&mut Collector, CollectError> {
        let of = |collector: &&mut Collector| collector.open().open().generation == generation;
        self.generations.iter_mut().rev().find(of).ok_or(CollectError::Ack(AckError::OtherOpen))
    }
}

impl PartialEq for AnswerEvidence {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

impl fmt::Debug for AnswerEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerEvidence").field("collected", &self.collected()).finish_non_exhaustive()
    }
}

/// Rows that a stage may be behind with its signatures while tokens come: a window that is not full yet (31), what its
/// attest thread has not looked at (40), and what comes while a packet is sent again.
const MOST_UNSIGNED: u32 = 160;
/// Where the request has no time limit.
const NO_DEADLINE: Duration = Duration::from_hours(24);

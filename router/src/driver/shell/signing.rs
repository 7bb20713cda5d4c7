//! What the stages of a session sign: asked for once all are open, and checked as it comes.

use std::sync::Arc;

use proto::session::Sampled;
use proto_attest::keys::VerifiedBinding;

use super::Running;
use crate::clock::unix_seconds;
use crate::session::{Control, Event, SessionTerms, Signed};

/// The terms, without signatures where a stage signs nothing; and the keys that the stages sign with.
pub(super) fn signing(
    terms: Arc<SessionTerms>,
    bindings: Vec<Option<VerifiedBinding>>,
) -> (Arc<SessionTerms>, Vec<VerifiedBinding>) {
    let Some(evidence) = &terms.evidence else { return (terms, Vec::new()) };
    // Nobody is asked to keep account of what nobody signs for.
    let bindings = bindings.into_iter().collect::<Option<Vec<_>>>().filter(|_| !evidence.is_broken());
    if let Some(bindings) = bindings {
        (terms, bindings)
    } else {
        evidence.skip();
        (Arc::new(SessionTerms { evidence: None, ..SessionTerms::clone(&terms) }), Vec::new())
    }
}

impl Running {
    /// Something that a stage signed.
    pub(super) fn signed(&mut self, stage: usize, signed: &Signed) {
        let terms = self.machine.terms();
        let generation = terms.generation;
        if stage >= terms.stages().len() {
            // Whoever stands by is not asked to sign.
            return;
        }
        let checked = match (&terms.evidence, signed) {
            (None, _) => return self.faults.push((stage, "it signs what it was not asked for".into())),
            (Some(evidence), Signed::Ack(ack)) => evidence.acknowledged(stage, generation, ack),
            (Some(evidence), Signed::Receipt(receipt)) => {
                let checked = evidence.receipt(stage, generation, receipt);
                self.metrics.receipt(checked.is_ok());
                checked
            }
            (Some(evidence), Signed::SentRows(leaves)) => evidence.sent_rows(stage, generation, leaves),
        };
        if let Err(error) = checked {
            self.faults.push((stage, error.to_string()));
        }
    }

    pub(super) fn feed_faults(&mut self) {
        for (stage, what) in std::mem::take(&mut self.faults) {
            self.feed(Event::NotAttested { stage, what });
        }
    }

    /// Asks all stages to sign.
    pub(super) fn attest(&mut self, goes_on: &[u32]) {
        let terms = self.machine.terms();
        let Some(evidence) = &terms.evidence else { return };
        match evidence.open(terms, goes_on, &self.bindings, unix_seconds()) {
            Ok(attests) => {
                for (link, attest) in self.links.iter().zip(attests) {
                    if let Some(link) = link {
                        link.send(&Control::Attest(Box::new(attest)));
                    }
                }
            }
            // Nobody is asked, so nobody is to blame.
            Err(error) => tracing::warn!(%error, "this answer, or what is left of it, is not signed for"),
        }
    }

    /// A token came: it is what its tail will have signed for, and who does not sign in time is found.
    pub(super) fn count(&mut self, token: &Sampled) {
        let terms = self.machine.terms();
        let Some(evidence) = &terms.evidence else { return };
        let tail = terms.stages().len() - 1;
        match evidence.token(token.generation, token.position.get(), token.token) {
            Ok(None) => {}
            Ok(Some(lagging)) => self.faults.push((lagging, "it does not sign for its rows".into())),
            Err(error) => self.faults.push((tail, error.to_string())),
        }
    }
}

//! Who took part in an answer, and which of their receipts can be audited from its evidence alone.

use std::ops::Range;

use proto::{LayerSpan, NodeId};
use proto_attest::audit::{InputRows, MissingInput, Part, input_rows};
use proto_attest::check::Evidence;
use proto_attest::open::{OpenError, VerifiedOpen};
use proto_attest::receipt::VerifiedReceipt;
use proto_attest::{Address, Digest};

/// One node with one span, and what it signed in all generations in which it took part.
#[derive(Debug)]
pub struct Subject {
    /// Who.
    pub node: NodeId,
    /// Which layers.
    pub span: LayerSpan,
    parts: Vec<SubjectPart>,
}

#[derive(Debug)]
struct SubjectPart {
    open: VerifiedOpen,
    hop: u16,
    receipts: Vec<VerifiedReceipt>,
}

/// A receipt and what it takes to compute its rows again.
#[derive(Debug)]
pub struct Work<'a> {
    /// The open that it was signed under.
    pub open: &'a VerifiedOpen,
    /// The receipt.
    pub receipt: &'a VerifiedReceipt,
    /// Rows received, from position 0 up to the receipt's last one; each with the open that it was received under.
    pub input: Vec<InputPart<'a>>,
}

/// Rows received under a receipt, and the open that it was signed under.
pub type InputPart<'a> = (&'a VerifiedOpen, &'a VerifiedReceipt, Range<u32>);

/// Why evidence can't be audited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// An open that does not hold: `router verify` says more.
    #[error("an open of the evidence does not hold: {0}")]
    Open(#[from] OpenError),
    /// Input rows that no receipt covers.
    #[error(transparent)]
    Missing(#[from] MissingInput),
    /// The first rows are of another session, whose evidence this is not.
    #[error("it goes on from {0} rows of an earlier session: audit that one")]
    Reused(u32),
}

/// Everybody who signed, each with each of its spans once. Receipts that do not hold are left out: `check` finds them.
pub fn subjects(evidence: &Evidence) -> Result<Vec<Subject>, SubjectError> {
    let mut subjects: Vec<Subject> = Vec::new();
    for generation in &evidence.generations {
        let open = generation.open.clone().verify()?;
        for (hop, place) in (0u16..).zip(&open.open().route) {
            let of_hop = generation.receipts.iter().filter(|receipt| receipt.receipt.hop == hop);
            let receipts: Vec<_> = of_hop.filter_map(|receipt| receipt.clone().verify(&open).ok()).collect();
            let part = SubjectPart { open: open.clone(), hop, receipts };
            let known =
                subjects.iter_mut().find(|known| (known.node, known.span) == (place.node, place.span));
            match known {
                Some(known) => known.parts.push(part),
                None => {
                    subjects.push(Subject { node: place.node, span: place.span, parts: vec![part] });
                }
            }
        }
    }
    subjects.retain(|subject| subject.parts.iter().any(|part| !part.receipts.is_empty()));
    Ok(subjects)
}

impl Subject {
    /// Epochs in which it signed, with the key that it signed with.
    pub fn epochs(&self) -> Vec<(u64, Address)> {
        let mut epochs: Vec<(u64, Address)> = Vec::new();
        for part in &self.parts {
            let Some(hop) = part.open.open().hop(part.hop) else { continue };
            for receipt in &part.receipts {
                let epoch = (receipt.receipt().epoch, hop.receipt_key);
                if !epochs.contains(&epoch) {
                    epochs.push(epoch);
                }
            }
        }
        epochs
    }

    /// Its receipts of an epoch.
    pub fn receipts(&self, epoch: u64) -> impl Iterator<Item = Digest> + '_ {
        let receipts = self.parts.iter().flat_map(|part| &part.receipts);
        receipts.filter(move |receipt| receipt.receipt().epoch == epoch).map(VerifiedReceipt::digest)
    }

    /// What it takes to audit one of its receipts.
    pub fn work(&self, receipt: &Digest) -> Option<Result<Work<'_>, SubjectError>> {
        let (index, part, receipt) = self.parts.iter().enumerate().find_map(|(index, part)| {
            let found = part.receipts.iter().find(|known| known.digest() == *receipt);
            found.map(|found| (index, part, found))
        })?;
        Some(self.input(index, receipt).map(|input| Work { open: &part.open, receipt, input }))
    }

    fn input(&self, index: usize, receipt: &VerifiedReceipt) -> Result<Vec<InputPart<'_>>, SubjectError> {
        let first = &self.parts[0];
        let reused = first.open.open().hop(first.hop).map_or(0, |hop| hop.goes_on);
        // In a later generation it may have taken part in one whose evidence is not here; that is found below.
        if reused > 0 && first.open.open().prev == Digest::ZERO {
            return Err(SubjectError::Reused(reused));
        }
        let parts: Vec<Part<'_>> = self.parts[..=index]
            .iter()
            .map(|part| Part { open: part.open.open(), hop: part.hop, receipts: &part.receipts })
            .collect();
        let rows = input_rows(&parts, 0, receipt.receipt().rows.end)?;
        let found = rows.into_iter().filter_map(|InputRows { part, receipt, rows }| {
            let part = &self.parts[part];
            let receipt = part.receipts.iter().find(|known| known.digest() == receipt)?;
            Some((&part.open, receipt, rows))
        });
        Ok(found.collect())
    }
}

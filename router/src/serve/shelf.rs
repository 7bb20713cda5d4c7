//! Which models make room for others: pure.

use std::time::Duration;

use proto::ModelId;

use super::config::MAX_MODELS;

/// A model that is served, as the decision sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) model: ModelId,
    /// The router was told to serve it.
    pub(super) configured: bool,
    /// A node offers it.
    pub(super) offered: bool,
    /// Requests of it wait or run.
    pub(super) busy: bool,
    /// Since a request named it, or since it was fetched.
    pub(super) unused: Duration,
}

/// The models to let go so that `wanted` more find a place: those that nobody offers or uses, then the ones used longest
/// ago. One that is configured or busy stays, whoever wants its place.
pub(super) fn let_go(kept: &[Kept], loading: usize, wanted: usize) -> Vec<ModelId> {
    let mut idle: Vec<&Kept> =
        kept.iter().filter(|model| !model.configured && !model.busy && model.unused >= SETTLED).collect();
    idle.sort_by_key(|model| (model.offered, std::cmp::Reverse(model.unused), model.model));
    let missing = (kept.len() + loading + wanted).saturating_sub(MAX_MODELS);
    let forgotten = |model: &Kept| !model.offered && model.unused >= FORGOTTEN;
    let goes = |&(at, model): &(usize, &Kept)| at < missing || forgotten(model);
    idle.into_iter().enumerate().filter(goes).map(|(_, model)| model.model).collect()
}

/// Whether one more finds a place, if some go for it.
pub(super) fn fits(kept: &[Kept], loading: usize) -> bool {
    kept.len() + loading < MAX_MODELS + let_go(kept, loading, 1).len()
}

/// A request that has found its model is in its queue within this. It also bounds how often strangers can have models
/// fetched that nobody uses.
const SETTLED: Duration = Duration::from_secs(30);
/// Its nodes are hardly restarting. Fetching it again costs a second, from the cache of blobs.
const FORGOTTEN: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// The first was used longest ago.
    fn full() -> Vec<Kept> {
        (0..MAX_MODELS as u8)
            .map(|number| Kept {
                model: id(number),
                configured: false,
                offered: true,
                busy: false,
                unused: Duration::from_secs(100 - u64::from(number)),
            })
            .collect()
    }

    fn id(number: u8) -> ModelId {
        ModelId::from_bytes([number; 32])
    }

    #[test]
    fn one_that_is_asked_for_takes_the_place_of_the_one_used_longest_ago() {
        let mut kept = full();
        assert_eq!(let_go(&kept, 0, 0), []);
        assert_eq!(let_go(&kept, 0, 1), [id(0)]);
        assert_eq!(let_go(&kept, 1, 1), [id(0), id(1)]);
        kept[0].busy = true;
        kept[1].configured = true;
        kept[2].unused = SETTLED / 2;
        assert_eq!(let_go(&kept, 0, 1), [id(3)]);
        kept[9].offered = false;
        assert_eq!(let_go(&kept, 0, 2), [id(9), id(3)]);
        kept.truncate(12);
        assert_eq!(let_go(&kept, 0, 4), []);
    }

    #[test]
    fn one_that_nobody_offers_goes_after_a_while_unless_it_is_configured_or_busy() {
        let mut kept = full();
        kept.truncate(4);
        for model in &mut kept {
            model.unused = FORGOTTEN;
            model.offered = false;
        }
        kept[0].configured = true;
        kept[1].busy = true;
        kept[2].unused = FORGOTTEN / 2;
        assert_eq!(let_go(&kept, 0, 0), [id(3)]);
    }

    #[test]
    fn what_is_configured_stays_however_many_are_asked_for() {
        let kept: Vec<Kept> = full().into_iter().map(|model| Kept { configured: true, ..model }).collect();
        assert_eq!(let_go(&kept, 2, 100), []);
        assert!(!fits(&kept, 0));
        assert!(fits(&kept[1..], 0) && !fits(&kept[1..], 1));
        assert!(fits(&full(), 3));
    }
}

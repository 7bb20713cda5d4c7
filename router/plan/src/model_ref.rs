//! Which model a user means: by name, by `NAME@id8`, by full id, or by leaving it out where there is only one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use proto::record::MAX_NAME_BYTES;
use proto::{ModelId, NodeId};

use crate::View;

/// How a user names a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelRef {
    /// The name that nodes announce.
    Name(String),
    /// A name and the first digits (8 at least) of the id.
    NameAndId(String, String),
    /// The whole id.
    Id(ModelId),
}

/// Why a text names no model.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ModelRefError {
    /// Nothing, or more than a name may have.
    #[error("a model's name has 1 to {MAX_NAME_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// Control characters.
    #[error("a model's name holds no control characters")]
    Control,
}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let parsed = match text.rsplit_once('@') {
            Some((name, id))
                if !name.is_empty()
                    && (8..=64).contains(&id.len())
                    && id.chars().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                Self::NameAndId(name.into(), id.to_ascii_lowercase())
            }
            _ => Self::Name(text.into()),
        };
        let (Self::Name(name) | Self::NameAndId(name, _)) = &parsed else { return Ok(parsed) };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(ModelRefError::Length(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(ModelRefError::Control);
        }
        Ok(parsed)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::NameAndId(name, id) => write!(f, "{name}@{id}"),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

/// Weights that nodes announce under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelCandidate {
    /// The weights.
    pub model: ModelId,
    /// The name.
    pub name: String,
    /// Who announces them, ordered.
    pub nodes: Vec<NodeId>,
}

impl fmt::Display for ModelCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(NodeId::short).collect();
        write!(f, "{}@{} (nodes {})", self.name, self.model.short(), nodes.join(", "))
    }
}

/// The model that was meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedModel {
    /// The weights.
    pub model: ModelId,
    /// The name asked for, or the first one announced.
    pub name: String,
    /// Layers by most of the announcements; the manifest decides.
    pub n_layers: u32,
}

/// Why it is not clear which model is meant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResolveError {
    /// No node offers any model.
    #[error("no node offers any model")]
    Nothing,
    /// Nobody offers this one.
    #[error("no node offers {wanted}; offered are: {}", list(.found))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<ModelCandidate>,
    },
    /// One name, several weights.
    #[error(
        "{name} names different weights: {}; write NAME@ID (the id's first 8 digits) or the whole id",
        list(.candidates)
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// Each of its meanings with its nodes.
        candidates: Vec<ModelCandidate>,
    },
    /// No model was asked for, and there are several.
    #[error("several models are offered, say which (`model`, or --model): {}", list(.found))]
    Several {
        /// What there is.
        found: Vec<ModelCandidate>,
    },
}

fn list(candidates: &[ModelCandidate]) -> String {
    let texts: Vec<_> = candidates.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".into() } else { texts.join("; ") }
}

/// Every (name, weights) pair on offer, ordered by name, then id. Expired records do not count.
pub fn models(view: &View) -> Vec<ModelCandidate> {
    let mut found: BTreeMap<(&str, ModelId), Vec<NodeId>> = BTreeMap::new();
    for node in view.nodes().filter(|node| !view.is_expired(node)) {
        if let Some(offer) = node.offer() {
            found.entry((&offer.model_name, offer.model)).or_default().push(node.node());
        }
    }
    found
        .into_iter()
        .map(|((name, model), nodes)| ModelCandidate { model, name: name.into(), nodes })
        .collect()
}

/// Which model `wanted` means in this view; `None` means the only one there is.
pub fn resolve(view: &View, wanted: Option<&ModelRef>) -> Result<ResolvedModel, ResolveError> {
    let all = models(view);
    if all.is_empty() {
        return Err(match wanted {
            Some(wanted) => ResolveError::Unknown { wanted: wanted.to_string(), found: all },
            None => ResolveError::Nothing,
        });
    }
    let meant: Vec<_> = all
        .iter()
        .filter(|candidate| match wanted {
            None => true,
            Some(ModelRef::Name(name)) => candidate.name == *name,
            Some(ModelRef::NameAndId(name, id)) => {
                candidate.name == *name && candidate.model.to_hex().starts_with(id.as_str())
            }
            Some(ModelRef::Id(id)) => candidate.model == *id,
        })
        .cloned()
        .collect();
    let ids: BTreeSet<_> = meant.iter().map(|candidate| candidate.model).collect();
    match (meant.first(), ids.len()) {
        (Some(first), 1) => Ok(ResolvedModel {
            model: first.model,
            name: first.name.clone(),
            n_layers: layers_of(view, first.model),
        }),
        (Some(_), _) => Err(match wanted {
            Some(wanted) => ResolveError::Ambiguous { name: wanted.to_string(), candidates: meant },
            None => ResolveError::Several { found: meant },
        }),
        (None, _) => Err(ResolveError::Unknown {
            wanted: wanted.map(ToString::to_string).unwrap_or_default(),
            found: all,
        }),
    }
}

/// The number of layers that most nodes announce; the larger one if two are equally frequent.
fn layers_of(view: &View, model: ModelId) -> u32 {
    let mut votes: BTreeMap<u32, u32> = BTreeMap::new();
    for offer in view.nodes().filter_map(|node| node.offer()).filter(|offer| offer.model == model) {
        *votes.entry(offer.n_layers).or_default() += 1;
    }
    votes.into_iter().max_by_key(|&(layers, votes)| (votes, layers)).map_or(0, |(layers, _)| layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, Shard, model, node};

    fn view(shards: &[Shard]) -> View {
        View::of_records(NOW, shards.iter().map(Shard::record))
    }

    #[test]
    fn references_parse() {
        let id = "ab".repeat(32);
        assert_eq!(id.parse(), Ok(ModelRef::Id(ModelId::from_bytes([0xab; 32]))));
        assert_eq!("toy@03030303".parse(), Ok(ModelRef::NameAndId("toy".into(), "03030303".into())));
        assert_eq!("me@home".parse(), Ok(ModelRef::Name("me@home".into())));
        assert!("".parse::<ModelRef>().is_err());
        assert!("a\nb".parse::<ModelRef>().is_err());
    }

    #[test]
    fn one_name_with_two_ids_is_an_error_that_lists_both_with_their_nodes() {
        let view = view(&[Shard::new(1, 0, 30), Shard { model: model(4), ..Shard::new(2, 0, 30) }]);
        let error = resolve(&view, Some(&"toy".parse().unwrap())).unwrap_err();
        let text = error.to_string();
        for part in [model(3).short(), model(4).short(), node(1).short(), node(2).short()] {
            assert!(text.contains(&part), "{text}");
        }
        let found = resolve(&view, Some(&"toy@04040404".parse().unwrap())).unwrap();
        assert_eq!(found.model, model(4));
        let found = resolve(&view, Some(&model(3).to_hex().parse().unwrap())).unwrap();
        assert_eq!(found.model, model(3));
        assert!(matches!(resolve(&view, None), Err(ResolveError::Several { .. })));
    }

    #[test]
    fn an_unknown_name_lists_what_there_is_and_a_missing_one_takes_the_only_model() {
        let view = view(&[Shard::new(1, 0, 15), Shard::new(2, 15, 30)]);
        let error = resolve(&view, Some(&"other".parse().unwrap())).unwrap_err();
        assert!(error.to_string().contains("toy@03030303"), "{error}");
        let found = resolve(&view, None).unwrap();
        assert_eq!((found.model, found.name.as_str(), found.n_layers), (model(3), "toy", 30));
        assert_eq!(resolve(&View::at(NOW), None), Err(ResolveError::Nothing));
    }
}

//! Which layers have a window, as a list in a model's metadata says, and the rule that gives such a list.

use proto::manifest::SlidingWindow;

/// For each layer, whether it has a window.
#[derive(Debug)]
pub(super) struct LayerTypes(Vec<bool>);

impl LayerTypes {
    /// From a flag for each layer.
    pub(super) fn from_sliding(sliding: Vec<bool>) -> Self {
        Self(sliding)
    }

    /// The rule behind the list; a list without one is named as an unsupported part.
    pub(super) fn window(&self, width: u32, unsupported: &mut Vec<String>) -> Option<SlidingWindow> {
        if !self.0.contains(&true) {
            return None;
        }
        let global_every = self.0.iter().position(|sliding| !sliding).map(|first| first as u32 + 1);
        let window = SlidingWindow { width, global_every };
        // A first layer that sees all, before others with a window, would be every first of a pattern.
        let holds = global_every != Some(1)
            && self.0.iter().enumerate().all(|(layer, &sliding)| window.covers(layer as u32) == sliding);
        if !holds {
            unsupported.push("layer_types that follow no pattern of one in so many".to_owned());
        }
        holds.then_some(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_rules_or_are_named() {
        let window = |list: &str| {
            let mut unsupported = Vec::new();
            let sliding = list.chars().map(|c| c == 's').collect();
            let window = LayerTypes::from_sliding(sliding).window(32, &mut unsupported);
            (window.map(|window| window.global_every), unsupported.len())
        };
        assert_eq!(window("ffff"), (None, 0));
        assert_eq!(window("ssss"), (Some(None), 0));
        assert_eq!(window("ssfssfs"), (Some(Some(3)), 0));
        assert_eq!(window("sfsf"), (Some(Some(2)), 0));
        assert_eq!(window("ffss"), (None, 1));
        assert_eq!(window("ssfsss"), (None, 1));
    }
}

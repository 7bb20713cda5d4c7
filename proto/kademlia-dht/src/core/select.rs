//! Picks the nearest of many under a cap per subnet. Pure.

use std::collections::BTreeMap;

use super::subnet::Subnet;

/// Takes the first `count` of `sorted`, but at most `cap` per subnet while others are left; if the caps leave
/// places empty, they are filled in order. So a swarm that lives in one data centre still works, and one that
/// is under attack from a few subnets gives them a few places only.
///
/// Returns indices into `sorted`, ascending.
pub(crate) fn subnet_fair(sorted: impl Iterator<Item = Subnet>, count: usize, cap: usize) -> Vec<usize> {
    let mut per_subnet: BTreeMap<Subnet, usize> = BTreeMap::new();
    let mut taken = Vec::with_capacity(count);
    let mut over_cap = Vec::new();
    for (index, subnet) in sorted.enumerate() {
        if taken.len() == count {
            break;
        }
        let seen = per_subnet.entry(subnet).or_default();
        if *seen < cap {
            *seen += 1;
            taken.push(index);
        } else if over_cap.len() < count {
            over_cap.push(index);
        }
    }
    let missing = count - taken.len();
    if missing > 0 && !over_cap.is_empty() {
        taken.extend(over_cap.into_iter().take(missing));
        taken.sort_unstable();
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(ids: &[u8]) -> impl Iterator<Item = Subnet> {
        ids.iter().map(|id| Subnet::V4([9, 9, *id]))
    }

    #[test]
    fn caps_bind_while_others_are_left() {
        assert_eq!(subnet_fair(nets(&[1, 1, 1, 1, 2, 3]), 4, 2), [0, 1, 4, 5]);
    }

    #[test]
    fn empty_places_are_filled_in_order() {
        assert_eq!(subnet_fair(nets(&[1, 1, 1, 1, 2]), 4, 2), [0, 1, 2, 4]);
        assert_eq!(subnet_fair(nets(&[]), 4, 2), Vec::<usize>::new());
    }
}

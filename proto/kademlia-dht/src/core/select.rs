//! Picks the nearest of many under a cap per subnet. Pure.

use super::subnet::Subnet;

/// Takes the first `count` of `sorted`, but at most `cap` per subnet while others are left; if the caps leave
/// places empty, they are filled in order. So a swarm that lives in one data centre still works, and one that
/// is under attack from a few subnets gives them a few places only.
///
/// Keeps the order; reads no further than it must.
pub(crate) fn subnet_fair<T>(sorted: impl Iterator<Item = (T, Subnet)>, count: usize, cap: usize) -> Vec<T> {
    // `count` is a few dozen at most: a list is faster than a map.
    let mut crowds: Vec<(Subnet, usize)> = Vec::with_capacity(count);
    let mut taken: Vec<(usize, T)> = Vec::with_capacity(count);
    let mut over_cap = Vec::new();
    for (place, (item, subnet)) in sorted.enumerate() {
        if taken.len() == count {
            break;
        }
        let seen = match crowds.iter_mut().find(|(other, _)| *other == subnet) {
            Some((_, seen)) => seen,
            None => &mut crowds.push_mut((subnet, 0)).1,
        };
        if *seen < cap {
            *seen += 1;
            taken.push((place, item));
        } else if over_cap.len() < count {
            over_cap.push((place, item));
        }
    }
    let missing = count - taken.len();
    if missing > 0 && !over_cap.is_empty() {
        taken.extend(over_cap.into_iter().take(missing));
        taken.sort_unstable_by_key(|(place, _)| *place);
    }
    taken.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(ids: &[u8]) -> impl Iterator<Item = (usize, Subnet)> {
        ids.iter().map(|id| Subnet::V4([9, 9, *id])).enumerate()
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

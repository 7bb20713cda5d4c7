//! Ids of calls: different for every call of every answer, from the answer's own id, so that nothing is drawn here.

/// The id of a choice's call. `letters`: how many letters and digits; Mistral's templates take exactly nine and nothing
/// else, others anything.
pub(super) fn call_id(answer: &str, choice: u32, call: u32, mistral: bool) -> String {
    let (mut id, letters) = if mistral { (String::new(), 9) } else { ("call_".to_owned(), 24) };
    let mut state = fnv1a(answer.as_bytes());
    state = mixed(state ^ (u64::from(choice) << 32 | u64::from(call)));
    for _ in 0..letters {
        state = mixed(state);
        id.push(char::from(LETTERS[(state % LETTERS.len() as u64) as usize]));
    }
    id
}

/// FNV-1a, 64 bits (Fowler, Noll and Vo).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A step of `SplitMix64` (Steele, Lea and Flood 2014).
const fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_their_form() {
        let mut seen = std::collections::HashSet::new();
        for answer in ["chatcmpl-1", "chatcmpl-2"] {
            for (choice, call) in (0..16).flat_map(|choice| (0..16).map(move |call| (choice, call))) {
                let id = call_id(answer, choice, call, false);
                assert_eq!(id.len(), 29);
                assert!(seen.insert(id));
                let short = call_id(answer, choice, call, true);
                assert!(short.len() == 9 && short.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                assert!(seen.insert(short));
            }
        }
        assert_eq!(call_id("a", 0, 0, false), call_id("a", 0, 0, false));
    }
}

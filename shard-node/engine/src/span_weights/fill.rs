//! Reads rows of stacked tensors into one matrix, on several threads.

use shard_node_weights::{Checkpoint, Element, StoredTensor, TensorError};

/// Fills `values`, `columns` to a row, with the rows of `parts` one after the other.
pub(super) fn fill<T: Element + Send>(
    checkpoint: &Checkpoint,
    parts: &[(&StoredTensor, u64)],
    columns: u64,
    values: &mut [T],
) -> Result<(), TensorError> {
    let threads = (values.len() as u64 / VALUES_WORTH_A_THREAD).clamp(1, most_threads());
    fill_with(threads, checkpoint, parts, columns, values)
}

fn fill_with<T: Element + Send>(
    threads: u64,
    checkpoint: &Checkpoint,
    parts: &[(&StoredTensor, u64)],
    columns: u64,
    values: &mut [T],
) -> Result<(), TensorError> {
    let rows: u64 = parts.iter().map(|&(_, rows)| rows).sum();
    if threads == 1 {
        return fill_rows(checkpoint, parts, columns, 0, values);
    }
    let share = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        let shares = values.chunks_mut((share * columns) as usize).enumerate();
        let threads: Vec<_> = shares
            .map(|(index, values)| {
                let first = index as u64 * share;
                scope.spawn(move || fill_rows(checkpoint, parts, columns, first, values))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(filled) => filled,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// The rows from `first` on, as many as `values` has room for.
fn fill_rows<T: Element>(
    checkpoint: &Checkpoint,
    parts: &[(&StoredTensor, u64)],
    columns: u64,
    first: u64,
    mut values: &mut [T],
) -> Result<(), TensorError> {
    let mut begin = 0;
    for &(tensor, rows) in parts {
        let from = first.max(begin);
        let wanted = from + values.len() as u64 / columns;
        let to = wanted.min(begin + rows);
        if from < to {
            let (part, rest) = std::mem::take(&mut values).split_at_mut(((to - from) * columns) as usize);
            checkpoint.rows_into(tensor, from - begin..to - begin, part)?;
            values = rest;
        }
        begin += rows;
    }
    Ok(())
}

/// As many as there are cores, and no more than share a disk or the memory to any use.
fn most_threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64).min(16)
}

/// A thread takes some 30 us to start, in which it would convert about this many values.
const VALUES_WORTH_A_THREAD: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn any_number_of_threads_reads_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [5u64, 1, 7];
        let mut header = String::from("{");
        let mut offset = 0;
        for (index, rows) in rows.iter().enumerate() {
            let end = offset + rows * 3 * 4;
            let comma = if index == 0 { "" } else { "," };
            write!(
                header,
                r#"{comma}"t{index}":{{"dtype":"F32","shape":[{rows},3],"data_offsets":[{offset},{end}]}}"#
            )
            .unwrap();
            offset = end;
        }
        header += "}";
        let expected: Vec<f32> = (0..13 * 3).map(|value| value as f32).collect();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(expected.iter().flat_map(|value| value.to_le_bytes()));
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let names = ["t0", "t1", "t2"];
        let parts: Vec<_> =
            names.iter().zip(rows).map(|(name, rows)| (checkpoint.tensor(name).unwrap(), rows)).collect();
        for threads in 1..=16 {
            let mut values = vec![0.0f32; expected.len()];
            fill_with(threads, &checkpoint, &parts, 3, &mut values).unwrap();
            assert_eq!(values, expected, "{threads} threads");
        }
    }
}

//! Selection of matrix rows by index, used for token embeddings and to remove padding positions.

use std::sync::Arc;

use super::matrix::Matrix;
use super::tape::{Node, Tape};

/// Returns the rows `chosen` of `table`, in the order of `chosen`. A row may be chosen more than once.
pub(crate) fn rows(tape: &Tape, table: &Node, chosen: &Arc<[u32]>) -> Node {
    let (from, cols) = (table.value().data(), table.value().cols());
    let mut out = Vec::with_capacity(chosen.len() * cols);
    for &row in chosen.iter() {
        out.extend_from_slice(&from[row as usize * cols..][..cols]);
    }
    let value = Matrix::new(out, chosen.len(), cols);
    let (input, chosen) = (table.clone(), Arc::clone(chosen));
    tape.record(value, &[table], move |grad, grads| {
        let mut sum = vec![0f32; input.value().data().len()];
        for (grad, &row) in grad.chunks_exact(cols).zip(chosen.iter()) {
            let to = &mut sum[row as usize * cols..][..cols];
            to.iter_mut().zip(grad).for_each(|(to, g)| *to += g);
        }
        grads.add(&input, sum);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;

    #[test]
    fn row_selection_gradients_agree_with_finite_differences() {
        let chosen: Arc<[u32]> = vec![3, 0, 3].into();
        check::gradient(&[(4, 2)], 0, |t, a| rows(t, &a[0], &chosen));
    }
}

//! Dense row-major matrices and their products.

use std::sync::Arc;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use rayon::prelude::*;

use super::math;

/// The number of multiplications below which the calling thread computes a product alone.
const MIN_PARALLEL_WORK: usize = 1 << 21;

/// The number of rows up to which a blocked product is slower than inner products. With so few rows, packing the right operand
/// takes longer than the product.
const FEW_ROWS: usize = 2;

/// A row-major matrix. Clones share the data.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    data: Arc<Vec<f32>>,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Creates a matrix from `data` in row-major order.
    pub(crate) fn new(data: Vec<f32>, rows: usize, cols: usize) -> Self {
        assert_eq!(
            data.len(),
            rows * cols,
            "a matrix of {rows} rows and {cols} columns"
        );
        Self {
            data: Arc::new(data),
            rows,
            cols,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    /// Returns the data so that it can be changed in place. If a clone shares the data, copies the data first.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.data).as_mut_slice()
    }

    /// Returns a matrix with the same data and another number of rows and columns.
    pub(crate) fn reshaped(&self, rows: usize, cols: usize) -> Self {
        assert_eq!(self.data.len(), rows * cols, "the number of elements stays");
        Self {
            data: Arc::clone(&self.data),
            rows,
            cols,
        }
    }

    /// Returns a view of the complete matrix.
    pub(crate) fn view(&self) -> MatrixView<'_> {
        MatrixView::new(&self.data, self.rows, self.cols)
    }
}

/// A strided view of a matrix whose values are in a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixView<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_step: usize,
    col_step: usize,
}

impl<'a> MatrixView<'a> {
    /// Creates a view of `data` as a complete matrix in row-major order.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Creates a view of `rows` rows with `cols` values each. The starts of consecutive rows are `row_step` values apart in `data`.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_step: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_step,
            col_step: 1,
        }
    }

    /// Returns the transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_step: self.col_step,
            col_step: self.row_step,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.rows
    }

    fn rows_from(self, start: usize, rows: usize) -> Self {
        Self {
            data: &self.data[start * self.row_step..],
            rows,
            ..self
        }
    }

    fn array(&self) -> ArrayView2<'a, f32> {
        let shape = (self.rows, self.cols).strides((self.row_step, self.col_step));
        ArrayView2::from_shape(shape, self.data).expect("a view lies within its data")
    }
}

/// Computes `left · right`.
pub(crate) fn product(left: MatrixView<'_>, right: MatrixView<'_>) -> Vec<f32> {
    let mut out = vec![0f32; left.rows * right.cols];
    multiply(1.0, left, right, 0.0, &mut out);
    out
}

/// Computes `out = alpha · left · right + beta · out`.
///
/// A large product is split by rows over the threads of the current pool. Each element is summed by one thread in a fixed
/// order, so the result does not depend on the number of threads.
pub(crate) fn multiply(
    alpha: f32,
    left: MatrixView<'_>,
    right: MatrixView<'_>,
    beta: f32,
    out: &mut [f32],
) {
    assert_eq!(
        left.cols, right.rows,
        "the inner dimensions of a product are equal"
    );
    let threads = rayon::current_num_threads();
    let work = left.rows * left.cols * right.cols;
    if threads == 1 || work < MIN_PARALLEL_WORK || left.rows < 2 * threads {
        return multiply_here(alpha, left, right, beta, out);
    }
    let share = left.rows.div_ceil(threads);
    out.par_chunks_mut(share * right.cols)
        .enumerate()
        .for_each(|(index, out)| {
            let part = left.rows_from(index * share, out.len() / right.cols);
            multiply_here(alpha, part, right, beta, out);
        });
}

fn multiply_here(
    alpha: f32,
    left: MatrixView<'_>,
    right: MatrixView<'_>,
    beta: f32,
    out: &mut [f32],
) {
    if left.rows <= FEW_ROWS && left.col_step == 1 && right.row_step == 1 {
        return multiply_few(alpha, left, right, beta, out);
    }
    let mut out = ArrayViewMut2::from_shape((left.rows, right.cols), out)
        .expect("the output has the shape of the product");
    general_mat_mul(alpha, &left.array(), &right.array(), beta, &mut out);
}

/// Computes a product with few rows as inner products. The right operand must be transposed, so that its columns are contiguous.
fn multiply_few(
    alpha: f32,
    left: MatrixView<'_>,
    right: MatrixView<'_>,
    beta: f32,
    out: &mut [f32],
) {
    for (index, out) in out.chunks_exact_mut(right.cols).enumerate() {
        let row = &left.data[index * left.row_step..][..left.cols];
        for (column, out) in out.iter_mut().enumerate() {
            let other = &right.data[column * right.col_step..][..right.rows];
            let value = alpha * math::dot(row, other);
            *out = if beta == 0.0 {
                value
            } else {
                value + beta * *out
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn naive_product(left: &[f32], right: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
        let mut out = vec![0f64; m * n];
        for i in 0..m {
            for j in 0..n {
                out[i * n + j] = (0..k)
                    .map(|x| f64::from(left[i * k + x]) * f64::from(right[x * n + j]))
                    .sum();
            }
        }
        out
    }

    #[test]
    fn matrix_products_agree_with_a_simple_loop() {
        let mut rng = Rng::new(1);
        for (m, k, n) in [(1, 7, 5), (33, 20, 17), (130, 70, 64), (2, 300, 3)] {
            let (left, right) = (rng.uniform(m * k, 1.0), rng.uniform(k * n, 1.0));
            let want = naive_product(&left, &right, (m, k, n));
            let got = product(MatrixView::new(&left, m, k), MatrixView::new(&right, k, n));
            let transposed: Vec<f32> = (0..n * k).map(|i| right[(i % k) * n + i / k]).collect();
            let also = product(
                MatrixView::new(&left, m, k),
                MatrixView::new(&transposed, n, k).t(),
            );
            for ((got, also), want) in got.iter().zip(&also).zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-4);
                assert!((f64::from(*also) - want).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn matrix_products_are_bitwise_equal_on_any_number_of_threads() {
        let mut rng = Rng::new(2);
        let (m, k, n) = (517, 192, 130);
        let (left, right) = (rng.uniform(m * k, 1.0), rng.uniform(k * n, 1.0));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| product(MatrixView::new(&left, m, k), MatrixView::new(&right, k, n)))
        };
        let one: Vec<u32> = with(1).iter().map(|x| x.to_bits()).collect();
        let three: Vec<u32> = with(3).iter().map(|x| x.to_bits()).collect();
        assert_eq!(one, three);
    }
}

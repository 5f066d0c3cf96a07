//! Causal grouped-query attention, computed for one block of queries at a time.
//!
//! The scores of a block fit into the CPU cache and are recomputed in the backward pass instead of stored. Keys after the
//! last query of a block are skipped, which halves the arithmetic. Training and sampling share the implementation; sampling
//! passes keys and values from the KV cache.

use rayon::prelude::*;

use super::math;
use super::matrix::{Matrix, MatrixView, multiply, product};
use super::tape::{Node, Tape};

/// The number of queries that are computed as one block. The scores of one block and 512 keys occupy 128 KB.
const BLOCK: usize = 64;

/// The minimum number of query-key pairs from which the heads are computed on several threads.
const MIN_PARALLEL_WORK: usize = 1 << 14;

/// The dimensions of an attention call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The number of query positions per sequence.
    pub(crate) queries: usize,
    /// The number of cached key positions before the first query position.
    pub(crate) past: usize,
    /// The number of query heads.
    pub(crate) heads: usize,
    /// The number of key heads, which is also the number of value heads. Each of them is shared by `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// The width of a head.
    pub(crate) width: usize,
}

/// Computes causal attention for a batch of sequences that are concatenated in the rows of `q`, `k` and `v`.
///
/// Each row holds the values of all heads. Position `i` of a sequence attends to positions `0..=i` of the same sequence.
/// The result has the shape of `q`.
pub(crate) fn causal(tape: &Tape, q: &Node, k: &Node, v: &Node, geometry: Geometry) -> Node {
    let rows = q.value().rows();
    let mut out = vec![0f32; q.value().data().len()];
    let (q_len, kv_len) = geometry.lengths();
    for (index, out) in out.chunks_exact_mut(q_len).enumerate() {
        geometry.attend(
            &q.value().data()[index * q_len..][..q_len],
            &k.value().data()[index * kv_len..][..kv_len],
            &v.value().data()[index * kv_len..][..kv_len],
            out,
        );
    }
    let value = Matrix::new(out, rows, q.value().cols());
    let (q_in, k_in, v_in, out) = (q.clone(), k.clone(), v.clone(), value.clone());
    tape.record(value, &[q, k, v], move |grad, grads| {
        let mut dq = vec![0f32; q_in.value().data().len()];
        let mut dk = vec![0f32; k_in.value().data().len()];
        let mut dv = vec![0f32; dk.len()];
        for index in 0..dq.len() / q_len {
            let (at, kv_at) = (index * q_len, index * kv_len);
            let back = Backward {
                geometry,
                q: &q_in.value().data()[at..at + q_len],
                k: &k_in.value().data()[kv_at..kv_at + kv_len],
                v: &v_in.value().data()[kv_at..kv_at + kv_len],
                out: &out.data()[at..at + q_len],
                grad: &grad[at..at + q_len],
            };
            let heads: Vec<_> = (0..geometry.kv_heads)
                .into_par_iter()
                .map(|kv_head| back.kv_head(kv_head))
                .collect();
            for (kv_head, (dq_heads, dk_head, dv_head)) in heads.into_iter().enumerate() {
                for (offset, dq_head) in dq_heads.iter().enumerate() {
                    let head = kv_head * geometry.group() + offset;
                    scatter(
                        dq_head,
                        &mut dq[at..at + q_len],
                        geometry.heads,
                        head,
                        geometry.width,
                    );
                }
                let kv = kv_at..kv_at + kv_len;
                scatter(
                    &dk_head,
                    &mut dk[kv.clone()],
                    geometry.kv_heads,
                    kv_head,
                    geometry.width,
                );
                scatter(
                    &dv_head,
                    &mut dv[kv],
                    geometry.kv_heads,
                    kv_head,
                    geometry.width,
                );
            }
        }
        grads.add(&q_in, dq);
        grads.add(&k_in, dk);
        grads.add(&v_in, dv);
    })
}

impl Geometry {
    /// Returns the number of query values and the number of key values of one sequence.
    fn lengths(&self) -> (usize, usize) {
        let keys = self.past + self.queries;
        (
            self.queries * self.heads * self.width,
            keys * self.kv_heads * self.width,
        )
    }

    /// Returns the number of query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    #[expect(clippy::cast_precision_loss, reason = "head widths are small integers")]
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Computes attention for one sequence. Does not read the rows of `k` and `v` for positions after the last query.
    pub(crate) fn attend(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        if self.queries == 1 {
            return self.attend_one(q, k, v, out);
        }
        let heads: Vec<Vec<f32>> = (0..self.heads)
            .into_par_iter()
            .with_min_len(
                if self.queries * (self.past + self.queries) < MIN_PARALLEL_WORK {
                    self.heads
                } else {
                    1
                },
            )
            .map(|head| self.attend_head(q, k, v, head))
            .collect();
        for (head, data) in heads.iter().enumerate() {
            scatter(data, out, self.heads, head, self.width);
        }
    }

    fn attend_head(&self, q: &[f32], k: &[f32], v: &[f32], head: usize) -> Vec<f32> {
        let kv_head = head / self.group();
        let mut out = Vec::with_capacity(self.queries * self.width);
        for from in (0..self.queries).step_by(BLOCK) {
            let to = (from + BLOCK).min(self.queries);
            let keys = self.past + to;
            let p = self.probabilities(self.query_rows(q, head, from, to), k, kv_head, from);
            let v = self.key_rows(v, kv_head, keys);
            out.extend(product(MatrixView::new(&p, to - from, keys), v));
        }
        out
    }

    /// Computes the attention of a single query with simple loops. For one query, they are faster than matrix products.
    fn attend_one(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let (width, row, keys) = (self.width, self.kv_heads * self.width, self.past + 1);
        let mut scores = vec![0f32; keys];
        for (head, (q, out)) in q
            .chunks_exact(width)
            .zip(out.chunks_exact_mut(width))
            .enumerate()
        {
            let at = head / self.group() * width;
            for (score, k) in scores.iter_mut().zip(k.chunks_exact(row)) {
                *score = math::dot(q, &k[at..at + width]) * self.scale();
            }
            math::softmax(&mut scores);
            out.fill(0.0);
            for (p, v) in scores.iter().zip(v.chunks_exact(row)) {
                for (out, v) in out.iter_mut().zip(&v[at..at + width]) {
                    *out += p * v;
                }
            }
        }
    }

    /// Returns the rows `from..to` of the queries of one head.
    fn query_rows<'a>(&self, q: &'a [f32], head: usize, from: usize, to: usize) -> MatrixView<'a> {
        let row = self.heads * self.width;
        let data = &q[from * row + head * self.width..];
        MatrixView::strided(data, to - from, self.width, row)
    }

    /// Returns the first `len` rows of the keys or values of one head.
    fn key_rows<'a>(&self, k: &'a [f32], head: usize, len: usize) -> MatrixView<'a> {
        let row = self.kv_heads * self.width;
        MatrixView::strided(&k[head * self.width..], len, self.width, row)
    }

    /// Returns the attention probabilities of the queries in `rows`. The first of these queries is at position `from`. The keys are
    /// all keys up to the position of the last of these queries.
    fn probabilities(
        &self,
        rows: MatrixView<'_>,
        k: &[f32],
        kv_head: usize,
        from: usize,
    ) -> Vec<f32> {
        let count = rows.count();
        let keys = self.past + from + count;
        let mut scores = vec![0f32; count * keys];
        let k = self.key_rows(k, kv_head, keys).t();
        multiply(self.scale(), rows, k, 0.0, &mut scores);
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = scores.split_at_mut(self.past + from + row + 1);
            math::softmax(seen);
            hidden.fill(0.0);
        }
        scores
    }
}

/// The inputs from which the gradients of the attention of one sequence are computed.
struct Backward<'a> {
    geometry: Geometry,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    grad: &'a [f32],
}

/// The gradients of a group of query heads, and of the key head and value head that they share.
type HeadGrads = (Vec<Vec<f32>>, Vec<f32>, Vec<f32>);

impl Backward<'_> {
    fn kv_head(&self, kv_head: usize) -> HeadGrads {
        let g = &self.geometry;
        let mut dk = vec![0f32; g.queries * g.width];
        let mut dv = vec![0f32; g.queries * g.width];
        let heads = kv_head * g.group()..(kv_head + 1) * g.group();
        let dq = heads
            .map(|head| {
                let mut dq = Vec::with_capacity(g.queries * g.width);
                for from in (0..g.queries).step_by(BLOCK) {
                    dq.extend(self.block(head, from, &mut dk, &mut dv));
                }
                dq
            })
            .collect();
        (dq, dk, dv)
    }

    /// Computes the gradients of one block of queries of one head. Returns dQ, and adds to dK and dV.
    ///
    /// With P the probabilities and D the row sums of grad ∘ out:
    /// dV = Pᵀ·grad, dS = P ∘ (grad·Vᵀ - D), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
    fn block(&self, head: usize, from: usize, dk: &mut [f32], dv: &mut [f32]) -> Vec<f32> {
        let g = &self.geometry;
        let to = (from + BLOCK).min(g.queries);
        let (count, kv_head, seen) = (to - from, head / g.group(), to * g.width);
        let q = g.query_rows(self.q, head, from, to);
        let grad = g.query_rows(self.grad, head, from, to);
        let k = g.key_rows(self.k, kv_head, to);
        let v = g.key_rows(self.v, kv_head, to);

        let mut p = g.probabilities(q, self.k, kv_head, from);
        multiply(
            1.0,
            MatrixView::new(&p, count, to).t(),
            grad,
            1.0,
            &mut dv[..seen],
        );
        let dp = product(grad, v.t());
        let rows = p.chunks_exact_mut(to).zip(dp.chunks_exact(to));
        for (row, (p, dp)) in rows.enumerate() {
            let at = ((from + row) * g.heads + head) * g.width;
            let sum = math::dot(&self.out[at..at + g.width], &self.grad[at..at + g.width]);
            for (p, dp) in p.iter_mut().zip(dp) {
                *p *= dp - sum;
            }
        }
        let ds = MatrixView::new(&p, count, to);
        multiply(g.scale(), ds.t(), q, 1.0, &mut dk[..seen]);
        let mut dq = vec![0f32; count * g.width];
        multiply(g.scale(), ds, k, 0.0, &mut dq);
        dq
    }
}

/// Copies the rows of one head into their columns of rows that contain all `heads` heads.
fn scatter(from: &[f32], to: &mut [f32], heads: usize, head: usize, width: usize) {
    for (from, to) in from
        .chunks_exact(width)
        .zip(to.chunks_exact_mut(heads * width))
    {
        to[head * width..][..width].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tape::check;
    use crate::rng::Rng;

    fn geometry(queries: usize) -> Geometry {
        Geometry {
            queries,
            past: 0,
            heads: 4,
            kv_heads: 2,
            width: 4,
        }
    }

    #[test]
    fn attention_gradients_agree_with_finite_differences() {
        for which in 0..3 {
            check::gradient(&[(10, 16), (10, 8), (10, 8)], which, |t, a| {
                causal(t, &a[0], &a[1], &a[2], geometry(5))
            });
        }
    }

    /// Computes the attention of one query position with simple loops in double precision, as a reference.
    fn naive_attention(q: &[f32], k: &[f32], v: &[f32], at: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for head in 0..4 {
            let kv = head / 2 * 4;
            let q = &q[at * 16 + head * 4..][..4];
            let scores: Vec<f64> = (0..=at)
                .map(|j| {
                    (0..4)
                        .map(|d| f64::from(q[d] * k[j * 8 + kv + d]))
                        .sum::<f64>()
                        / 2.0
                })
                .collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            out.extend((0..4).map(|d| {
                let parts = scores.iter().enumerate();
                let sum: f64 = parts
                    .map(|(j, s)| s.exp() * f64::from(v[j * 8 + kv + d]))
                    .sum();
                (sum / total) as f32
            }));
        }
        out
    }

    #[test]
    fn block_and_single_query_attention_agree_with_a_simple_loop() {
        let len = 150;
        let mut rng = Rng::new(9);
        let (q, k, v) = (
            rng.uniform(len * 16, 2.0),
            rng.uniform(len * 8, 2.0),
            rng.uniform(len * 8, 2.0),
        );
        let mut whole = vec![0f32; len * 16];
        geometry(len).attend(&q, &k, &v, &mut whole);
        for at in 0..len {
            let want = naive_attention(&q, &k, &v, at);
            let one = Geometry {
                past: at,
                ..geometry(1)
            };
            let mut single = vec![0f32; 16];
            one.attend(&q[at * 16..][..16], &k, &v, &mut single);
            for i in 0..16 {
                assert!((whole[at * 16 + i] - want[i]).abs() < 1e-5);
                assert!((single[i] - want[i]).abs() < 1e-5);
            }
        }
    }
}

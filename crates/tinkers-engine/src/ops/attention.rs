//! Causal grouped-query attention, a block of queries at a time.
//!
//! The scores of a block never leave the cache of the core that computes them, and are computed again on the way back
//! rather than kept. Only keys that the block may see are touched, which saves half of the arithmetic. The same kernel
//! serves training and, with keys and values from a cache, sampling.

use rayon::prelude::*;

use super::math;
use super::matrix::{Matrix, View, multiply, product};
use super::tape::{Node, Tape};

/// Queries handled together. Scores of one block and 512 keys fill an eighth of a megabyte.
const BLOCK: usize = 64;

/// Pairs of query and key below which the heads stay on one thread.
const WORTH_SPLITTING: usize = 1 << 14;

/// The sizes of one attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Query positions per sequence.
    pub(crate) queries: usize,
    /// Key positions before the first query.
    pub(crate) past: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Numbers per head.
    pub(crate) width: usize,
}

/// Attention within each of the sequences that follow one another in the rows of `q`, `k` and `v`, which hold heads side
/// by side. Position `i` of a sequence sees positions up to `i`; the result has the shape of `q`.
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
    /// Numbers of one sequence's queries, and of its keys.
    fn lengths(&self) -> (usize, usize) {
        let keys = self.past + self.queries;
        (
            self.queries * self.heads * self.width,
            keys * self.kv_heads * self.width,
        )
    }

    /// Query heads of each key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    #[expect(clippy::cast_precision_loss, reason = "head widths are small integers")]
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Attends for one sequence. Rows of `k` and `v` beyond the last query are not looked at.
    pub(crate) fn attend(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        if self.queries == 1 {
            return self.attend_one(q, k, v, out);
        }
        let heads: Vec<Vec<f32>> = (0..self.heads)
            .into_par_iter()
            .with_min_len(
                if self.queries * (self.past + self.queries) < WORTH_SPLITTING {
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
            out.extend(product(View::new(&p, to - from, keys), v));
        }
        out
    }

    /// A single query needs no matrix: the heads of a group share their keys, and the loops are short.
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

    /// Rows `from..to` of one head's queries.
    fn query_rows<'a>(&self, q: &'a [f32], head: usize, from: usize, to: usize) -> View<'a> {
        let row = self.heads * self.width;
        let data = &q[from * row + head * self.width..];
        View::strided(data, to - from, self.width, row)
    }

    /// The first `len` rows of one head's keys or values.
    fn key_rows<'a>(&self, k: &'a [f32], head: usize, len: usize) -> View<'a> {
        let row = self.kv_heads * self.width;
        View::strided(&k[head * self.width..], len, self.width, row)
    }

    /// The probabilities of the queries `rows`, which start at query `from`, over the keys that the last of them sees.
    fn probabilities(&self, rows: View<'_>, k: &[f32], kv_head: usize, from: usize) -> Vec<f32> {
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

/// What the way back of one sequence needs.
struct Backward<'a> {
    geometry: Geometry,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    grad: &'a [f32],
}

/// Gradients of a group of query heads, and of the keys and values that they share.
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

    /// One block of queries of one head: with P the probabilities and D the row sums of grad·out,
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
            View::new(&p, count, to).t(),
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
        let ds = View::new(&p, count, to);
        multiply(g.scale(), ds.t(), q, 1.0, &mut dk[..seen]);
        let mut dq = vec![0f32; count * g.width];
        multiply(g.scale(), ds, k, 0.0, &mut dq);
        dq
    }
}

/// Writes one head's rows into their places among `heads` heads.
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
    fn gradients_agree_with_finite_differences() {
        for which in 0..3 {
            check::gradient(&[(10, 16), (10, 8), (10, 8)], which, |t, a| {
                causal(t, &a[0], &a[1], &a[2], geometry(5))
            });
        }
    }

    /// Attention of one query position, written out.
    fn plain(q: &[f32], k: &[f32], v: &[f32], at: usize) -> Vec<f32> {
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
    fn blocks_and_single_queries_agree_with_a_plain_loop() {
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
            let want = plain(&q, &k, &v, at);
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

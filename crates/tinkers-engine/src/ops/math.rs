//! Elementwise arithmetic. The compiler can vectorise it, and its results are bitwise equal on every machine.

/// Computes `e^x` to about two units in the last place.
///
/// Attention and SwiGLU compute thousands of exponentials per token. `f32::exp` is not vectorised, and its result depends on the
/// platform. The result of this function is zero below -87 and `e^88` above 88, so it is always finite.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting this number rounds to the nearest integer without a function call.
    const ROUND: f32 = 12_582_912.0;

    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = clamped - whole * LN2_HIGH - whole * LN2_LOW;
    let mut poly = 1.987_569_1e-4;
    poly = poly * rest + 1.398_199_9e-3;
    poly = poly * rest + 8.333_452e-3;
    poly = poly * rest + 4.166_579_6e-2;
    poly = poly * rest + 1.666_666_5e-1;
    poly = poly * rest + 0.5;
    let mantissa = poly * rest * rest + rest + 1.0;
    // The low bits of `shifted` hold the integer; shifted left, they become the exponent of a power of two.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = mantissa * power;
    if x < -87.0 { 0.0 } else { value }
}

/// Computes `1 / (1 + e^-x)`.
#[inline]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Computes the sum of `values` in eight lanes. This form can be vectorised, and the order of the additions depends only on the
/// length.
#[inline]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let chunks = values.chunks_exact(8);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + tail.iter().sum::<f32>()
}

/// Computes the inner product of two slices of equal length, in the order of [`sum`].
#[inline]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (l, r) = (left.chunks_exact(8), right.chunks_exact(8));
    let tail: f32 = l
        .remainder()
        .iter()
        .zip(r.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in l.zip(r) {
        for (lane, (x, y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Returns the largest value, or minus infinity for an empty slice.
#[inline]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = values.chunks_exact(8);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(tail)
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// Replaces scores with their softmax.
#[inline]
pub(crate) fn softmax(scores: &mut [f32]) {
    let top = max(scores);
    for x in scores.iter_mut() {
        *x = exp(*x - top);
    }
    let scale = 1.0 / sum(scores);
    for x in scores.iter_mut() {
        *x *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_std_in_double_precision() {
        let mut x = -86.9f32;
        while x < 87.9 {
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!(
                ((got - want) / want).abs() < 3e-7,
                "exp({x}) = {got}, want {want}"
            );
            x += 0.013;
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1000.0).is_finite());
    }

    #[test]
    fn sum_dot_and_max_agree_with_simple_loops() {
        let left: Vec<f32> = (0..37u8).map(|i| f32::from(i) * 0.5 - 3.0).collect();
        let right: Vec<f32> = (0..37u8).map(|i| 2.0 - f32::from(i) * 0.25).collect();
        let want: f32 = left.iter().zip(&right).map(|(a, b)| a * b).sum();
        assert!((dot(&left, &right) - want).abs() < 1e-3);
        assert!((sum(&left) - left.iter().sum::<f32>()).abs() < 1e-3);
        assert_eq!(max(&left), 15.0);
    }

    #[test]
    fn softmax_sums_to_one_and_preserves_order() {
        let mut scores = vec![1.0f32, 3.0, -2.0, 0.5, 90.0, 89.0, -1e30, 0.0, 4.0];
        softmax(&mut scores);
        assert!((sum(&scores) - 1.0).abs() < 1e-6);
        assert!(scores[4] > scores[5] && scores[5] > scores[8]);
        assert_eq!(scores[6], 0.0);
    }
}

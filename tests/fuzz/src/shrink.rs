//! Shortens failing inputs.

/// The maximum number of times that a fuzz target runs while one failing input is shortened.
const TRIES: usize = 4000;

/// Shortens a failing input: removes pieces from `input` as long as `fails` returns `true` for the
/// rest. The pieces are halves of the input at first and single bytes at last.
pub fn shrink(mut input: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut tries = 0;
    let mut piece = input.len().div_ceil(2);
    while piece > 0 {
        let (before, mut at) = (input.len(), 0);
        while at < input.len() && tries < TRIES {
            let end = (at + piece).min(input.len());
            let shorter = [&input[..at], &input[end..]].concat();
            tries += 1;
            if fails(&shorter) {
                input = shorter;
            } else {
                at = end;
            }
        }
        // Tries the same size of pieces again as long as a piece can be removed.
        if input.len() == before || tries >= TRIES {
            piece /= 2;
        }
        piece = piece.min(input.len());
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrink_keeps_only_the_bytes_that_cause_the_failure() {
        let fails = |input: &[u8]| {
            let position = |byte| input.iter().position(|at| *at == byte);
            matches!((position(b'a'), position(b'b')), (Some(a), Some(b)) if a < b)
        };
        let long = [&[b'x'; 500][..], b"a", &[b'y'; 77], b"b", &[b'z'; 300]].concat();
        assert_eq!(shrink(long, fails), b"ab");
        assert_eq!(shrink(b"ab".to_vec(), fails), b"ab");
        // If every input fails, the shortest one is empty.
        assert_eq!(shrink(vec![1; 100], |_| true), b"");
    }
}

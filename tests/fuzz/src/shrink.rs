//! Makes what breaks a target as short as it still does.

/// An input is run so often at most.
const TRIES: usize = 4000;

/// `input` without what is not needed to break; `breaks` tells. Pieces are left out, from halves down to single bytes.
pub fn shrink(mut input: Vec<u8>, breaks: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut tries = 0;
    let mut piece = input.len().div_ceil(2);
    while piece > 0 {
        let (before, mut at) = (input.len(), 0);
        while at < input.len() && tries < TRIES {
            let end = (at + piece).min(input.len());
            let shorter = [&input[..at], &input[end..]].concat();
            tries += 1;
            if breaks(&shorter) {
                input = shorter;
            } else {
                at = end;
            }
        }
        // What is left may have become needless with what went.
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
    fn only_what_breaks_is_left() {
        let breaks = |input: &[u8]| {
            let place = |byte| input.iter().position(|at| *at == byte);
            matches!((place(b'a'), place(b'b')), (Some(a), Some(b)) if a < b)
        };
        let long = [&[b'x'; 500][..], b"a", &[b'y'; 77], b"b", &[b'z'; 300]].concat();
        assert_eq!(shrink(long, breaks), b"ab");
        assert_eq!(shrink(b"ab".to_vec(), breaks), b"ab");
        // What always breaks is nothing in the end.
        assert_eq!(shrink(vec![1; 100], |_| true), b"");
    }
}

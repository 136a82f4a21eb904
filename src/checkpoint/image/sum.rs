//! Digests of images: BLAKE3, as CRIU writes memory faster than SHA-256 is computed, and the container stands still until its digest is
//! known. It is among the algorithms that the image specification registers (descriptor.md, "Registered Algorithms").

/// What a digest begins with.
const PREFIX: &str = "blake3:";

/// A digest on its way.
#[derive(Debug)]
pub(super) struct Sum(Box<blake3::Hasher>);

impl Sum {
    pub(super) fn new() -> Self {
        Self(Box::new(blake3::Hasher::new()))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As it is written.
    pub(super) fn finish(&self) -> String {
        format!("{PREFIX}{}", self.0.finalize().to_hex())
    }
}

/// Whether `text` is as [`Sum::finish`] writes a digest.
pub(super) fn is_sum(text: &str) -> bool {
    let lower = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let digits = text.strip_prefix(PREFIX);
    digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(lower))
}

/// The digest of `bytes`.
pub(super) fn of(bytes: &[u8]) -> String {
    let mut sum = Sum::new();
    sum.update(bytes);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of nothing is one of the reference's (BLAKE3 paper, test vectors); pieces make no difference.
    #[test]
    fn a_digest_is_that_of_all_its_pieces() {
        let nothing = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(of(b""), nothing);
        let whole: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let mut sum = Sum::new();
        for piece in whole.chunks(777) {
            sum.update(piece);
        }
        assert_eq!(sum.finish(), of(&whole));
        assert_ne!(of(&whole), of(&whole[1..]));
    }

    #[test]
    fn only_whole_digests_are_some() {
        assert!(is_sum(&of(b"x")));
        for odd in ["", "blake3:", "blake3:af", "sha256:af1349", "af1349b9"] {
            assert!(!is_sum(odd), "{odd}");
        }
        assert!(!is_sum(&of(b"x").to_uppercase()));
        assert!(!is_sum(&of(b"x").replace("blake3", "sha256")));
    }
}

//! Bytes as text: base64 with padding (RFC 4648, section 4).

use core::fmt::{self, Write};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Displays as text.
#[derive(Clone, Copy, Debug)]
pub struct Base64<'a>(pub &'a [u8]);

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.chunks(3) {
            let mut bits = 0;
            for at in 0..3 {
                bits = bits << 8 | part.get(at).map_or(0, |&byte| u32::from(byte));
            }
            for at in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * at) & 0x3f) as usize];
                // So many bytes fill one digit more.
                let is_there = at <= part.len();
                f.write_char(char::from(if is_there { digit } else { b'=' }))?;
            }
        }
        Ok(())
    }
}

/// Writes the bytes that `text` stands for into `out`. How many there are; none if `text` is not such a text, or `out` is too
/// short.
#[must_use]
pub fn from_base64(text: &[u8], out: &mut [u8]) -> Option<usize> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut count = 0;
    for (n, part) in text.chunks(4).enumerate() {
        let is_last = 4 * (n + 1) == text.len();
        let padding = part.iter().rev().take_while(|&&byte| byte == b'=').count();
        if padding > 2 || padding > 0 && !is_last {
            return None;
        }
        let mut bits = 0;
        for &digit in part.iter().take(4 - padding) {
            let value = ALPHABET.iter().position(|&known| known == digit)?;
            bits = bits << 6 | value as u32;
        }
        let bytes = (bits << (6 * padding)).to_be_bytes();
        // Bits that stand for nothing are 0, so that there is one text for each bytes.
        let (whole, rest) = bytes.get(1..)?.split_at(3 - padding);
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        out.get_mut(count..)?
            .get_mut(..whole.len())?
            .copy_from_slice(whole);
        count += whole.len();
    }
    Some(count)
}

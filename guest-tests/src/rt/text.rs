//! Text without an allocator: a buffer that keeps what fits.

use core::fmt;

/// Up to `N` bytes of text; what does not fit is dropped.
///
/// A line feed inside becomes a blank, and blanks after a blank go: what was printed prettily, over many
/// lines, is to stay in one.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// The text that formatting `arguments` gives.
    pub fn format(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        // Cannot fail: `write_str` below never does.
        let _ = fmt::write(&mut text, arguments);
        text
    }

    /// What was kept.
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.bytes.get(..self.len).unwrap_or(&[])).unwrap_or("(not UTF-8)")
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for character in s.chars() {
            let character = if character == '\n' { ' ' } else { character };
            let last = self.len.checked_sub(1).and_then(|n| self.bytes.get(n));
            if character == ' ' && last == Some(&b' ') {
                continue;
            }
            let mut utf8 = [0; 4];
            let piece = character.encode_utf8(&mut utf8).as_bytes();
            let Some(room) = self.bytes.get_mut(self.len..self.len + piece.len()) else {
                break;
            };
            room.copy_from_slice(piece);
            self.len += piece.len();
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! The tokens of a structure block, one after the other.

use crate::{token, word};

/// A token with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A node begins: its name.
    BeginNode(&'a [u8]),
    /// A node ends.
    EndNode,
    /// A property: its name, empty if that is not among the strings, and its value.
    Property(&'a [u8], &'a [u8]),
    /// Nothing.
    Nop,
    /// The end.
    End,
}

/// A walk over the tokens of a structure block: big-endian words on word boundaries (Devicetree Specification 5.4.1). Each
/// comes with the bytes that it takes. It ends where there is no whole token.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Walk<'a> {
    pub(crate) const fn new(structure: &'a [u8], strings: &'a [u8]) -> Self {
        Self { structure, strings }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Token<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let body = self.structure.get(4..)?;
        let (token, size) = match word(self.structure, 0)? {
            token::BEGIN_NODE => {
                let name = until_nul(body)?;
                (Token::BeginNode(name), name.len() + 1)
            }
            token::END_NODE => (Token::EndNode, 0),
            token::PROPERTY => {
                let size = word(body, 0)? as usize;
                let name = self.strings.get(word(body, 4)? as usize..);
                let name = name.and_then(until_nul).unwrap_or_default();
                let value = body.get(8..)?.get(..size)?;
                (Token::Property(name, value), 8 + size)
            }
            token::NOP => (Token::Nop, 0),
            token::END => (Token::End, 0),
            _ => return None,
        };
        let (own, rest) = self
            .structure
            .split_at_checked(4 + size.next_multiple_of(4))?;
        self.structure = if token == Token::End { &[] } else { rest };
        Some((token, own))
    }
}

fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.get(..end)
}

//! The paths that a Rust file names: `crate::a::B`, `super::{c, d}`, `e::f()`.

/// A path in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import<'a> {
    /// The line it begins in.
    pub line: usize,
    /// The modules written out in the file that it stands in, outermost first.
    pub within: Vec<&'a str>,
    /// Its names. What is imported with braces is several paths.
    pub path: Vec<&'a str>,
}

/// All paths of more than one name in `text`, comments and literals aside.
pub fn imports(text: &str) -> Vec<Import<'_>> {
    let mut reader = Reader {
        tokens: tokens(text),
        at: 0,
    };
    let mut imports = Vec::new();
    let mut depth = 0;
    let mut inner: Vec<(usize, &str)> = Vec::new();
    while let Some(&(line, token)) = reader.tokens.get(reader.at) {
        match token {
            Token::Word("mod") => {
                if let (Token::Word(name), Token::Open) = (reader.peek(1), reader.peek(2)) {
                    inner.push((depth, name));
                }
            }
            Token::Open => depth += 1,
            Token::Close => {
                depth = depth.saturating_sub(1);
                inner.retain(|&(outside, _)| outside < depth);
            }
            Token::Word(_) if matches!(reader.peek(1), Token::Colons) => {
                let mut paths = Vec::new();
                reader.tree(&mut Vec::new(), &mut paths);
                imports.extend(paths.into_iter().map(|path| Import {
                    line,
                    within: inner.iter().map(|&(_, name)| name).collect(),
                    path,
                }));
                continue;
            }
            _ => {}
        }
        reader.at += 1;
    }
    imports
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Colons,
    /// `{`
    Open,
    /// `}`
    Close,
    Other(char),
    End,
}

struct Reader<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self, ahead: usize) -> Token<'a> {
        let token = self.tokens.get(self.at + ahead);
        token.map_or(Token::End, |&(_, token)| token)
    }

    /// Reads a path, or the tree of paths that an import is, and goes past it.
    fn tree(&mut self, prefix: &mut Vec<&'a str>, paths: &mut Vec<Vec<&'a str>>) {
        let length = prefix.len();
        while let Token::Word(name) = self.peek(0) {
            prefix.push(name);
            self.at += 1;
            if self.peek(0) != Token::Colons {
                break;
            }
            self.at += 1;
        }
        if self.peek(0) == Token::Open && self.at > 0 && self.tokens[self.at - 1].1 == Token::Colons
        {
            self.at += 1;
            while !matches!(self.peek(0), Token::Close | Token::End) {
                match self.peek(0) {
                    Token::Word("as") => self.at += 2,
                    Token::Word(_) | Token::Other('*') => {
                        self.tree(prefix, paths);
                        if self.peek(0) == Token::Other('*') {
                            self.at += 1;
                        }
                    }
                    _ => self.at += 1,
                }
            }
            self.at += 1;
        } else {
            paths.push(prefix.clone());
        }
        prefix.truncate(length);
    }
}

/// The words and marks of `text`, each with its line.
fn tokens(text: &str) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, token) = next(rest, first);
        if let Some(token) = token {
            tokens.push((line, token));
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// How many bytes the next part of `rest` has, which begins with `first`; and what it is, unless it says nothing.
fn next(rest: &str, first: char) -> (usize, Option<Token<'_>>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (rest.find("*/").map_or(rest.len(), |end| end + 2), None);
    }
    if let Some(length) = raw_string(rest) {
        return (length, None);
    }
    match first {
        '"' => (quoted(rest, '"'), None),
        '\'' => (character(rest), None),
        '{' => (1, Some(Token::Open)),
        '}' => (1, Some(Token::Close)),
        ':' if rest.starts_with("::") => (2, Some(Token::Colons)),
        c if c.is_alphabetic() || c == '_' => {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let end = end.unwrap_or(rest.len());
            (end, Some(Token::Word(&rest[..end])))
        }
        c if c.is_whitespace() => (c.len_utf8(), None),
        c => (c.len_utf8(), Some(Token::Other(c))),
    }
}

/// The length of the literal that `rest` begins with, its escapes passed over.
fn quoted(rest: &str, end: char) -> usize {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == end {
            return at + 1;
        }
    }
    rest.len()
}

/// The length of a character's literal, or of the mark before a lifetime's name.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 1,
    }
}

/// The length of the raw string that `rest` begins with, if it does.
fn raw_string(rest: &str) -> Option<usize> {
    let inner = ["r", "br", "cr"]
        .iter()
        .find_map(|it| rest.strip_prefix(it))?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    let body = inner[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(rest.len() - body.len() + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let imports = imports(text);
        imports
            .iter()
            .map(|import| import.path.join("::"))
            .collect()
    }

    #[test]
    fn paths_are_found_in_imports_and_in_code() {
        assert_eq!(
            paths("use crate::{a::B, c::{self, D as E}, f::*};\nuse super::g;"),
            [
                "crate::a::B",
                "crate::c::self",
                "crate::c::D",
                "crate::f",
                "super::g"
            ]
        );
        assert_eq!(
            paths("fn f() { crate::a::g(self.x); b::C { d: 1 }; e::<u8>::h() }"),
            ["crate::a::g", "b::C", "e"]
        );
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        let text = "// crate::a::B\n/* super::c */ \"crate::d\" r#\"crate::\"e\"# '\"' b'\\'' 'x: crate::f";
        assert_eq!(paths(text), ["crate::f"]);
    }

    #[test]
    fn lines_and_modules_around_a_path_are_known() {
        let text = "mod a {\n    mod b { use super::c; }\n    use super::d;\n}\nuse super::e;\n";
        let found: Vec<(usize, Vec<&str>)> = imports(text)
            .into_iter()
            .map(|import| (import.line, import.within))
            .collect();
        assert_eq!(found, [(2, vec!["a", "b"]), (3, vec!["a"]), (5, vec![])]);
    }
}

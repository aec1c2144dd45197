//! Who says what: where there are several guests, each line has its guest's name in front, and is whole unless its guest
//! stands still in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The guests' consoles on one screen.
pub struct Speakers {
    /// What stands in front of each guest's lines; nothing if there is one guest.
    names: Vec<String>,
    /// Whose line is open on the screen.
    open: Option<u8>,
    /// What each guest has written of a line that is not on the screen yet, and when the last of it came.
    held: BTreeMap<u8, (Vec<u8>, Instant)>,
}

/// The beginning of a line is shown when no more of it has come for so long: it is a prompt.
const PROMPT: Duration = Duration::from_millis(50);

/// Colours of names, as ECMA-48 numbers them: those that are read on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

impl Speakers {
    /// Guests of these names, by their numbers; in colour if that is seen.
    pub fn new(names: &[String], in_colour: bool) -> Self {
        let width = names.iter().map(String::len).max().unwrap_or_default();
        let name = |(number, name): (usize, &String)| {
            let padded = format!("{name:width$} | ");
            match COLOURS.get(number % COLOURS.len()) {
                Some(colour) if in_colour => format!("\x1b[{colour}m{padded}\x1b[0m"),
                _ => padded,
            }
        };
        let names = match names {
            [_] => Vec::new(),
            names => names.iter().enumerate().map(name).collect(),
        };
        Self {
            names,
            open: None,
            held: BTreeMap::new(),
        }
    }

    /// What the screen gets when a guest writes `bytes`.
    pub fn show(&mut self, vm: u8, bytes: &[u8], now: Instant) -> Vec<u8> {
        if self.names.is_empty() {
            return bytes.to_vec();
        }
        let (held, since) = self.held.entry(vm).or_insert((Vec::new(), now));
        held.extend(bytes);
        *since = now;
        // Who types sees each character at once.
        let whole = match held.iter().rposition(|&byte| byte == b'\n') {
            _ if self.open == Some(vm) => held.len(),
            Some(end) => end + 1,
            None => 0,
        };
        let said: Vec<u8> = held.drain(..whole).collect();
        self.write(vm, &said)
    }

    /// When [`Self::show_prompts`] has something to show.
    pub fn until(&self) -> Option<Instant> {
        let held = self.held.values().filter(|(held, _)| !held.is_empty());
        held.map(|&(_, since)| since + PROMPT).min()
    }

    /// What the screen gets of lines that have not gone on until now.
    pub fn show_prompts(&mut self, now: Instant) -> Vec<u8> {
        let mut due = Vec::new();
        for (&vm, (held, since)) in &mut self.held {
            if !held.is_empty() && now >= *since + PROMPT {
                due.push((vm, std::mem::take(held)));
            }
        }
        let shown = due.into_iter();
        shown.flat_map(|(vm, said)| self.write(vm, &said)).collect()
    }

    /// What the screen gets of lines that are never ended.
    pub fn end(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held).into_iter();
        held.flat_map(|(vm, (said, _))| self.write(vm, &said))
            .collect()
    }

    fn write(&mut self, vm: u8, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        for &byte in bytes {
            if self.open != Some(vm) {
                // A carriage return alone moves nobody's line.
                if self.open.is_none() && byte == b'\r' {
                    continue;
                }
                shown.extend(self.interrupt());
                match self.names.get(usize::from(vm)) {
                    Some(name) => shown.extend(name.as_bytes()),
                    None => shown.extend(format!("vm{vm} | ").as_bytes()),
                }
                self.open = Some(vm);
            }
            shown.push(byte);
            if byte == b'\n' {
                self.open = None;
            }
        }
        shown
    }

    /// What ends a line that is open, before somebody else writes.
    pub fn interrupt(&mut self) -> &'static [u8] {
        match self.open.take() {
            Some(_) if !self.names.is_empty() => b"\r\n",
            _ => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on the screen when these have written that, each at once and all at last.
    fn said(speakers: &mut Speakers, parts: &[(u8, &str)]) -> String {
        let now = Instant::now();
        let parts = parts.iter();
        let mut bytes: Vec<u8> = parts
            .flat_map(|(vm, text)| speakers.show(*vm, text.as_bytes(), now))
            .collect();
        bytes.extend(speakers.show_prompts(now + PROMPT));
        String::from_utf8(bytes).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn an_only_guest_has_the_screen_to_itself() {
        let mut speakers = Speakers::new(&names(&["guest"]), true);
        let text = "a\r\nb\x1b[2J\r";
        assert_eq!(said(&mut speakers, &[(0, text)]), text);
        assert_eq!(speakers.interrupt(), b"");
    }

    #[test]
    fn each_line_has_its_guest_in_front() {
        let mut speakers = Speakers::new(&names(&["main", "b"]), false);
        let parts = [(0, "one\r\ntw"), (0, "o\r\n"), (1, "# ")];
        let screen = "main | one\r\nmain | two\r\nb    | # ";
        assert_eq!(said(&mut speakers, &parts), screen);
        // A prompt stands on the screen when another writes.
        let parts = [(0, "three\r\n"), (1, "ls\r\n")];
        let screen = "\r\nmain | three\r\nb    | ls\r\n";
        assert_eq!(said(&mut speakers, &parts), screen);
        assert_eq!(said(&mut speakers, &[(1, "$ ")]), "b    | $ ");
        assert_eq!(speakers.interrupt(), b"\r\n");
        assert_eq!(speakers.interrupt(), b"");
        assert_eq!(said(&mut speakers, &[(7, "?\n")]), "vm7 | ?\n");
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_line() {
        let mut speakers = Speakers::new(&names(&["a", "b"]), false);
        let now = Instant::now();
        let mut screen = speakers.show(0, b"PA", now);
        assert_eq!(speakers.until(), Some(now + PROMPT));
        screen.extend(speakers.show(1, b"x\r\ny", now));
        screen.extend(speakers.show_prompts(now));
        screen.extend(speakers.show(0, b"SS\r\n", now));
        screen.extend(speakers.show(1, b"\r\n", now));
        let expected = "b | x\r\na | PASS\r\nb | y\r\n";
        assert_eq!(String::from_utf8(screen).unwrap(), expected);
        assert_eq!(speakers.until(), None);
    }

    #[test]
    fn what_is_typed_is_echoed_at_once() {
        let mut speakers = Speakers::new(&names(&["a", "b"]), false);
        let now = Instant::now();
        assert_eq!(speakers.show(0, b"# ", now), b"");
        assert_eq!(speakers.show_prompts(now + PROMPT), b"a | # ");
        assert_eq!(speakers.show(0, b"l", now + PROMPT), b"l");
    }

    #[test]
    fn names_have_colours_of_their_own() {
        let mut speakers = Speakers::new(&names(&["a", "b"]), true);
        assert_eq!(
            said(&mut speakers, &[(0, "x\n"), (1, "y\n")]),
            "\x1b[36ma | \x1b[0mx\n\x1b[33mb | \x1b[0my\n"
        );
    }
}

//! Who says what: where there are several guests, each line has its guest's name in front.

/// The guests' consoles on one screen.
pub struct Speakers {
    /// What stands in front of each guest's lines; nothing if there is one guest.
    names: Vec<String>,
    /// Whose line is open.
    open: Option<u8>,
}

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
        Self { names, open: None }
    }

    /// What the screen gets when a guest writes `bytes`.
    pub fn show(&mut self, vm: u8, bytes: &[u8]) -> Vec<u8> {
        if self.names.is_empty() {
            return bytes.to_vec();
        }
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

    fn said(speakers: &mut Speakers, parts: &[(u8, &str)]) -> String {
        let parts = parts.iter();
        let bytes: Vec<u8> = parts
            .flat_map(|(vm, text)| speakers.show(*vm, text.as_bytes()))
            .collect();
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
        let parts = [
            (0, "one\r\ntw"),
            (0, "o\r\n"),
            (1, "# "),
            (0, "three\r\n"),
            (1, "ls\r\n"),
        ];
        assert_eq!(
            said(&mut speakers, &parts),
            "main | one\r\nmain | two\r\nb    | # \r\nmain | three\r\nb    | ls\r\n"
        );
        assert_eq!(said(&mut speakers, &[(1, "$ ")]), "b    | $ ");
        assert_eq!(speakers.interrupt(), b"\r\n");
        assert_eq!(speakers.interrupt(), b"");
        assert_eq!(said(&mut speakers, &[(7, "?\n")]), "vm7 | ?\n");
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

//! How the guest's console and the hypervisor's own lines share one UART.
//!
//! A hypervisor line travels as `RS [CR LF] text CR LF`, where RS is ASCII 0x1E, which a terminal does
//! not show: a person reads the raw stream, a program takes it apart. The optional CR LF follows RS
//! when the guest stands in the middle of a line. An RS of the guest's own is doubled, so no guest can
//! forge a line of the hypervisor.
//!
//! Lines are `[seconds.micros p<pcpu>] text`. A text that begins with `@` is a record for programs:
//! `@name key=value key=value`, values without blanks, numbers in hexadecimal with 0x or in decimal.
//! `docs/console.md` lists the records.

/// ASCII record separator: opens a hypervisor line; doubled, it is a guest's own byte.
pub const RS: u8 = 0x1e;

/// What a byte of the stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A byte the guest wrote.
    Guest(u8),
    /// A byte of a hypervisor line, line ends excluded.
    Line(u8),
    /// The end of a hypervisor line.
    EndOfLine,
    /// Framing; belongs to nobody.
    Nothing,
}

/// Takes the stream apart again, one byte at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deframer {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Guest,
    AfterRs,
    BreakCr,
    Line,
}

impl Deframer {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self {
            state: State::Guest,
        }
    }

    /// Says to whom `byte` belongs.
    pub fn push(&mut self, byte: u8) -> Piece {
        let (state, piece) = match (self.state, byte) {
            (State::Guest, RS) => (State::AfterRs, Piece::Nothing),
            (State::Guest, byte) => (State::Guest, Piece::Guest(byte)),
            (State::AfterRs, RS) => (State::Guest, Piece::Guest(RS)),
            (State::AfterRs, b'\r') => (State::BreakCr, Piece::Nothing),
            (State::BreakCr, b'\n') => (State::Line, Piece::Nothing),
            // A crash report may begin anywhere, in the middle of another line too.
            (State::Line, RS) => (State::AfterRs, Piece::EndOfLine),
            (State::AfterRs | State::Line, b'\n') => (State::Guest, Piece::EndOfLine),
            (State::Line | State::BreakCr, b'\r') => (State::Line, Piece::Nothing),
            (State::AfterRs | State::BreakCr | State::Line, byte) => {
                (State::Line, Piece::Line(byte))
            }
        };
        self.state = state;
        piece
    }
}

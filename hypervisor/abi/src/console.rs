//! How guests' consoles and the hypervisor's own lines share one UART.
//!
//! A hypervisor line travels as `RS [CR LF] text CR LF`, where RS is ASCII 0x1E, which a terminal does
//! not show: a person reads the raw stream, a program takes it apart. The optional CR LF follows RS
//! when the guest stands in the middle of a line. An RS of the guest's own is doubled, so no guest can
//! forge a line of the hypervisor.
//!
//! Where there are several guests, what one of them writes begins with `RS US [CR LF] number > SPACE`, US being ASCII 0x1F and the
//! number the VM's in decimal: at the start of each of its lines, and where it goes on after another. A person reads whose
//! line it is. The optional CR LF follows where another's line stands open. Before the first of these, all is VM 0's.
//!
//! Lines are `[seconds.micros p<pcpu>] text`. A text that begins with `@` is a record for programs:
//! `@name key=value key=value`, values without blanks, numbers in hexadecimal with 0x or in decimal.
//! `docs/console.md` lists the records.

/// ASCII record separator: opens a hypervisor line; doubled, it is a guest's own byte.
pub const RS: u8 = 0x1e;

/// ASCII unit separator: after [`RS`], says whose the bytes are that follow.
pub const US: u8 = 0x1f;

/// What a byte of the stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A byte that a guest wrote.
    Guest {
        /// The number of its VM.
        vm: u8,
        /// The byte.
        byte: u8,
    },
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
    /// Whose bytes these are.
    vm: u8,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Guest,
    AfterRs,
    BreakCr,
    Line,
    /// After US: the digits so far.
    Announced(u8),
    /// After those.
    Blank,
}

impl Deframer {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self {
            state: State::Guest,
            vm: 0,
        }
    }

    /// Says to whom `byte` belongs.
    pub fn push(&mut self, byte: u8) -> Piece {
        let vm = self.vm;
        let (state, piece) = match (self.state, byte) {
            (State::Guest, RS) => (State::AfterRs, Piece::Nothing),
            (State::Guest, byte) => (State::Guest, Piece::Guest { vm, byte }),
            (State::AfterRs, RS) => (State::Guest, Piece::Guest { vm, byte: RS }),
            (State::AfterRs, US) => (State::Announced(0), Piece::Nothing),
            (State::Announced(number), b'0'..=b'9') => {
                let number = number.wrapping_mul(10).wrapping_add(byte - b'0');
                (State::Announced(number), Piece::Nothing)
            }
            (State::Announced(number), b'>') => {
                self.vm = number;
                (State::Blank, Piece::Nothing)
            }
            // A crash report may begin anywhere.
            (State::Announced(_) | State::Blank, RS) => (State::AfterRs, Piece::Nothing),
            (State::Announced(_), _) => (self.state, Piece::Nothing),
            (State::Blank, _) => (State::Guest, Piece::Nothing),
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

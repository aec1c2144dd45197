//! Everything that a program starts ends when the program ends, however that is, and what it has to undo is undone.
//!
//! A second process, the supervisor, holds the reading end of a pipe whose writing end the program holds. The kernel
//! closes that end when the program is gone, killed or not, and the supervisor then ends every process that the
//! program or one of its children started. It knows them by a word in their environment, which they inherit; so it
//! finds a compiler that `make` started as well as a program that left its process group.
//!
//! A signal that asks the program to end, and an output that nobody reads any more, end the children first, then what
//! [`at_end`] was given, then the program.
#![forbid(unsafe_code)]

mod ending;
mod outputs;
mod processes;
mod sweep;
mod watch;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use ending::{AtEnd, at_end, settle};
pub use processes::Process;

/// In the environment of each child: whose it is.
const CHILD_OF: &str = "HALLIGAN_CHILD_OF";
/// In the environment of a supervisor: whose children it ends.
const SUPERVISES: &str = "HALLIGAN_SUPERVISES";
/// How many bytes a program and its supervisor exchange for one request.
const WORD: usize = 1;

/// Set once the program has asked for all this; until then [`command`] is an ordinary command.
static BEGUN: OnceLock<()> = OnceLock::new();
static SUPERVISOR: OnceLock<Option<Supervisor>> = OnceLock::new();

/// To be called first in `main`. If it answers a code, this process is a supervisor that is done, and exits with it.
pub fn begin() -> Option<ExitCode> {
    if let Some(whose) = std::env::var_os(SUPERVISES) {
        serve(&whose.to_string_lossy());
        return Some(ExitCode::SUCCESS);
    }
    if BEGUN.set(()).is_ok() {
        watch::begin();
    }
    None
}

/// A command whose process, and all that it starts, ends when this program does. It is a process group of its own:
/// a key such as Ctrl-C reaches this program alone, which then ends it.
///
/// # Panics
///
/// If the supervisor cannot be started, which is this very program.
#[expect(clippy::disallowed_methods, reason = "it is what others take instead")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    if BEGUN.get().is_some() {
        let supervisor = SUPERVISOR.get_or_init(|| Supervisor::start().ok());
        let supervisor = supervisor.as_ref();
        let supervisor = supervisor.expect("this program can run itself, from /proc/self/exe");
        command.env(CHILD_OF, &supervisor.whose);
    }
    command
}

/// The process that outlives this one.
struct Supervisor {
    /// The word that its children have.
    whose: String,
    wire: Mutex<Wire>,
}

struct Wire {
    /// Held so that it is closed when this process ends, and by nobody else: a child closes it when it becomes its
    /// program.
    requests: ChildStdin,
    answers: ChildStdout,
    _process: Child,
}

impl Supervisor {
    #[expect(clippy::disallowed_methods, reason = "it has to outlive us")]
    fn start() -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let own = format!("{}-{now}", std::process::id());
        // What ends our parent's children ends ours, too.
        let whose = match std::env::var(CHILD_OF) {
            Ok(parent) => format!("{parent}.{own}"),
            Err(_) => own,
        };
        // Not by its path: the file may have been built anew. Its name is not ours, so that `pkill` leaves it alone.
        let mut process = Command::new("/proc/self/exe")
            .arg0("halligan-supervisor")
            .env(SUPERVISES, &whose)
            .env_remove(CHILD_OF)
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (requests, answers) = pipes.ok_or_else(|| anyhow::anyhow!("it has no pipes"))?;
        Ok(Self {
            whose,
            wire: Mutex::new(Wire {
                requests,
                answers,
                _process: process,
            }),
        })
    }

    /// Waits until every child is gone. A supervisor that is gone itself cannot be waited for.
    fn end_children(&self) {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = wire.requests.write_all(&[0; WORD]);
        let _ = asked.and_then(|()| wire.answers.read_exact(&mut [0; WORD]));
    }
}

/// Ends all children of this program and waits until they are gone.
fn end_children() {
    if let Some(Some(supervisor)) = SUPERVISOR.get() {
        supervisor.end_children();
    }
}

/// What a supervisor does: ends the children of `whose` when asked to, and when it is gone.
fn serve(whose: &str) {
    watch::ignore_signals();
    let (mut requests, mut answers) = (std::io::stdin().lock(), std::io::stdout().lock());
    // The pipe ends when its last holder is gone. A child that has not become its program yet is one, so that none
    // is overlooked.
    while requests.read_exact(&mut [0; WORD]).is_ok() {
        sweep::end_all(CHILD_OF, whose);
        let _ = answers.write_all(&[0; WORD]).and_then(|()| answers.flush());
    }
    sweep::end_all(CHILD_OF, whose);
}

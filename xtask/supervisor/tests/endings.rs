//! A program with children ends in every way there is, and none of them stays behind.
//!
//! This program plays all parts: called with the name of a part it is the one that ends, else it is the test.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use supervisor::Process;

/// In the environment of all processes of one case.
const MARK: &str = "ENDINGS_TEST";
/// Where the program that ends has its folder.
const FOLDER: &str = "ENDINGS_FOLDER";
/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// What is started: a child and a grandchild, one in a session of its own, one that is stopped.
const FAMILY: &str = "sleep 1000 & setsid sleep 1000 & sh -c 'kill -STOP $$' & echo ready; wait";
/// The same, and one that does not listen.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo ready; while :; do wait; done";

fn main() -> ExitCode {
    if let Some(code) = supervisor::begin() {
        return code;
    }
    match env::args().nth(1).as_deref() {
        Some("family") => live(FAMILY),
        Some("stubborn") => live(STUBBORN),
        Some("nested") => {
            let mut inner = supervisor::command("/proc/self/exe");
            let mut inner = inner.arg("family").spawn().expect("it starts");
            let _ = inner.wait();
            ExitCode::FAILURE
        }
        Some("talking") => {
            let _folder = own_folder();
            loop {
                println!("ready");
            }
        }
        Some("starting") => {
            println!("ready");
            let mut children = Vec::new();
            loop {
                let child = supervisor::command("sleep").arg("1000").spawn();
                children.push(child.expect("it starts"));
            }
        }
        _ => test(),
    }
}

/// What has to go with the program.
fn own_folder() -> supervisor::AtEnd {
    let folder = PathBuf::from(env::var_os(FOLDER).expect("the test names a folder"));
    fs::create_dir(&folder).expect("it is new");
    supervisor::at_end(move || {
        let _ = fs::remove_dir(&folder);
    })
}

fn live(script: &str) -> ExitCode {
    let _folder = own_folder();
    let mut shell = supervisor::command("sh");
    let status = shell.args(["-c", script]).status();
    // So it would tell of a child that failed; but it ended with us.
    supervisor::settle();
    eprintln!("the child has ended: {status:?}");
    ExitCode::FAILURE
}

/// A program with children.
struct Case {
    mark: String,
    folder: PathBuf,
    program: Child,
    output: BufReader<Box<dyn Read>>,
}

impl Case {
    #[expect(clippy::disallowed_methods, reason = "what ends is not to end with us")]
    /// Starts `part`, by way of `shell` if that is given, and answers when its family is there.
    fn start(name: &str, part: &str, shell: Option<&str>) -> Self {
        let mark = format!("{}-{name}", std::process::id());
        let folder = env::temp_dir().join(format!("halligan-endings-{mark}"));
        let own = env::current_exe().expect("it has a name");
        // Signals that whoever runs the tests has us ignore, as a shell does of what it runs in the background, would be
        // ignored by the program, too, which then never ends.
        let mut command = Command::new("env");
        command.arg("--default-signal");
        if let Some(script) = shell {
            command.args(["sh", "-c", script]);
        }
        command.arg(&own);
        let mut program = command
            .arg(part)
            .env(MARK, &mark)
            .env(FOLDER, &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = program.stdout.take().expect("it is piped");
        let mut case = Self {
            mark,
            folder,
            program,
            output: BufReader::new(Box::new(output)),
        };
        let mut line = String::new();
        case.output.read_line(&mut line).expect("it is a line");
        assert_eq!(line, "ready\n", "{name}");
        case
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.program.id()).expect("it is a number");
        let pid = Pid::from_raw(pid).expect("it is not 0");
        kill_process(pid, signal).expect("it is alive");
    }

    /// Waits for the program, then for all of its kind; what it said, how it ended, and whether its folder stayed.
    fn end(mut self) -> (ExitStatus, String, bool) {
        let status = self.program.wait().expect("it is our child");
        let until = Instant::now() + LIMIT;
        loop {
            let left = Process::all_with(MARK, &self.mark);
            if left.is_empty() {
                break;
            }
            for process in left {
                assert!(
                    process.ends_before(until),
                    "{}: {:?} stays behind",
                    self.mark,
                    String::from_utf8_lossy(&process.command_line())
                );
            }
        }
        let mut errors = String::new();
        let pipe = self.program.stderr.as_mut().expect("it is piped");
        pipe.read_to_string(&mut errors).expect("it is text");
        let stayed = self.folder.exists();
        let _ = fs::remove_dir(&self.folder);
        (status, errors, stayed)
    }
}

fn test() -> ExitCode {
    for (name, signal) in [
        ("term", Signal::TERM),
        ("hup", Signal::HUP),
        ("int", Signal::INT),
        ("quit", Signal::QUIT),
    ] {
        let case = Case::start(name, "family", None);
        case.send(signal);
        let (status, errors, stayed) = case.end();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{name}");
        assert_eq!((errors.as_str(), stayed), ("", false), "{name}");
    }
    for part in ["family", "stubborn", "nested", "starting"] {
        let case = Case::start(&format!("kill-{part}"), part, None);
        case.send(Signal::KILL);
        let (status, ..) = case.end();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{part}");
    }
    // The first writes until nobody reads, the second says nothing more.
    for part in ["talking", "family"] {
        let mut case = Case::start(&format!("closed-{part}"), part, None);
        case.output = BufReader::new(Box::new(std::io::empty()));
        let (status, errors, stayed) = case.end();
        assert_eq!(status.code(), Some(141), "{part}");
        assert_eq!((errors.as_str(), stayed), ("", false), "{part}");
    }
    // Killed, it would not come to the second signal.
    let case = Case::start("nohup", "family", Some("trap '' HUP; exec \"$0\" \"$@\""));
    case.send(Signal::HUP);
    case.send(Signal::TERM);
    let (status, ..) = case.end();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    // A child that ends is told of, and what it has left behind goes when the program ends by itself.
    let case = Case::start("end", "family", None);
    let shells = Process::all_with(MARK, &case.mark);
    let shell = shells.iter().find(|process| {
        let line = process.command_line();
        line.starts_with(b"sh\0")
    });
    shell.expect("it runs").signal(Signal::TERM);
    let (status, errors, stayed) = case.end();
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("the child has ended") && !stayed);
    ExitCode::SUCCESS
}

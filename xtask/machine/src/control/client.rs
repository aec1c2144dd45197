//! The way to the control socket of a running machine.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::from_base64;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::NAME;

/// So many bytes of memory are asked for at a time.
const PART: usize = 64 << 10;

/// Where a guest is reached.
#[derive(Clone, Debug)]
pub struct Address {
    /// The machine's socket.
    pub path: PathBuf,
    /// The guest's name or number; the socket's own without.
    pub guest: Option<String>,
}

impl Address {
    /// To that guest.
    pub fn connect(&self) -> Result<Client> {
        let mut client = Client::connect(&self.path)?;
        if let Some(guest) = &self.guest {
            client.choose(guest)?;
        }
        Ok(client)
    }
}

/// A connection.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// To the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| {
            format!(
                "nobody listens at {}; is a machine running there?",
                path.display()
            )
        })?;
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        let greeting = client.line()?;
        ensure!(
            greeting.get("QMP").is_some(),
            "what listens at {} does not speak QMP",
            path.display()
        );
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// Where the socket is of the only machine whose run has a folder in `runs`.
    pub fn find(runs: &Path) -> Result<PathBuf> {
        let folders = fs::read_dir(runs).into_iter().flatten().flatten();
        let sockets = folders.map(|folder| folder.path().join(NAME));
        let live: Vec<PathBuf> = sockets
            .filter(|path| UnixStream::connect(path).is_ok())
            .collect();
        match &live[..] {
            [one] => Ok(one.clone()),
            [] => bail!(
                "no machine is running in this checkout; start one with `cargo xtask run`, or name its socket with --control"
            ),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|path| format!("--control {}", path.display()))
                    .collect();
                bail!(
                    "several machines are running; choose one: {}",
                    names.join(", or ")
                )
            }
        }
    }

    /// From here on all commands are about this guest.
    pub fn choose(&mut self, guest: &str) -> Result<()> {
        self.choose_by(guest.into())
    }

    /// The same by its number, whatever others are called.
    pub fn choose_number(&mut self, number: usize) -> Result<()> {
        self.choose_by(number.into())
    }

    fn choose_by(&mut self, guest: Value) -> Result<()> {
        let arguments = json!({ "guest": guest });
        self.execute("x-halligan-guest", arguments).map(|_| ())
    }

    /// The names of all guests, by number.
    pub fn guests(&mut self) -> Result<Vec<String>> {
        let told = self.execute("x-halligan-guests", json!({}))?;
        let all = told.as_array().context("that is no answer")?.iter();
        let name = |guest: &Value| guest["name"].as_str().map(str::to_owned);
        all.map(|guest| name(guest).context("that is no answer"))
            .collect()
    }

    /// Executes a command; what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{order}").context("the machine has ended")?;
        self.answer(command)
    }

    /// What a command has returned.
    fn answer(&mut self, command: &str) -> Result<Value> {
        let mut answer = self.line()?;
        if let Some(error) = answer.get("error") {
            bail!("{}", error["desc"].as_str().unwrap_or(command));
        }
        let value = answer.get_mut("return").context("that is no answer")?;
        Ok(value.take())
    }

    /// Gives the server a file, which has this name then.
    pub fn hand_over(&mut self, name: &str, file: &File) -> Result<()> {
        let order = json!({ "execute": "getfd", "arguments": { "fdname": name } });
        let line = format!("{order}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        ensure!(
            ancillary.push(SendAncillaryMessage::ScmRights(&files)),
            "there is no room for a file in a message"
        );
        let sent = sendmsg(
            self.stream.get_ref(),
            &[IoSlice::new(line.as_bytes())],
            &mut ancillary,
            SendFlags::empty(),
        );
        let sent = sent.context("the machine has ended")?;
        self.stream.get_mut().write_all(&line.as_bytes()[sent..])?;
        self.answer("getfd").map(|_| ())
    }

    /// Reads guest RAM by guest physical address.
    pub fn read(&mut self, ipa: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let count = PART.min(length - bytes.len());
            let at = ipa.wrapping_add(bytes.len() as u64);
            let arguments = json!({ "ipa": at, "length": count });
            let told = self.execute("x-halligan-read", arguments)?;
            let text = told["data"].as_str().context("that is no answer")?;
            let mut part = vec![0; count];
            let read = from_base64(text.as_bytes(), &mut part);
            ensure!(read == Some(count), "that is no answer");
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// Makes the connection the guest's console: what it writes, and where to type.
    pub fn console(mut self) -> Result<(impl Read, UnixStream)> {
        self.execute("x-halligan-console", json!({}))?;
        let keyboard = self.stream.get_ref().try_clone()?;
        Ok((self.stream, keyboard))
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        ensure!(
            read.context("the machine has ended")? != 0,
            "the machine has ended"
        );
        serde_json::from_str(&line).context("that is no answer")
    }
}

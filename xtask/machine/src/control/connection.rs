//! A client of the control socket: its lines, and the files that it hands over with them (SCM_RIGHTS, unix(7)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recv, recvmsg};

/// A longer line is no command.
const LONGEST_LINE: usize = 64 << 10;
/// So many files come with one message at most, and so many are held.
const MOST_FILES: usize = 16;

/// The files of a client.
#[derive(Default)]
pub struct Files {
    /// Those that have come and have no name yet.
    new: Vec<File>,
    named: BTreeMap<String, File>,
    /// The client.
    peer: Option<UnixStream>,
}

impl Files {
    /// Names the one that came last.
    pub fn name(&mut self, name: &str) -> Result<()> {
        let file = self.new.pop();
        let file = file.context("No file descriptor supplied via SCM_RIGHTS")?;
        ensure!(
            self.named.len() < MOST_FILES || self.named.contains_key(name),
            "{MOST_FILES} files have names already; close one with closefd"
        );
        self.named.insert(name.to_owned(), file);
        Ok(())
    }

    /// Whether the client has hung up.
    pub fn is_left(&self) -> bool {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peer = self.peer.as_ref();
        peer.is_some_and(|peer| matches!(recv(peer, &mut byte[..], flags), Ok((_, 0))))
    }

    /// Takes the one of that name.
    pub fn take(&mut self, name: &str) -> Result<File> {
        let file = self.named.remove(name);
        file.with_context(|| format!("File descriptor named '{name}' not found"))
    }
}

/// The other end.
pub struct Connection<'a> {
    stream: &'a UnixStream,
    /// What has come and is no whole line yet.
    rest: Vec<u8>,
    /// Its files.
    pub files: Files,
}

impl<'a> Connection<'a> {
    /// Of a client that has sent nothing yet.
    pub fn of(stream: &'a UnixStream) -> Self {
        Self {
            stream,
            rest: Vec::new(),
            files: Files {
                peer: stream.try_clone().ok(),
                ..Files::default()
            },
        }
    }

    /// What has come behind the last line.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// The next line; none once the client has hung up.
    pub fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            ensure!(
                self.rest.len() <= LONGEST_LINE,
                "a line of more than {LONGEST_LINE} bytes is no command"
            );
            if self.receive()? == 0 {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self) -> Result<usize> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            self.stream,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.new.extend(files.map(File::from));
            }
        }
        // Nobody hands over files without naming them.
        let surplus = self.files.new.len().saturating_sub(MOST_FILES);
        self.files.new.drain(..surplus);
        self.rest.extend(&bytes[..received.bytes]);
        Ok(received.bytes)
    }
}

//! The helper in the guest.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hyperv_sim::files::{Files, LocalFiles};
use hyperv_sim::syslog::Syslog;
use hyperv_sim::volumes;

use super::program::{self, Program};
use super::request::{Digest, Numbered, Reply, Request};

/// The helper.
#[derive(Default)]
pub struct Helper {
    program: Program,
    syslog: Option<Syslog>,
    files: LocalFiles,
    /// Devices that are kept open.
    open: Vec<File>,
}

impl Helper {
    /// Serves requests until one asks it to leave, or the input ends.
    ///
    /// # Errors
    ///
    /// If the port cannot be read or written.
    pub fn serve(&mut self, port: &Path) -> Result<()> {
        // Where systemd runs the log is the journal's.
        if !Path::new("/run/systemd/system").exists() {
            self.syslog = Some(program::collect_syslog()?);
        }
        let mut options = OpenOptions::new();
        let port = options.read(true).write(true).open(port)?;
        self.serve_requests(BufReader::new(port.try_clone()?), port)
    }

    /// Answers each line that is a request.
    ///
    /// # Errors
    ///
    /// If reading or writing fails.
    pub fn serve_requests(&mut self, from: impl BufRead, mut to: impl Write) -> Result<()> {
        for line in from.split(b'\n') {
            let Ok(asked) = serde_json::from_slice::<Numbered<Request>>(&line?) else {
                continue;
            };
            let leave = matches!(asked.what, Request::Leave);
            let what = self
                .answer(asked.what)
                .unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
            let number = asked.number;
            let mut line = serde_json::to_vec(&Numbered { number, what })?;
            line.push(b'\n');
            to.write_all(&line)?;
            if leave {
                break;
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<Reply> {
        let files = &self.files;
        match request {
            Request::Hello => {
                let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
                return Ok(Reply::Text(release.trim().to_owned()));
            }
            Request::Leave => {}
            Request::Facts(path) => return Ok(Reply::Facts(files.facts(&path)?)),
            Request::List(path) => return Ok(Reply::Names(files.list(&path)?)),
            Request::Read(path) => return Ok(Reply::Bytes(files.read(&path)?)),
            Request::Digest(path) => {
                let mut file = File::open(&path).with_context(|| path.display().to_string())?;
                return Ok(Digest::of(&mut file)?.reply());
            }
            Request::Write { path, data } => files.write(&path, &data)?,
            Request::Fill { path, seed, len } => files.fill(&path, seed, len)?,
            Request::SetMode { path, mode } => files.set_mode(&path, mode)?,
            Request::CreateDirectories(path) => files.create_directories(&path)?,
            Request::Link { target, link } => files.link(&target, &link)?,
            Request::MakeFifo(path) => files.make_fifo(&path)?,
            Request::Remove(path) => files.remove(&path)?,
            Request::RemoveDirectory(path) => files.remove_directory(&path)?,
            Request::SetImmutable { path, immutable } => files.set_immutable(&path, immutable)?,
            Request::Mount { path, size } => files.mount(&path, size).map(drop)?,
            Request::Unmount(path) => files.unmount(&path)?,
            Request::Run(words) => return Ok(Reply::Text(volumes::run(&words)?)),
            Request::Start(words) => self.program.start(&words)?,
            Request::End { signal, millis } => {
                self.program.end(signal, Duration::from_millis(millis))?;
            }
            Request::Pid => return Ok(Reply::Pid(self.program.pid()?)),
            Request::Resources => return Ok(Reply::Resources(self.program.resources()?)),
            Request::StallSyslog(stalled) => {
                let syslog = self.syslog.as_ref().context("no syslog is read")?;
                syslog.stall(stalled)?;
            }
            Request::Log => return Ok(Reply::Text(program::log()?)),
            Request::Hold { path, message } => {
                let mut options = OpenOptions::new();
                let mut device = options.read(true).write(true).open(path)?;
                device.write_all(&message)?;
                let _ = device.read(&mut vec![0; 1 << 14])?;
                self.open.push(device);
            }
            Request::LetGo => self.open.clear(),
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_by_number_and_other_lines_are_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a\n\"ü\"");
        let ask = |number, what| serde_json::to_string(&Numbered { number, what }).unwrap();
        let lines = [
            "|not a request".to_owned(),
            ask(
                1,
                Request::Write {
                    path: path.clone(),
                    data: vec![0, 10, 255],
                },
            ),
            ask(2, Request::List(home.path().to_owned())),
            ask(3, Request::Remove(path.join("below"))),
            ask(4, Request::Leave),
            ask(5, Request::Hello),
        ]
        .join("\n");
        let mut replies = Vec::new();
        Helper::default()
            .serve_requests(lines.as_bytes(), &mut replies)
            .unwrap();
        let replies: Vec<Numbered<Reply>> = replies
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        let numbers: Vec<u64> = replies.iter().map(|reply| reply.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(replies[0].what, Reply::Done);
        assert_eq!(replies[1].what, Reply::Names(vec!["a\n\"ü\"".into()]));
        assert!(matches!(&replies[2].what, Reply::Failed(why) if why.contains("below")));
    }
}

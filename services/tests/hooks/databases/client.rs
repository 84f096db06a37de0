//! Clients of a database that write until they are stopped.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::await_that;

/// A client whose transactions are numbered from 1 on, without a gap.
pub(super) struct Writer {
    child: Child,
    committed: Arc<AtomicU64>,
}

impl Writer {
    /// Starts a client that reads statements and prints the last one's result
    /// line by line. `transaction` has `{n}` for the number, and in the end
    /// selects it.
    pub(super) fn start(mut client: Command, transaction: &'static str) -> Self {
        let mut child = client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut statements = child.stdin.take().unwrap();
        thread::spawn(move || {
            for n in 1.. {
                let text = transaction.replace("{n}", &u64::to_string(&n));
                if writeln!(statements, "{text}").is_err() {
                    return;
                }
            }
        });
        let answers = BufReader::new(child.stdout.take().unwrap());
        let committed = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&committed);
        thread::spawn(move || {
            for line in answers.lines() {
                seen.store(line.unwrap().parse().unwrap(), Ordering::Relaxed);
            }
        });
        Self { child, committed }
    }

    /// The last transaction that the server confirmed.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits for this many more, but not for long: the server may be stuck, at a
    /// page that it wants to add to a frozen file.
    pub(super) fn let_go_on(&self, count: u64) {
        let before = self.committed();
        let end = Instant::now() + Duration::from_secs(1);
        while self.committed() < before + count && Instant::now() < end {
            thread::yield_now();
        }
    }

    /// Waits for this many more.
    #[track_caller]
    pub(super) fn await_more(&self, count: u64) {
        let before = self.committed();
        await_that("the writer continues", || {
            self.committed() >= before + count
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

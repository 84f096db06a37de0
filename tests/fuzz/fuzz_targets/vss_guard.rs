//! What the guard is told: any records, with any number of descriptors. Whatever it
//! was told, nothing is frozen when it ends.

#![no_main]

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arbitrary::Arbitrary;
use hyperv_services::vss::guard::process::{Context, serve};
use hyperv_services::vss::guard::threads::FileSystemCalls;
use libfuzzer_sys::fuzz_target;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};

/// One file system, whatever descriptor is given.
#[derive(Default)]
struct One(AtomicBool);

impl FileSystemCalls for One {
    fn freeze(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.0.swap(true, Ordering::SeqCst) {
            true => Err(Errno::BUSY),
            false => Ok(()),
        }
    }

    fn thaw(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.0.swap(false, Ordering::SeqCst) {
            true => Ok(()),
            false => Err(Errno::INVAL),
        }
    }

    fn dead(&self, _: BorrowedFd<'_>) -> Option<Errno> {
        None
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A record, with so many descriptors.
    Record(u8, u64, u8),
    /// Any bytes.
    Raw(Vec<u8>),
}

fuzz_target!(|steps: Vec<Step>| {
    let (ours, its) = UnixStream::pair().unwrap();
    let file_system = Arc::new(One::default());
    let context = Context {
        switch: PathBuf::from("/nowhere"),
        calls: Arc::<One>::clone(&file_system),
        own_process: false,
    };
    let guard = thread::spawn(move || serve(&its, None, context));
    let file = File::open("/dev/null").unwrap();
    for step in steps.iter().take(64) {
        // It may have hung up.
        match step {
            Step::Record(kind, value, count) => {
                let mut record = [*kind % 8; 9];
                record[1..].copy_from_slice(&value.to_le_bytes());
                let each = vec![file.as_fd(); usize::from(*count % 9)];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&each));
                let data = [IoSlice::new(&record)];
                let _ = sendmsg(&ours, &data, &mut control, SendFlags::NOSIGNAL);
            }
            Step::Raw(bytes) => {
                let _ = send(&ours, bytes, SendFlags::NOSIGNAL);
            }
        }
    }
    drop(ours);
    let _ = guard.join().unwrap();
    assert!(!file_system.0.load(Ordering::SeqCst), "it is still frozen");
});

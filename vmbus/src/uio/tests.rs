//! A model of a channel and its host in two threads that wait only for each other's
//! signals: in whatever order the host sends and receives, neither waits for ever.

use std::fs::File;
use std::sync::LazyLock;

use loom::sync::{Arc, Notify};
use loom::thread;

use super::*;
use crate::ring::model::{Memory, check, recv, send};

/// As many as both rings and the guest hold, so that a host may send all of them
/// before it receives a reply.
const REQUESTS: usize = 3;

/// A doorbell that behaves like `uio_hv_generic`.
struct Bell {
    incoming: Arc<Memory>,
    /// The threads of the host.
    to_host: Vec<Arc<Notify>>,
}

impl Doorbell for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        static NULL: LazyLock<File> = LazyLock::new(|| File::open("/dev/null").unwrap());
        NULL.as_fd()
    }
    fn acknowledge(&self) -> io::Result<()> {
        Ok(())
    }
    fn signal(&self) -> io::Result<()> {
        self.incoming.store(crate::ring::Word::InterruptMask, 0);
        self.incoming.fence();
        for waiting in &self.to_host {
            waiting.notify();
        }
        Ok(())
    }
}

/// What the host does next, after waiting if necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Send,
    Receive,
}

/// Returns every order in which a host may send all requests and receive all replies.
fn orders(sent: usize, received: usize) -> Vec<Vec<Step>> {
    let mut orders = Vec::new();
    if sent == REQUESTS && received == REQUESTS {
        orders.push(Vec::new());
    }
    let mut first = |step, rest: Vec<Vec<Step>>| {
        orders.extend(rest.into_iter().map(|rest| [vec![step], rest].concat()));
    };
    if sent < REQUESTS {
        first(Step::Send, self::orders(sent + 1, received));
    }
    if received < sent {
        first(Step::Receive, self::orders(sent, received + 1));
    }
    orders
}

/// Answers as many requests as there will be, as a worker does.
fn answer(mut channel: UioChannel<Bell, Arc<Memory>>, signalled: &Notify) {
    let mut buffer = vec![0; channel.buffer_len()];
    let mut answered = 0;
    while answered < REQUESTS {
        let Some(packet) = channel.recv_packet(&mut buffer).unwrap() else {
            if !channel.arm() {
                signalled.wait();
            }
            continue;
        };
        let (transaction, reply) = (packet.transaction, packet.payload);
        while channel.send_packet(transaction, reply).unwrap() != Sent::Done {
            signalled.wait();
        }
        answered += 1;
    }
}

/// A guest that answers in its own thread, and the host's ends.
struct Guest {
    thread: thread::JoinHandle<()>,
    signalled: Arc<Notify>,
    requests: Writer<Arc<Memory>>,
    replies: Reader<Arc<Memory>>,
}

fn guest(to_host: Vec<Arc<Notify>>) -> Guest {
    let (incoming, outgoing) = (Memory::new(), Memory::new());
    let bell = Bell {
        incoming: incoming.clone(),
        to_host,
    };
    let channel = UioChannel::over(bell, incoming.clone(), outgoing.clone()).unwrap();
    let signalled = Arc::new(Notify::new());
    let thread = thread::spawn({
        let signalled = signalled.clone();
        move || answer(channel, &signalled)
    });
    Guest {
        thread,
        signalled,
        requests: Writer::new(incoming).unwrap(),
        replies: Reader::new(outgoing).unwrap(),
    }
}

#[test]
fn a_host_with_one_thread_and_its_guest_never_wait_for_each_other() {
    let orders = orders(0, 0);
    assert_eq!(orders.len(), 5);
    for order in orders {
        check(1, move || {
            let signalled = Arc::new(Notify::new());
            let mut guest = guest(vec![signalled.clone()]);
            let (mut sent, mut received) = (0, 0);
            for step in &order {
                match step {
                    Step::Send => {
                        send(&mut guest.requests, sent, &signalled, &guest.signalled);
                        sent += 1;
                    }
                    Step::Receive => {
                        recv(&mut guest.replies, received, &signalled, &guest.signalled);
                        received += 1;
                    }
                }
            }
            guest.thread.join().unwrap();
        });
    }
}

#[test]
fn a_host_with_two_threads_and_its_guest_never_wait_for_each_other() {
    check(1, || {
        let (to_sender, to_receiver) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let guest = guest(vec![to_sender.clone(), to_receiver.clone()]);
        let (mut requests, mut replies) = (guest.requests, guest.replies);
        let sender = thread::spawn({
            let to_guest = guest.signalled.clone();
            move || {
                for transaction in 0..REQUESTS as u64 {
                    send(&mut requests, transaction, &to_sender, &to_guest);
                }
            }
        });
        for transaction in 0..REQUESTS as u64 {
            recv(&mut replies, transaction, &to_receiver, &guest.signalled);
        }
        sender.join().unwrap();
        guest.thread.join().unwrap();
    });
}

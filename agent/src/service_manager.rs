//! What the service manager is told: that the agent is ready, reloads or stops, and in one
//! line what it does, which `systemctl status` shows. See `sd_notify(3)`.
//!
//! Nothing waits for the service manager. What finds no room in its socket, as when it hangs
//! itself, is sent later.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The least time between two statuses: a host that offers and removes devices must not
/// keep the service manager busy.
const INTERVAL: Duration = Duration::from_millis(100);

/// How soon to try again when the socket has no room.
const RETRY: Duration = Duration::from_secs(1);

/// The service manager that has started the agent.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The change of state that it has not received.
    change: Option<&'static str>,
    /// The status that it has received.
    received: String,
    /// The status that it is to have.
    status: String,
    /// When the next status may be sent.
    next: Instant,
}

impl ServiceManager {
    /// Returns the service manager that wants to be told, by `NOTIFY_SOCKET`.
    ///
    /// # Errors
    ///
    /// As [`ServiceManager::at`].
    pub fn from_environment() -> io::Result<Option<Self>> {
        let address = env::var_os("NOTIFY_SOCKET");
        address.map(|address| Self::at(&address)).transpose()
    }

    /// Returns the service manager whose socket has this path, or this abstract name after
    /// an `@`.
    ///
    /// # Errors
    ///
    /// If the address is too long, or no socket can be created.
    pub fn at(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            change: None,
            received: String::new(),
            status: String::new(),
            next: Instant::now(),
        })
    }

    /// Tells of a change of state, such as `READY=1`. The last one counts.
    pub(crate) fn change(&mut self, change: &'static str, now: Instant) {
        self.change = Some(change);
        self.send(now);
    }

    /// Tells what the agent does, if that has changed.
    pub(crate) fn set_status(&mut self, status: String, now: Instant) {
        self.status = status;
        if self.deadline().is_some_and(|next| next <= now) {
            self.send(now);
        }
    }

    /// Returns when something is to be sent, if anything is.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.change.is_some() || self.status != self.received).then_some(self.next)
    }

    fn send(&mut self, now: Instant) {
        let mut message = String::new();
        if let Some(change) = self.change {
            message += &format!("{change}\n");
        }
        if self.status != self.received {
            message += &format!("STATUS={}\n", self.status);
        }
        let sent = self.socket.send_to_addr(message.as_bytes(), &self.address);
        if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            self.next = now + RETRY;
            return;
        }
        // After another error nobody listens.
        self.change = None;
        self.received.clone_from(&self.status);
        self.next = now + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager's socket, and the agent's connection to it.
    fn manager() -> (UnixDatagram, ServiceManager) {
        let name = format!("hyperv-agent test {:?}", std::thread::current().id());
        let name = format!("{name} {}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let connection = ServiceManager::at(format!("@{name}").as_ref()).unwrap();
        (socket, connection)
    }

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut message = [0; 256];
        match socket.recv(&mut message) {
            Ok(len) => Some(String::from_utf8(message[..len].to_vec()).unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }

    #[test]
    fn a_status_is_sent_when_it_changes() {
        let (socket, mut manager) = manager();
        let mut now = Instant::now() + INTERVAL;
        for _ in 0..2 {
            manager.set_status("one".to_owned(), now);
        }
        assert_eq!(received(&socket).as_deref(), Some("STATUS=one\n"));
        assert_eq!((received(&socket), manager.deadline()), (None, None));
        // Not too often, but the last one in the end.
        manager.set_status("two".to_owned(), now);
        manager.set_status("three".to_owned(), now);
        assert_eq!(received(&socket), None);
        now = manager.deadline().unwrap();
        manager.set_status("three".to_owned(), now);
        assert_eq!(received(&socket).as_deref(), Some("STATUS=three\n"));
        // A change of state does not wait, and takes the status with it.
        manager.set_status("four".to_owned(), now);
        manager.change("READY=1", now);
        assert_eq!(received(&socket).as_deref(), Some("READY=1\nSTATUS=four\n"));
        assert_eq!(manager.deadline(), None);
    }

    #[test]
    fn a_service_manager_that_hangs_delays_nothing_and_learns_the_last_state() {
        let (socket, mut manager) = manager();
        let mut now = Instant::now() + INTERVAL;
        let mut sent = 0;
        // Until its socket is full.
        while manager.deadline().is_none() {
            sent += 1;
            manager.change("RELOADING=1", now);
        }
        assert!(sent > 1, "{sent}");
        manager.change("READY=1", now);
        manager.set_status("frozen".to_owned(), now);
        for _ in 1..sent {
            assert_eq!(received(&socket).as_deref(), Some("RELOADING=1\n"));
        }
        assert_eq!(received(&socket), None);
        now = manager.deadline().unwrap();
        manager.set_status("thawed".to_owned(), now);
        let last = "READY=1\nSTATUS=thawed\n";
        assert_eq!(received(&socket).as_deref(), Some(last));
        assert_eq!(manager.deadline(), None);
    }

    #[test]
    fn nobody_is_told_where_nobody_listens() {
        let (socket, mut manager) = manager();
        drop(socket);
        manager.change("READY=1", Instant::now());
        assert_eq!(manager.deadline(), None);
    }
}

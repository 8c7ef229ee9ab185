//! Every listener of the control API: the Unix socket, and the TCP addresses that the settings name.
//!
//! - `INVARIANT`: nobody in the network namespace of an attached sandbox is let in by the Unix socket, whoever they are
//!   and however they came to see its path. The kernel says which namespace a connection's other end was made in.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Daemon, ServeError, credentials, socket};
use crate::attach::AttachmentId;
use crate::config::{Config, Control};
use crate::control::door::{Door, Lock};
use crate::limits;

/// What the TCP addresses let in with.
pub(super) struct Locks {
    tcp: Option<Lock>,
    cleartext: Option<Lock>,
}

impl Locks {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(super) fn read(config: &Config) -> Result<Self, ServeError> {
        let Control { tcp, cleartext, .. } = &config.control;
        let tcp = tcp.as_ref().map(credentials::of_tcp).transpose().map_err(ServeError::Credential)?;
        let cleartext = cleartext.as_ref().map(credentials::of_cleartext).transpose();
        Ok(Self { tcp, cleartext: cleartext.map_err(ServeError::Credential)? })
    }
}

/// Sockets that listen, and what they let in with.
pub(super) struct Listeners {
    unix: UnixListener,
    tcp: Vec<(TcpListener, Arc<Door>)>,
    doors: Doors,
}

impl Listeners {
    /// Begins to listen. Nothing is answered yet.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(super) async fn open(config: &Config, locks: Locks) -> Result<Self, ServeError> {
        let control = &config.control;
        let unix = socket::listen(control).map_err(ServeError::own("listen on the control socket"))?;
        let doors = Doors { tcp: locks.tcp.map(opened), cleartext: locks.cleartext.map(opened) };
        let addresses = [control.tcp.as_ref().map(|tcp| tcp.address), control.cleartext.as_ref().map(|at| at.address)];
        let mut tcp = Vec::new();
        for (address, door) in addresses.into_iter().zip([&doors.tcp, &doors.cleartext]) {
            if let (Some(address), Some(door)) = (address, door) {
                let listener = TcpListener::bind(address).await;
                tcp.push((listener.map_err(|error| ServeError::Address(address, error))?, Arc::clone(door)));
            }
        }
        Ok(Self { unix, tcp, doors })
    }

    /// Answers, in tasks that end with the set.
    pub(super) fn serve(self, router: &Router, daemon: &Daemon) -> (Doors, JoinSet<()>) {
        let mut tasks = JoinSet::new();
        let refusals = Arc::new(Semaphore::new(limits::CONTROL_REFUSALS));
        let unix = NoSandboxes { listener: self.unix, daemon: daemon.clone(), refusals };
        tasks.spawn(Arc::new(Door::default()).serve(unix, router.clone()));
        for (listener, door) in self.tcp {
            tasks.spawn(door.serve(listener, router.clone()));
        }
        (self.doors, tasks)
    }
}

/// The Unix socket, for whoever is in no sandbox.
struct NoSandboxes {
    listener: UnixListener,
    daemon: Daemon,
    /// Room for those who are being told that they are sandboxes; beyond, they are told nothing.
    refusals: Arc<Semaphore>,
}

impl Listener for NoSandboxes {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            let (io, _) = Listener::accept(&mut self.listener).await;
            // The kernel makes our end in the namespace of theirs (unix(7) says nothing of it; a test does).
            match AttachmentId::of_namespace(io.as_fd()) {
                Ok(id) if !self.daemon.has_attached(&id) => return (io, ()),
                _ => {
                    if let Ok(room) = Arc::clone(&self.refusals).try_acquire_owned() {
                        tokio::spawn(async move {
                            // Who does not ask at once is told nothing.
                            let _ = timeout(limits::LINGER, refuse(io)).await;
                            drop(room);
                        });
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells a sandbox that it is one (POLICY §9), once it has asked: clients read no answer before.
async fn refuse(mut io: UnixStream) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
        {\"error\":{\"code\":\"forbidden\",\"message\":\"the control API does not answer sandboxes\"}}";
    let _ = io.read(&mut [0; 4096]).await?;
    io.write_all(ANSWER).await?;
    io.shutdown().await
}

/// The doors of TCP addresses.
pub(super) struct Doors {
    tcp: Option<Arc<Door>>,
    cleartext: Option<Arc<Door>>,
}

impl Doors {
    /// Changes the locks of those that are there.
    pub(super) fn change(&self, locks: Locks) {
        for (door, lock) in [(&self.tcp, locks.tcp), (&self.cleartext, locks.cleartext)] {
            if let (Some(door), Some(lock)) = (door, lock) {
                door.change(lock);
            }
        }
    }
}

fn opened(lock: Lock) -> Arc<Door> {
    Arc::new(Door::new(lock))
}

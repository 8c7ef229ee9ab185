//! Every listener of the control API: the Unix socket, and the TCP addresses that the settings name; and who answers
//! there: nobody while a successor is taking over.
//!
//! - `INVARIANT`: a listener stays open while nobody answers: who connects meanwhile waits in it.
//! - `INVARIANT`: nobody in the network namespace of an attached sandbox is let in by the Unix socket, whoever they are
//!   and however they came to see its path. The kernel says which namespace a connection's other end was made in.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::take_over::wire::Place;
use super::{Daemon, ServeError, credentials, socket};
use crate::attach::AttachmentId;
use crate::cli::tell;
use crate::config::{Config, Control};
use crate::control;
use crate::control::door::{self, Door, Lock};
use crate::limits;

/// How long requests may take that are under way, before the daemon hands over without their answers.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

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
    daemon: Daemon,
    each: Vec<(Place, OwnedFd, Arc<Door>)>,
    serving: Option<(watch::Sender<bool>, JoinSet<()>)>,
}

impl Listeners {
    /// Begins to listen, with the sockets that were `left` for the same places, which are taken. Nothing is answered
    /// yet.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(super) async fn open(
        config: &Config,
        locks: Locks,
        daemon: &Daemon,
        left: &mut HashMap<Place, OwnedFd>,
    ) -> Result<(Self, Doors), ServeError> {
        let control = &config.control;
        let path = control.socket.clone();
        // A path that leads nowhere any more is made anew.
        let there = path.exists();
        let unix = match left.remove(&Place::Unix(path.clone())).filter(|_| there) {
            Some(left) => left,
            None => socket::listen(control).map_err(ServeError::own("listen on the control socket"))?.into(),
        };
        let mut each = vec![(Place::Unix(path), unix, Arc::new(Door::default()))];
        let doors = Doors { tcp: locks.tcp.map(opened), cleartext: locks.cleartext.map(opened) };
        let addresses = [control.tcp.as_ref().map(|tcp| tcp.address), control.cleartext.as_ref().map(|at| at.address)];
        for (address, door) in addresses.into_iter().zip([&doors.tcp, &doors.cleartext]) {
            if let (Some(address), Some(door)) = (address, door) {
                let listener = match left.remove(&Place::Tcp(address)) {
                    Some(left) => Ok(left),
                    None => {
                        TcpListener::bind(address).await.and_then(|listener| listener.into_std().map(OwnedFd::from))
                    }
                };
                let listener = listener.map_err(|error| ServeError::Address(address, error))?;
                each.push((Place::Tcp(address), listener, Arc::clone(door)));
            }
        }
        Ok((Self { daemon: daemon.clone(), each, serving: None }, doors))
    }

    /// Answers from now on. It fails only for want of descriptors, and is told.
    pub(super) fn serve(&mut self) {
        let router = control::router(Arc::new(self.daemon.clone()));
        let (stop, rest) = door::rest();
        let mut tasks = JoinSet::new();
        for each in &self.each {
            if let Err(error) = self.answer(&mut tasks, each, &router, rest.clone()) {
                tell(&format!("exeat: nobody can answer at one of the control API's addresses: {error}\n"));
            }
        }
        self.serving = Some((stop, tasks));
    }

    /// Takes no more requests; ready when those under way are answered.
    pub(super) async fn rest(&mut self) {
        let Some((stop, mut tasks)) = self.serving.take() else { return };
        stop.send_replace(true);
        // They end only when the daemon does.
        self.daemon.dismiss_followers();
        if timeout(LAST_REQUESTS, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            tell("exeat: some control requests take too long; they are not waited for\n");
        }
    }

    /// The listeners once more, for another process.
    ///
    /// # Errors
    /// No more descriptors are to be had.
    pub(super) fn again(&self) -> io::Result<Vec<(Place, OwnedFd)>> {
        self.each.iter().map(|(place, listener, _)| Ok((place.clone(), listener.try_clone()?))).collect()
    }

    /// Lets go of the listeners, and answers nobody any more.
    pub(super) fn close(&mut self) {
        self.each.clear();
        self.serving = None;
    }

    fn answer(
        &self,
        tasks: &mut JoinSet<()>,
        (place, listener, door): &(Place, OwnedFd, Arc<Door>),
        router: &Router,
        rest: door::Rest,
    ) -> io::Result<()> {
        let (again, door, router) = (listener.as_fd().try_clone_to_owned()?, Arc::clone(door), router.clone());
        match place {
            Place::Unix(_) => {
                let (listener, daemon) = (UnixListener::from_std(again.into())?, self.daemon.clone());
                let refusals = Arc::new(Semaphore::new(limits::CONTROL_REFUSALS));
                tasks.spawn(door.serve(NoSandboxes { listener, daemon, refusals }, router, rest))
            }
            Place::Tcp(_) => tasks.spawn(door.serve(TcpListener::from_std(again.into())?, router, rest)),
        };
        Ok(())
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

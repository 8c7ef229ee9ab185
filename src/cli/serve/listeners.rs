//! Every listener of the control API: the Unix socket, and the TCP addresses that the settings name.

use std::sync::Arc;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::{ServeError, credentials, socket};
use crate::config::{Config, Control};
use crate::control::door::{Door, Lock};

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
    pub(super) fn serve(self, router: &Router) -> (Doors, JoinSet<()>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::new(Door::default()).serve(self.unix, router.clone()));
        for (listener, door) in self.tcp {
            tasks.spawn(door.serve(listener, router.clone()));
        }
        (self.doors, tasks)
    }
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

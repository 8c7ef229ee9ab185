//! What goes on inside the sandboxes: flows that stay open, probes, and the service that they reach.
//!
//! A socket belongs to the namespace that its thread was in when it was made, and to no thread afterwards: a few
//! threads enter the sandboxes in turn, and one runtime carries all the connections.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{interval, timeout};

use crate::attachments::ground::{Ground, path};

/// How often the service says something on each connection.
const TICK: Duration = Duration::from_millis(500);
/// How long a client waits for a connection, and for its greeting.
const GREETED: Duration = Duration::from_secs(5);

/// A connection to be made in a sandbox.
struct Job {
    sandbox: String,
    to: SocketAddr,
    done: oneshot::Sender<io::Result<std::net::TcpStream>>,
}

/// Threads that enter sandboxes.
#[derive(Clone)]
pub(crate) struct Divers(mpsc::Sender<Job>);

impl Divers {
    pub(crate) fn new(ground: &Ground, count: usize) -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        ground.place.enter(move || {
            for _ in 0..count {
                let inbox = Arc::clone(&inbox);
                // Each ends with the last sender.
                std::thread::spawn(move || {
                    let next = || inbox.lock().expect("no panic").recv();
                    while let Ok(Job { sandbox, to, done }) = next() {
                        // Whoever asked may have gone.
                        let _ = done.send(dive(&sandbox, to));
                    }
                });
            }
        });
        Self(jobs)
    }

    /// A connection from inside a sandbox, once the service has greeted over it.
    pub(crate) async fn greeted(&self, sandbox: &str, to: Ipv4Addr) -> io::Result<TcpStream> {
        let (done, made) = oneshot::channel();
        let job = Job { sandbox: sandbox.to_owned(), to: SocketAddrV4::new(to, 7).into(), done };
        self.0.send(job).expect("the threads live");
        let greeting = async {
            let io = made.await.map_err(io::Error::other)??;
            io.set_nonblocking(true)?;
            let mut io = TcpStream::from_std(io)?;
            io.read_u8().await?;
            Ok(io)
        };
        timeout(GREETED, greeting).await.unwrap_or_else(|late| Err(late.into()))
    }
}

fn dive(sandbox: &str, to: SocketAddr) -> io::Result<std::net::TcpStream> {
    setns(File::open(path(sandbox))?, CloneFlags::CLONE_NEWNET)?;
    std::net::TcpStream::connect_timeout(&to, GREETED)
}

/// Greets whoever connects at port 7, and then says something at every tick.
pub(crate) fn serve(ground: &Ground, addresses: &'static [Ipv4Addr]) {
    ground.run(async move {
        for address in addresses {
            let listener = TcpListener::bind((*address, 7)).await.expect("a listener");
            tokio::spawn(async move {
                while let Ok((mut io, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut ticks = interval(TICK);
                        loop {
                            ticks.tick().await;
                            if io.write_all(b".").await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        }
    });
}

/// A flow that is opened again whenever it has ended, as long as it is wanted.
pub(crate) struct Flow {
    is_open: watch::Receiver<bool>,
    wanted: watch::Sender<bool>,
}

impl Flow {
    pub(crate) fn keep(divers: &Divers, sandbox: &str, to: Ipv4Addr) -> Self {
        let (divers, sandbox) = (divers.clone(), sandbox.to_owned());
        let (state, is_open) = watch::channel(false);
        let (wanted, mut wishes) = watch::channel(false);
        tokio::spawn(async move {
            while wishes.wait_for(|wanted| *wanted).await.is_ok() {
                match divers.greeted(&sandbox, to).await {
                    Ok(mut io) => {
                        state.send_replace(true);
                        // An end is as good as a reset: the flow is over.
                        while matches!(io.read(&mut [0; 64]).await, Ok(1..)) {}
                        state.send_replace(false);
                    }
                    // Not before it is wanted anew.
                    Err(_) if wishes.changed().await.is_err() => return,
                    Err(_) => {}
                }
            }
        });
        Self { is_open, wanted }
    }

    /// Whether it is to be open, and opened again when it has ended.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.send_replace(wanted);
    }

    /// Ready once it is open, or is not.
    pub(crate) async fn is(&self, open: bool) {
        let mut state = self.is_open.clone();
        // The sender lives as long as the flow.
        let _ = state.wait_for(|is_open| *is_open == open).await;
    }
}

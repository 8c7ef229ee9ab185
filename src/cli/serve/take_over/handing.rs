//! The running daemon's side of a take-over, and what it does afterwards.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::talk::{Say, Talk};
use super::wire::{Answer, Hello, Judging, Order, Said, Told};
use crate::cli::channel::Channel;
use crate::cli::serve::Daemon;
use crate::cli::serve::audit_log::AuditLog;
use crate::cli::serve::listeners::Listeners;
use crate::cli::tell;
use crate::control::action::SessionId;
use crate::intercept::Stop;
use crate::limits;
use crate::sandbox::Sandbox;
use crate::sys;

/// Flows of a sandbox that another process serves by now.
pub(in crate::cli::serve) struct Outlived {
    pub(in crate::cli::serve) sandbox: Arc<Sandbox>,
    pub(in crate::cli::serve) stop: Arc<Stop>,
    /// Whether they have ended.
    pub(in crate::cli::serve) ended: watch::Receiver<bool>,
}

/// Ready when a successor has taken over; whoever fails to is told why, and this one goes on.
pub(in crate::cli::serve) async fn hand_over(
    listener: UnixListener,
    daemon: &Daemon,
    api: &mut Listeners,
) -> HandedOver {
    loop {
        let attempt = match listener.accept().await {
            Ok((stream, _)) => attempt(stream, daemon, api).await,
            Err(error) => {
                // Want of descriptors or memory: a moment's rest keeps the loop from spinning on it.
                sleep(limits::LEFT_OPEN_REST).await;
                Err(error)
            }
        };
        match attempt {
            Ok(handed_over) => return handed_over,
            Err(error) => tell(&format!("exeat: nothing was handed over: {error}\n")),
        }
    }
}

async fn attempt(stream: tokio::net::UnixStream, daemon: &Daemon, api: &mut Listeners) -> io::Result<HandedOver> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let (process, pid) = super::peer(&stream)?;
    let channel = tokio::task::spawn_blocking(move || greet(stream)).await??;
    let mut successor = Rival(Some(process));
    let mut talk = Talk::begin(channel)?;
    api.rest().await;
    let frozen = daemon.freeze().await;
    match converse(&mut talk, daemon, api).await {
        Ok(judging) => {
            // It is in charge from here on.
            successor.0 = None;
            let outlived = daemon.let_go(frozen).await;
            api.close();
            Ok(HandedOver { talk, pid, outlived: Arc::new(outlived), judging })
        }
        Err(error) => {
            drop(successor);
            while talk.hear().await.is_some() {}
            daemon.take_again().await;
            drop(frozen);
            api.serve();
            Err(error)
        }
    }
}

/// A successor that is dead before this daemon takes anything again, ends, or gives its attempt up.
struct Rival(Option<sys::Process>);

impl Drop for Rival {
    fn drop(&mut self) {
        // It fails only for one that has ended.
        let _ = self.0.as_ref().map(sys::Process::kill);
    }
}

fn greet(stream: UnixStream) -> io::Result<Channel> {
    stream.set_read_timeout(Some(limits::TAKE_OVER_REST))?;
    let channel = Channel::new(stream);
    let (hello, _) = channel.receive::<Hello>()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let answer = hello.answer();
    channel.send(&answer, &[])?;
    channel.socket().set_read_timeout(None)?;
    match answer {
        Answer::Welcome => Ok(channel),
        Answer::Refused(why) => Err(io::Error::new(io::ErrorKind::Unsupported, why)),
    }
}

/// From the closed store to the successor's taking flows; its settings.
async fn converse(talk: &mut Talk<Told, Said>, daemon: &Daemon, api: &Listeners) -> io::Result<Judging> {
    talk.say.with(Told::Lock, vec![daemon.lock()?]);
    for (place, listener) in api.again()? {
        talk.say.with(Told::Control(place), vec![listener]);
    }
    daemon.tell_all(&talk.say).await?;
    talk.say.soon(Told::Whole);
    match hear(talk, limits::TAKE_OVER_TIME).await? {
        Said::Ready => {}
        other => return Err(unexpected(&other)),
    }
    let yours = daemon.rest().await;
    talk.say.soon(Told::Yours(yours));
    match hear(talk, limits::TAKE_OVER_REST).await? {
        Said::Serving(judging) => Ok(judging),
        other => Err(unexpected(&other)),
    }
}

async fn hear(talk: &mut Talk<Told, Said>, within: Duration) -> io::Result<Said> {
    match timeout(within, talk.hear()).await {
        Ok(Some((said, _))) => Ok(said),
        Ok(None) => Err(io::Error::other("the successor has ended")),
        Err(_) => Err(io::Error::other("the successor has not answered in time, and is ended")),
    }
}

fn unexpected(said: &Said) -> io::Error {
    io::Error::other(format!("the successor has said what it should not ({said:?}), and is ended"))
}

/// A daemon that has handed over: it has its flows, and nothing else.
pub(in crate::cli::serve) struct HandedOver {
    talk: Talk<Told, Said>,
    pid: Pid,
    outlived: Arc<HashMap<SessionId, Outlived>>,
    judging: Judging,
}

impl HandedOver {
    /// Who has taken over.
    pub(in crate::cli::serve) fn successor(&self) -> Pid {
        self.pid
    }

    /// Lets the flows finish, and does what the successor orders; `hurry` says that they are to finish within this
    /// time. When this returns, none is left.
    pub(in crate::cli::serve) async fn outlive(
        mut self,
        daemon: &Daemon,
        audit: &AuditLog,
        mut hurry: mpsc::Receiver<Duration>,
    ) {
        if self.judging != daemon.judging() && !matches!(daemon.judge_by(&self.judging).await, Ok(true)) {
            self.stop_all_after(Duration::ZERO, daemon);
        }
        if let Err(error) = audit.pass_on(Lines(self.talk.say.clone())) {
            tell(&format!("exeat: the audit record goes on where it was: {error}\n"));
        }
        self.talk.say.soon(Told::Retired);
        let outlived = Arc::clone(&self.outlived);
        let mut finished = std::pin::pin!(finished(&outlived, daemon));
        loop {
            tokio::select! {
                () = &mut finished => break,
                Some(within) = hurry.recv() => self.stop_all_after(within, daemon),
                said = self.talk.hear() => match said {
                    Some((Said::Order { number, order: Order::Drain { seconds } }, _)) => {
                        self.stop_all_after(Duration::from_secs(seconds), daemon);
                        self.talk.say.soon(Told::Done { order: number, in_force: true });
                    }
                    Some((Said::Order { number, order }, _)) => {
                        let (daemon, outlived) = (daemon.clone(), Arc::clone(&self.outlived));
                        let say = self.talk.say.clone();
                        tokio::spawn(async move {
                            let in_force = carry_out(&daemon, &outlived, order).await;
                            say.soon(Told::Done { order: number, in_force });
                        });
                    }
                    // Nobody tells of changes any more.
                    Some((Said::Ready | Said::Serving(_), _)) | None => {
                        if let Err(error) = audit.pass_on_no_more() {
                            tell(&format!("exeat: the end of the audit record is lost: {error}\n"));
                        }
                        self.stop_all_after(Duration::ZERO, daemon);
                        finished.await;
                        break;
                    }
                },
            }
        }
        if let Err(error) = audit.close() {
            tell(&format!("exeat: the end of the audit record is lost: {error}\n"));
        }
        self.talk.say.all().await;
    }

    /// Ends what is open then, here and in the process before.
    fn stop_all_after(&self, within: Duration, daemon: &Daemon) {
        let (outlived, daemon) = (Arc::clone(&self.outlived), daemon.clone());
        tokio::spawn(async move {
            let here = async {
                sleep(within).await;
                outlived.values().for_each(|outlived| outlived.stop.stop());
            };
            tokio::join!(here, daemon.before().drain(within));
        });
    }
}

/// Ready when no flow is left, here and in the process before.
async fn finished(outlived: &HashMap<SessionId, Outlived>, daemon: &Daemon) {
    for flows in outlived.values() {
        flows.is_over().await;
    }
    daemon.before().is_gone().await;
}

impl Outlived {
    /// Ends them.
    pub(in crate::cli::serve) async fn end(&self) {
        self.stop.stop();
        self.is_over().await;
    }

    async fn is_over(&self) {
        // An error means that whoever would tell is gone, and so are they.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

/// Whether it is in force for all.
async fn carry_out(daemon: &Daemon, outlived: &HashMap<SessionId, Outlived>, order: Order) -> bool {
    match order {
        Order::Replace { session, policy } => match outlived.get(&session) {
            Some(flows) => daemon.judge_again(&session, flows, policy).await,
            None => daemon.before().replace(&session, &policy).await,
        },
        Order::Limit { session, limits } => {
            if let Some(flows) = outlived.get(&session) {
                daemon.limit(&session, flows, limits);
            }
            daemon.before().limit(&session, limits).await;
            true
        }
        Order::End { session } => {
            let here = async {
                if let Some(flows) = outlived.get(&session) {
                    flows.end().await;
                }
            };
            tokio::join!(here, daemon.before().end(&session));
            true
        }
        Order::Judge(judging) => {
            let (here, before) = tokio::join!(daemon.judge_by(&judging), daemon.before().judge_by(&judging));
            matches!(here, Ok(true)) && before
        }
        Order::Drain { .. } => true,
    }
}

/// Where the audit record goes on: to the successor, which has the file.
struct Lines(Say<Told>);

impl io::Write for Lines {
    /// Waits until they are sent, so that no more of them wait than the record lets.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8(lines.to_vec()).map_err(io::Error::other)?;
        self.0.soon(Told::Lines(text));
        if self.0.all_blocking() { Ok(lines.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

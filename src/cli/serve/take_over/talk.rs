//! A talk between two processes, for code that must not wait: a thread that hears, and one that says.
//!
//! - `INVARIANT`: what is said arrives in the order in which it was said, or the talk is over.
//! - `INVARIANT`: when both the talk and every [`Say`] of it are dropped, the other side learns that it is over, after
//!   all that was said.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::cli::channel::Channel;
use crate::limits;

/// See the module's doc.
pub(super) struct Talk<Said, Heard> {
    pub(super) say: Say<Said>,
    heard: mpsc::Receiver<(Heard, Vec<OwnedFd>)>,
    socket: UnixStream,
}

/// Says things.
pub(in crate::cli::serve) struct Say<Said>(mpsc::UnboundedSender<Message<Said>>);

impl<Said> Clone for Say<Said> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

enum Message<Said> {
    Say(Said, Vec<OwnedFd>),
    /// Tells when all that was said before it has been sent.
    Tell(oneshot::Sender<()>),
}

impl<Said: Serialize + Send + 'static, Heard: DeserializeOwned + Send + 'static> Talk<Said, Heard> {
    /// Goes on over a channel that waits.
    pub(super) fn begin(channel: Channel) -> io::Result<Self> {
        let (socket, hearing) = (channel.socket().try_clone()?, channel.try_clone()?);
        let (hear, heard) = mpsc::channel(limits::TAKE_OVER_QUEUE);
        // What waits here is bounded by what flows, pins and lines there are; who says it cannot wait.
        let (say, saying) = mpsc::unbounded_channel();
        let threads = std::thread::Builder::new;
        threads().name("take-over-hear".into()).spawn(move || {
            // An error is an end as any other: what comes after it cannot be understood.
            while let Ok(Some(message)) = hearing.receive() {
                if hear.blocking_send(message).is_err() {
                    return;
                }
            }
        })?;
        threads().name("take-over-say".into()).spawn(move || say_all(&channel, saying))?;
        Ok(Self { say: Say(say), heard, socket })
    }

    /// The next thing that is said; `None` when the talk is over.
    pub(super) async fn hear(&mut self) -> Option<(Heard, Vec<OwnedFd>)> {
        self.heard.recv().await
    }
}

impl<Said, Heard> Drop for Talk<Said, Heard> {
    fn drop(&mut self) {
        // The thread that hears ends with it; where the socket is closed already, there is nothing to end.
        let _ = self.socket.shutdown(Shutdown::Read);
    }
}

impl<Said> Say<Said> {
    /// Says something some time soon. If the talk is over, nobody hears it.
    pub(in crate::cli::serve) fn soon(&self, said: Said) {
        self.with(said, Vec::new());
    }

    /// The same, with descriptors.
    pub(in crate::cli::serve) fn with(&self, said: Said, descriptors: Vec<OwnedFd>) {
        // It fails when the talk is over, which whoever hears is told.
        let _ = self.0.send(Message::Say(said, descriptors));
    }

    /// Ready when all that was said has been sent, or cannot be, for the talk is over.
    pub(super) async fn all(&self) {
        // An error means the latter.
        let _ = self.expect().await;
    }

    /// The same, for code that may wait; whether all was sent.
    pub(super) fn all_blocking(&self) -> bool {
        self.expect().blocking_recv().is_ok()
    }

    fn expect(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        // As above.
        let _ = self.0.send(Message::Tell(tell));
        told
    }
}

fn say_all<Said: Serialize>(channel: &Channel, mut saying: mpsc::UnboundedReceiver<Message<Said>>) {
    while let Some(message) = saying.blocking_recv() {
        let sent = match message {
            Message::Say(said, descriptors) => {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                channel.send(&said, &descriptors)
            }
            // Who asked may have gone.
            Message::Tell(tell) => {
                let _ = tell.send(());
                Ok(())
            }
        };
        if sent.is_err() {
            break;
        }
    }
    // Half a message could have been sent: nothing may follow it.
    let _ = channel.socket().shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talks() -> (Talk<u32, u32>, Talk<u32, u32>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let talk = |socket| Talk::begin(Channel::new(socket)).unwrap();
        (talk(ours), talk(theirs))
    }

    #[tokio::test]
    async fn all_that_was_said_is_heard_and_then_the_end() {
        let (ours, mut theirs) = talks();
        let count = 10 * u32::try_from(limits::TAKE_OVER_QUEUE).unwrap();
        (0..count).for_each(|number| ours.say.soon(number));
        let again = ours.say.clone();
        drop(ours);
        again.soon(count);
        drop(again);
        for number in 0..=count {
            assert_eq!(theirs.hear().await.map(|(heard, _)| heard), Some(number));
        }
        assert!(theirs.hear().await.is_none());
        // Nobody hears it, and nobody waits.
        theirs.say.soon(1);
        theirs.say.all().await;
    }
}

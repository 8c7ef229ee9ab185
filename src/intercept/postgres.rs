//! PostgreSQL's way into TLS: eight bytes that ask for it, and one that grants it (the protocol's "SSL Session
//! Encryption"). Granted here, so that the client says its hello and the name in it can be judged; asked for again
//! upstream once that name is permitted.
//!
//! It never judges, and it passes nothing on but TLS. Direct TLS (`sslnegotiation=direct`) needs nothing of this.
//!
//! - `INVARIANT`: a client that was granted TLS goes on with TLS or nowhere: what stands behind its question, or comes
//!   in place of a hello, is not read as anything else (as in CVE-2021-23222).
//! - `INVARIANT`: an upstream that does not grant TLS, or says a byte more than that, gets nothing more.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::peek::{Prefixed, peek_answer};
use crate::flow::{HelloFault, Seen};
use crate::limits;

/// `SSLRequest`: a length, and a code in place of a version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// `GSSENCRequest`: the same for Kerberos.
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
const GRANTED: u8 = b'S';
const REFUSED: u8 = b'N';

/// Whether bytes may be the beginning of such a question.
pub fn may_begin(bytes: &[u8]) -> bool {
    let begins = |question: &[u8; 8]| bytes.iter().zip(question).all(|(byte, wanted)| byte == wanted);
    !bytes.is_empty() && (begins(&SSL_REQUEST) || begins(&GSSENC_REQUEST))
}

/// Answers the client's questions, and reads what comes after: a hello, if TLS was granted. The other value says
/// whether it asked for TLS, so that nothing else may follow; who does not wait for the grant gets none.
///
/// # Errors
/// The connection broke.
pub async fn answer<Io>(io: Prefixed<Io>) -> io::Result<(Seen, Prefixed<Io>, bool)>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let (mut bytes, mut io) = io.into_parts();
    let deadline = Instant::now() + limits::HELLO_TIME;
    let mut may_ask_gss = true;
    loop {
        if timeout_at(deadline, question(&mut io, &mut bytes)).await.unwrap_or(Ok(())).is_err() {
            break;
        }
        match bytes.as_slice() {
            question if *question == SSL_REQUEST => {
                io.write_all(&[GRANTED]).await?;
                let (seen, io) = peek_answer(io).await;
                let seen = if let Seen::Tls(_) | Seen::Unreadable(_) = seen { seen } else { doubtful() };
                return Ok((seen, io, true));
            }
            question if *question == GSSENC_REQUEST && may_ask_gss => {
                may_ask_gss = false;
                io.write_all(&[REFUSED]).await?;
                bytes.clear();
            }
            // It asks and does not wait for the answer.
            question if question.len() > SSL_REQUEST.len() && may_begin(question) => {
                return Ok((doubtful(), Prefixed::new(bytes, io), true));
            }
            _ => break,
        }
    }
    Ok((Seen::Opaque, Prefixed::new(bytes, io), false))
}

fn doubtful() -> Seen {
    Seen::Unreadable(HelloFault::Malformed)
}

/// Reads until a question is whole, or cannot become one.
async fn question(io: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> io::Result<()> {
    while bytes.is_empty() || (bytes.len() < SSL_REQUEST.len() && may_begin(bytes)) {
        let mut chunk = [0; 16];
        let length = io.read(&mut chunk).await?;
        if length == 0 {
            break;
        }
        bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    Ok(())
}

/// Asks the upstream for TLS, for a client that was granted it.
///
/// # Errors
/// See [`JoinError`]; then the connection is of no use.
pub async fn join(up: &mut TcpStream) -> Result<(), JoinError> {
    let asking = async {
        up.write_all(&SSL_REQUEST).await?;
        up.read_u8().await
    };
    match timeout(limits::UPSTREAM_HANDSHAKE_TIME, asking).await {
        Err(_) => Err(JoinError::TimedOut),
        Ok(Err(error)) => Err(JoinError::Io(error)),
        Ok(Ok(GRANTED)) => match up.try_read(&mut [0]) {
            Ok(1..) => Err(JoinError::SaysMore),
            // Nothing there yet, an end, or an error, which the relay meets again.
            _ => Ok(()),
        },
        Ok(Ok(_)) => Err(JoinError::Refused),
    }
}

/// Why an upstream cannot be spoken to.
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// It does not speak TLS, or no PostgreSQL.
    Refused,
    /// It went on in clear.
    SaysMore,
    /// It took longer than [`limits::UPSTREAM_HANDSHAKE_TIME`].
    TimedOut,
    /// The connection broke.
    Io(io::Error),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the PostgreSQL upstream refuses TLS",
            Self::SaysMore => "the PostgreSQL upstream granted TLS and went on in clear",
            Self::TimedOut => "the PostgreSQL upstream did not say in time whether it speaks TLS",
            Self::Io(_) => "the connection to the PostgreSQL upstream broke before TLS",
        })
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Refused | Self::SaysMore | Self::TimedOut => None,
        }
    }
}

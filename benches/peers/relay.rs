//! The least that a transparent relay costs: it accepts, waits for the first bytes, connects to where they were going,
//! and copies. It reads no name, has no rules, no limits and no record. A yardstick, and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Socket, Type};

/// Bytes copied at once.
const BUFFER: usize = 256 * 1024;

/// A connection of the sandbox and one to its origin, with what each has not taken yet.
struct Pair {
    ends: [TcpStream; 2],
    /// What came from an end and has not gone to the other.
    left: [Vec<u8>; 2],
    ended: [bool; 2],
    broken: bool,
}

/// Serves at `port` for ever.
pub(crate) fn serve(port: u16) -> ! {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("a socket option");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).expect("a free port");
    socket.listen(4096).expect("a listener");
    socket.set_nonblocking(true).expect("a socket option");
    let listener = TcpListener::from(socket);
    let (mut pairs, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        let ready = wait(&listener, &pairs);
        if ready.first().is_some_and(|ready| *ready) {
            while let Ok((down, _)) = listener.accept() {
                pairs.extend(open(down));
            }
        }
        for (pair, ready) in pairs.iter_mut().zip(ready.get(1..).unwrap_or_default().chunks(2)) {
            if ready.contains(&true) {
                pair.copy(&mut buffer);
            }
        }
        pairs.retain(|pair| !pair.broken && pair.ended != [true; 2]);
    }
}

/// What is ready: the listener, and both ends of every pair.
fn wait(listener: &TcpListener, pairs: &[Pair]) -> Vec<bool> {
    let mut watched = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    for pair in pairs {
        for (end, stream) in pair.ends.iter().enumerate() {
            let [from_here, from_there] = if end == 0 { [0, 1] } else { [1, 0] };
            let mut flags = PollFlags::empty();
            let is_full = pair.left.get(from_here).is_some_and(|left| !left.is_empty());
            flags.set(PollFlags::POLLIN, !is_full && !pair.ended.get(from_here).is_some_and(|ended| *ended));
            flags.set(PollFlags::POLLOUT, pair.left.get(from_there).is_some_and(|left| !left.is_empty()));
            watched.push(PollFd::new(stream.as_fd(), flags));
        }
    }
    poll(&mut watched, PollTimeout::NONE).expect("poll");
    watched.iter().map(|watched| watched.any().unwrap_or_default()).collect()
}

fn open(down: TcpStream) -> Option<Pair> {
    let to = getsockopt(&down, sockopt::OriginalDst).ok()?;
    let to = SocketAddrV4::new(Ipv4Addr::from(u32::from_be(to.sin_addr.s_addr)), u16::from_be(to.sin_port));
    let up = TcpStream::connect(to).ok()?;
    for end in [&down, &up] {
        end.set_nodelay(true).ok()?;
        end.set_nonblocking(true).ok()?;
    }
    Some(Pair { ends: [down, up], left: Default::default(), ended: [false; 2], broken: false })
}

impl Pair {
    fn copy(&mut self, buffer: &mut [u8]) {
        let Self { ends: [down, up], left: [out, inward], ended: [down_ended, up_ended], broken } = self;
        let done =
            one_way(down, up, out, down_ended, buffer).and_then(|()| one_way(up, down, inward, up_ended, buffer));
        *broken = done.is_err();
    }
}

fn one_way(
    mut from: &TcpStream,
    mut to: &TcpStream,
    left: &mut Vec<u8>,
    ended: &mut bool,
    buffer: &mut [u8],
) -> std::io::Result<()> {
    while !*ended || !left.is_empty() {
        if !left.is_empty() {
            match to.write(left) {
                Ok(count) => drop(left.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            continue;
        }
        match from.read(buffer) {
            Ok(0) => {
                *ended = true;
                return to.shutdown(Shutdown::Write);
            }
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                let written = match to.write(bytes) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    written => written?,
                };
                left.extend_from_slice(bytes.get(written..).unwrap_or_default());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

//! HTTP/2, by a library that knows its frames and its streams, and nothing of messages beyond.
//!
//! It owns how a message becomes a stream and a stream a message, in both directions: heads, interim answers, bodies
//! with their trailers, and streams that leave HTTP (RFC 8441). It never judges, and never dials.
//!
//! - `INVARIANT`: a side gets room for more only as what came is read, and gives no more than there is room for: of one
//!   body, one piece waits at most.
//! - `INVARIANT`: a half that is dropped before its end is a stream that is reset, so that nobody takes a part for a
//!   whole.
//! - `INVARIANT`: everything of one connection runs in its own task; what comes together goes on together.

mod ask;
mod body;
mod date;
mod pipe;
mod serve;
mod tunnel;

pub(super) use ask::{SendError, ask};
pub(super) use body::Streamed;
pub(super) use serve::serve;
pub(super) use tunnel::Tunnel;

/// Bytes of one frame that we take, which are the fewest there may be (RFC 9113 §6.5.2).
pub(super) const FRAME: u32 = 16 * 1024;

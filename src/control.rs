//! The control API: what a control plane asks of the daemon, and what it is told.
//!
//! Requests come in as wire forms and become one [`Action`](action::Action) or one question; whoever carries them out
//! implements [`Act`](action::Act). Nothing here touches the data path, a store or an attachment.
//!
//! - `INVARIANT`: an answer is true when it is given: what `Act::act` returned is in force, also for what was open
//!   before, and survives a crash (POLICY §8).
//! - `INVARIANT`: no value of a secret, and no header value of a policy, is in any answer (POLICY §9).

pub mod action;
mod answer;
mod api;
mod ask;
mod describe;
pub mod door;
mod forms;
mod pages;

pub use api::{openapi, router};

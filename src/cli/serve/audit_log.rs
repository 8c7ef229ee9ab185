//! The daemon's audit record, where the settings say, also when they come to say otherwise.
//!
//! `INVARIANT`: an event that was recorded before a change is in the old place, one after it in the new one; none is in
//! neither.

use std::io;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use crate::audit::{AuditFile, Enduring, Event, JsonLines, Record, journal};
use crate::cli::tell;
use crate::config::Audit;

/// See the module's doc.
pub(super) struct AuditLog(RwLock<Sink>);

/// Where the record goes now.
pub(super) struct Sink {
    settings: Audit,
    lines: Option<JsonLines>,
    file: Option<AuditFile>,
}

impl Sink {
    /// Opens the place that the settings name.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn open(settings: &Audit) -> io::Result<Self> {
        let (lines, file) = match settings {
            Audit::None => (None, None),
            Audit::Stdout => (Some(lines(io::stdout())?), None),
            Audit::Journal => (Some(lines(journal::Journal::open(Path::new(journal::SOCKET))?)?), None),
            Audit::File { path, rotate } => {
                let file = AuditFile::open(path, *rotate, told)?;
                (Some(lines(file.clone())?), Some(file))
            }
        };
        Ok(Self { settings: settings.clone(), lines, file })
    }

    fn close(&self) -> io::Result<()> {
        self.lines.as_ref().map_or(Ok(()), JsonLines::close)
    }
}

fn lines(out: impl io::Write + Send + 'static) -> io::Result<JsonLines> {
    JsonLines::start(Enduring::new(out, told))
}

fn told(text: &str) {
    tell(&format!("exeat: {text}\n"));
}

impl AuditLog {
    pub(super) fn new(sink: Sink) -> Self {
        Self(RwLock::new(sink))
    }

    /// Opens what these settings name, if it is not what is open.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn prepare(&self, settings: &Audit) -> io::Result<Option<Sink>> {
        let same = self.0.read().unwrap_or_else(PoisonError::into_inner).settings == *settings;
        if same { Ok(None) } else { Sink::open(settings).map(Some) }
    }

    /// What is recorded from now on goes there.
    ///
    /// # Errors
    /// What was recorded before could not all be written.
    pub(super) fn change(&self, sink: Sink) -> io::Result<()> {
        // Whoever records has a part in the lock, so all that was recorded before is in the old one's queue.
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), sink);
        old.close()
    }

    /// What is recorded from now on goes to another process, which has the place by now.
    ///
    /// # Errors
    /// It goes on where it was; or what was recorded before could not all be written.
    pub(super) fn pass_on(&self, to: impl io::Write + Send + 'static) -> io::Result<()> {
        let settings = self.0.read().unwrap_or_else(PoisonError::into_inner).settings.clone();
        self.change(Sink { settings, lines: Some(JsonLines::start(to)?), file: None })
    }

    /// That process is gone: what is recorded from now on goes to the place itself.
    ///
    /// # Errors
    /// The place cannot be had; or what was recorded before could not all be passed on.
    pub(super) fn pass_on_no_more(&self) -> io::Result<()> {
        let settings = self.0.read().unwrap_or_else(PoisonError::into_inner).settings.clone();
        self.change(Sink::open(&settings)?)
    }

    /// Writes whole lines of another process's record.
    pub(super) fn write(&self, text: String) {
        if let Some(lines) = &self.0.read().unwrap_or_else(PoisonError::into_inner).lines {
            lines.write(text);
        }
    }

    /// Opens its file anew, if it is one.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let sink = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sink.file.as_ref().map_or(Ok(()), AuditFile::reopen)
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// Not all could be.
    pub(super) fn close(&self) -> io::Result<()> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).close()
    }
}

impl Record for AuditLog {
    fn record(&self, event: &Event) {
        if let Some(lines) = &self.0.read().unwrap_or_else(PoisonError::into_inner).lines {
            lines.record(event);
        }
    }
}

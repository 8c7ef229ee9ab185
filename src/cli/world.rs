//! The world as sources of secrets see it: exeat's own environment, the clock, and the operator's network.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use zeroize::Zeroizing;

use super::dial::{DialError, Peer};
use crate::limits;
use crate::secret::source::{Ask, FetchError, Reply, World};

/// See the module's doc.
#[derive(Default)]
pub(super) struct Host {
    /// Variables that count more than the environment's.
    own: HashMap<&'static str, OsString>,
}

impl Host {
    /// With this variable, whatever the environment has.
    pub(super) fn with(variable: &'static str, value: OsString) -> Self {
        Self { own: [(variable, value)].into() }
    }
}

impl World for Host {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.own.get(name).cloned().or_else(|| std::env::var_os(name))
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn fetch(&self, ask: Ask) -> Result<Reply, FetchError> {
        let Ask { method, uri, ca, headers, body } = ask;
        let failed = |error: DialError| FetchError(error.into());
        let peer = Peer::of(&uri, ca.as_deref(), None).map_err(failed)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // The bytes go where they are, and are zeroised there.
        let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from_owner(body)));
        let mut request = request.map_err(|error| FetchError(error.into()))?;
        *request.headers_mut() = headers;
        let (parts, answer) = peer.send(request).await.map_err(failed)?.into_parts();
        // Room for all from the start: a vector that grows leaves copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(limits::SECRET_ANSWER_BYTES));
        let mut answer = Limited::new(answer, limits::SECRET_ANSWER_BYTES);
        while let Some(frame) = answer.frame().await {
            if let Ok(data) = frame.map_err(FetchError)?.into_data() {
                body.extend_from_slice(&data);
            }
        }
        Ok(Reply { status: parts.status, body })
    }
}

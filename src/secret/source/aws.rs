//! A key of AWS's, by AWS's own crates: they read profiles, and speak with STS.
//!
//! They have no connections of their own: each request goes over the [`World`]'s, like those of every other source.
//! They try nothing again (whoever keeps the value does), ask no instance for its key, and start no program.
//!
//! The value is what `credential_process` prints, as `sign` takes it.

use std::error::Error;
use std::ffi::OsString;
use std::time::{Duration, SystemTime};

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::{
    BehaviorVersion, Credentials, IdentityCache, ProvideCredentials, Region, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_sts::error::ProvideErrorMetadata;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_sdk_sts::{Client, Config, types};
use aws_smithy_async::time::{SharedTimeSource, StaticTimeSource};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http::{HeaderName, StatusCode, header};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::{Ask, Fault, FetchError, Given, Reply, Secret, World, lies};
use crate::limits;
use crate::policy::source::{AwsFrom, AwsRole, AwsSpec, CredentialSpec};

/// What a session of ours is called.
const SESSION: &str = "exeat";

/// Why STS gives no key (its own words). Anything else that it says is not repeated.
const REASONS: [&str; 9] = [
    "AccessDenied",
    "ExpiredToken",
    "ExpiredTokenException",
    "IDPRejectedClaim",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "RegionDisabledException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Reads the key.
pub(super) async fn read<W: World>(spec: &AwsSpec, world: &W) -> Result<Given, Fault> {
    let (calls, mut waiting) = mpsc::unbounded_channel();
    let line = Line(calls);
    let client = http_client_fn(move |_, _| SharedHttpConnector::new(line.clone()));
    let mut asked = Asked::default();
    let mut key = std::pin::pin!(key(spec, world, client));
    let key = loop {
        tokio::select! {
            biased;
            key = &mut key => break key,
            // The other end is the key's.
            Some(Call { ask, answer }) = waiting.recv() => {
                let reply = world.fetch(Ask { ca: spec.ca.clone(), ..ask }).await;
                // Whoever has asked may have gone.
                let _ = answer.send(asked.note(reply));
            }
        }
    };
    let key = key.map_err(|missing| asked.fault(missing))?;
    let ends = key.expiry().map(|end| end.duration_since(world.now()).unwrap_or(Duration::ZERO));
    Ok(Given { secret: written(&key)?, good_for: ends, again: None })
}

/// Why there is no key.
enum Missing {
    /// What the settings name is not there, or is none.
    Fault(Fault),
    /// AWS's crates cannot say; it may be in what was answered.
    Said(Option<&'static str>, &'static str),
}

impl From<Fault> for Missing {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

async fn key<W: World>(spec: &AwsSpec, world: &W, client: SharedHttpClient) -> Result<Credentials, Missing> {
    let region = spec.region.clone().map(Region::new);
    let clock = SharedTimeSource::new(StaticTimeSource::new(world.now()));
    let base = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(client.clone())
        .region(region.clone())
        .time_source(clock.clone())
        .retry_config(RetryConfig::disabled())
        .identity_cache(IdentityCache::no_cache())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    let base = match &spec.sts {
        Some(sts) => base.endpoint_url(sts.to_string()),
        None => base,
    };
    let first = match &spec.from {
        AwsFrom::Environment => environment(world)?,
        AwsFrom::Profile { name, file } => {
            let config = ProviderConfig::empty()
                .with_http_client(client)
                .with_region(region)
                .with_time_source(clock)
                .with_retry_config(RetryConfig::disabled());
            let mut profile = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(name);
            if let Some(file) = file {
                profile =
                    profile.profile_files(EnvConfigFiles::builder().with_file(EnvConfigFileKind::Config, file).build());
            }
            profile.build().provide_credentials().await.map_err(|error| said(&error, "its profile"))?
        }
        AwsFrom::WebIdentity { role, token } => {
            let token = lies("a token", &CredentialSpec::File(token.clone()), world)?;
            let token = token.expose(|token| String::from_utf8(token.to_vec()));
            let token = token.map_err(|_| Fault::Unfit("its token"))?;
            let asked = Client::from_conf(base.clone().build())
                .assume_role_with_web_identity()
                .role_arn(role)
                .role_session_name(SESSION)
                .web_identity_token(token);
            let given = asked.send().await.map_err(|error| said(&error, "its role"))?;
            credentials(given.credentials)?
        }
    };
    let Some(AwsRole { arn, external_id }) = &spec.role else { return Ok(first) };
    let asked = Client::from_conf(base.credentials_provider(first).build())
        .assume_role()
        .role_arn(arn)
        .role_session_name(SESSION)
        .set_external_id(external_id.clone());
    let given = asked.send().await.map_err(|error| said(&error, "its role"))?;
    Ok(credentials(given.credentials)?)
}

/// The key that AWS's programs find in the environment.
fn environment<W: World>(world: &W) -> Result<Credentials, Fault> {
    let [id, key, token] = AwsSpec::VARIABLES.map(|name| (name, world.variable(name)));
    let text = |(name, value): (&str, Option<OsString>)| {
        let missing = |fault| Fault::Credential("a key", format!("the variable {name}"), Box::new(fault));
        let value = value.ok_or_else(|| missing(Fault::Unset))?;
        value.into_string().ok().filter(|value| !value.is_empty()).ok_or_else(|| missing(Fault::Empty))
    };
    let token = token.1.is_some().then(|| text(token)).transpose()?;
    Ok(Credentials::new(text(id)?, text(key)?, token, None, "environment"))
}

/// What STS gave.
fn credentials(given: Option<types::Credentials>) -> Result<Credentials, Fault> {
    let types::Credentials { access_key_id, secret_access_key, session_token, expiration, .. } =
        given.ok_or(Fault::Garbled)?;
    let end = SystemTime::try_from(expiration).map_err(|_| Fault::Garbled)?;
    Ok(Credentials::new(access_key_id, secret_access_key, Some(session_token), Some(end), "STS"))
}

/// A key as `credential_process` prints it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct KeyWire<'a> {
    version: u8,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
}

fn written(key: &Credentials) -> Result<Secret, Fault> {
    let expiration = key.expiry().map(|end| OffsetDateTime::from(end).format(&Rfc3339)).transpose();
    let wire = KeyWire {
        version: 1,
        access_key_id: key.access_key_id(),
        secret_access_key: key.secret_access_key(),
        session_token: key.session_token(),
        expiration: expiration.map_err(|_| Fault::Garbled)?,
    };
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * limits::SECRET_BYTES));
    serde_json::to_writer(&mut *text, &wire).map_err(|_| Fault::Garbled)?;
    Ok(Secret::new(text))
}

/// What of an error of AWS's crates may be told: STS's own word, or which of the settings cannot be used.
fn said(error: &(dyn Error + 'static), what: &'static str) -> Missing {
    let mut next = Some(error);
    while let Some(error) = next {
        let code = match (error.downcast_ref::<AssumeRoleError>(), error.downcast_ref()) {
            (Some(error), _) => error.code(),
            (None, Some(error)) => AssumeRoleWithWebIdentityError::code(error),
            (None, None) => None,
        };
        if let Some(reason) = code.and_then(|code| REASONS.iter().find(|reason| **reason == code)) {
            return Missing::Said(Some(reason), what);
        }
        next = error.source();
    }
    Missing::Said(None, what)
}

/// What has become of the requests so far.
#[derive(Default)]
struct Asked {
    last: Option<Result<StatusCode, FetchError>>,
}

impl Asked {
    fn note(&mut self, reply: Result<Reply, FetchError>) -> Option<Reply> {
        let reply = reply.map_err(|error| self.last = Some(Err(error))).ok()?;
        self.last = Some(Ok(reply.status));
        Some(reply)
    }

    fn fault(self, missing: Missing) -> Fault {
        match (missing, self.last) {
            (Missing::Fault(fault), _) => fault,
            (Missing::Said(..), Some(Err(error))) => Fault::Unreachable(error),
            (Missing::Said(Some(reason), _), Some(Ok(status))) if status.is_client_error() => Fault::Denied(reason),
            (Missing::Said(..), Some(Ok(StatusCode::OK))) => Fault::Garbled,
            (Missing::Said(..), Some(Ok(status))) => Fault::Answered(status),
            (Missing::Said(_, what), None) => Fault::Unfit(what),
        }
    }
}

/// A request of AWS's crates, and who waits for the answer; there is none where nobody could be asked.
struct Call {
    ask: Ask,
    answer: oneshot::Sender<Option<Reply>>,
}

/// Over which AWS's crates ask.
#[derive(Debug, Clone)]
struct Line(mpsc::UnboundedSender<Call>);

impl HttpConnector for Line {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let calls = self.0.clone();
        HttpConnectorFuture::new(async move {
            let broken = |why: &str| ConnectorError::io(why.into());
            let (answer, reply) = oneshot::channel();
            let ask = ask(request).ok_or_else(|| broken("it cannot be asked"))?;
            calls.send(Call { ask, answer }).map_err(|_| broken("nobody asks any more"))?;
            let Reply { status, body } = reply.await.ok().flatten().ok_or_else(|| broken("there is no answer"))?;
            let status = status.as_u16().try_into().map_err(|_| broken("it is no status"))?;
            Ok(HttpResponse::new(status, SdkBody::from(body.to_vec())))
        })
    }
}

fn ask(request: HttpRequest) -> Option<Ask> {
    let (parts, body) = request.try_into_http1x().ok()?.into_parts();
    let mut headers = parts.headers;
    for name in [header::AUTHORIZATION, HeaderName::from_static("x-amz-security-token")] {
        headers.get_mut(name).into_iter().for_each(|value| value.set_sensitive(true));
    }
    let body = Zeroizing::new(body.bytes()?.to_vec());
    Some(Ask { method: parts.method, uri: parts.uri, ca: None, headers, body })
}

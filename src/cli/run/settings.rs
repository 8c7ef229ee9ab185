//! From the arguments of `run` to what a session needs: policy compiled, secrets read, paths found.
//!
//! Everything that can be wrong with what the user gave is wrong here, before a sandbox is made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use super::{RunArguments, RunError};
use crate::cli::certificates::CertificateKeeper;
use crate::cli::policy::{Disk, Document, terms};
use crate::cli::proxy;
use crate::cli::world::Host;
use crate::config::UpstreamProxy;
use crate::intercept::upstream::proxy::Proxy;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::source::CredentialSpec;
use crate::policy::{self, Policy};
use crate::resolve::{NameServer, Overrides};
use crate::secret::Secrets;
use crate::secret::keep::Keeper;
use crate::secret::placeholder::Placeholders;
use crate::secret::source::World;

/// What a session needs.
pub(in crate::cli) struct Settings {
    pub(in crate::cli) policy: Policy,
    /// What of the policy is legal and perhaps not meant.
    pub(in crate::cli) advice: Diagnostics,
    pub(in crate::cli) secrets: Secrets,
    /// What the command gets instead.
    pub(in crate::cli) placeholders: Placeholders,
    /// Keep those current.
    pub(in crate::cli) keepers: Vec<Keeper>,
    /// Taken out of the protected ranges.
    pub(in crate::cli) allow_protected: Vec<IpNet>,
    pub(in crate::cli) overrides: Overrides,
    /// Resolvers; those of the host's own configuration where there is none.
    pub(in crate::cli) resolvers: Vec<NameServer>,
    /// What upstream connections go through, if not their own ways.
    pub(in crate::cli) proxy: Option<Proxy>,
    /// What origins are shown over TLS.
    pub(in crate::cli) certificates: Vec<CertificateKeeper>,
    /// Certificates trusted for what `--resolve` names, beside the host's.
    pub(in crate::cli) upstream_ca: Vec<CertificateDer<'static>>,
    /// Certificates that the sandbox trusts, beside the host's and its own root; in PEM.
    pub(in crate::cli) trusted_inside: String,
    /// Variables that secrets come from.
    pub(in crate::cli) variables: BTreeSet<String>,
    /// Files that hold or describe secrets.
    pub(in crate::cli) hidden: Vec<PathBuf>,
    /// Paths that `--share` keeps.
    pub(in crate::cli) shared: Vec<PathBuf>,
    /// Paths that `--expose` keeps.
    pub(in crate::cli) exposed: Vec<PathBuf>,
}

impl Settings {
    /// Reads and checks all that the arguments name.
    pub(in crate::cli) fn from_arguments(arguments: RunArguments) -> Result<Self, RunError> {
        let flags = policy::Flags {
            mode: arguments.mode,
            allow: arguments.allow,
            allow_cidr: arguments.allow_cidr,
            deny_cidr: arguments.deny_cidr,
            observe: arguments.observe,
        };
        let mut settings = Self::of_policy(arguments.policy.as_deref(), &flags, &Host::default())?;
        settings.allow_protected = arguments.allow_protected;
        settings.overrides = arguments.resolve.into_iter().collect();
        settings.resolvers = arguments.resolvers;
        if let Some(url) = arguments.upstream_proxy {
            let credentials = arguments.upstream_proxy_credentials;
            settings.hidden.extend(credentials.clone());
            let credentials = credentials.map(CredentialSpec::File);
            settings.go_through(&UpstreamProxy { url, credentials, direct: arguments.direct })?;
        }
        for said in arguments.client_certificate {
            settings.hidden.push(said.key.clone());
            let mut keeper = CertificateKeeper::new(said);
            keeper.read().map_err(RunError::own("use a client certificate"))?;
            settings.certificates.push(keeper);
        }
        for path in arguments.upstream_ca {
            settings.upstream_ca.extend(certificates(&path)?);
        }
        settings.hidden.extend(arguments.audit.filter(|path| path != Path::new("-")));
        settings.shared = found("--share", arguments.share)?;
        settings.exposed = found("--expose", arguments.expose)?;
        Ok(settings)
    }

    fn go_through(&mut self, said: &UpstreamProxy) -> Result<(), RunError> {
        let (proxy, keeper) = proxy::open(said).map_err(RunError::own("find the upstream proxy"))?;
        if let Some(mut keeper) = keeper {
            runtime()?.block_on(keeper.ask(&Host::default())).map_err(RunError::Secret)?;
            self.keepers.push(keeper);
        }
        self.proxy = Some(proxy);
        Ok(())
    }

    /// The settings of one policy, and nothing else asked for. `world` is where its secrets come from.
    pub(in crate::cli) fn of_policy(
        policy: Option<&str>,
        flags: &policy::Flags,
        world: &impl World,
    ) -> Result<Self, RunError> {
        let document = policy.map(Document::named).transpose().map_err(RunError::Document)?;
        let file = document.as_ref().and_then(Document::file);
        let disk = Disk::default();
        // A run has nobody to sign the token of a `forwardURL`.
        let lacks = vec![(policy::Feature::Forward, "a run has no issuer for the token that goes along")];
        let terms = policy::Terms { lacks, ..terms(&disk) };
        let compiled = Policy::compile(document.as_ref().map(Document::source), flags, &terms)
            .map_err(|faults| RunError::Policy(Box::new(faults)))?;
        let (policy, advice) = (compiled.policy, compiled.advice);
        let mut hidden: Vec<PathBuf> = file.map(Path::to_owned).into_iter().chain(disk.into_read()).collect();
        let secrets = Secrets::default();
        let mut keepers = Vec::new();
        let variables = policy.sources().flat_map(|(_, from)| from.variables()).map(str::to_owned);
        let variables: BTreeSet<String> = variables.collect();
        let runtime = runtime()?;
        for (name, from) in policy.sources() {
            let mut keeper = Keeper::new(name.clone(), from.clone()).withholding(variables.iter().cloned());
            runtime.block_on(keeper.ask(world)).map_err(RunError::Secret)?;
            secrets.share(name.clone(), keeper.slot());
            keepers.push(keeper);
            hidden.extend(from.files().into_iter().map(Path::to_owned));
        }
        let placeholders = Placeholders::default().with(&policy, &secrets);
        Ok(Self {
            placeholders: placeholders.map_err(RunError::own("draw a random number"))?,
            policy,
            advice,
            secrets,
            keepers,
            allow_protected: Vec::new(),
            overrides: Overrides::default(),
            resolvers: Vec::new(),
            proxy: None,
            certificates: Vec::new(),
            upstream_ca: Vec::new(),
            trusted_inside: String::new(),
            variables,
            hidden,
            shared: Vec::new(),
            exposed: Vec::new(),
        })
    }
}

fn runtime() -> Result<Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::own("start a runtime"))
}

/// Certificates of one PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RunError> {
    let text = fs::read(path).map_err(|error| RunError::Unreadable(path.to_path_buf(), error))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).flatten().collect();
    if certificates.is_empty() { Err(RunError::NoCertificate(path.to_path_buf())) } else { Ok(certificates) }
}

/// The paths as the kernel knows them, links followed.
fn found(option: &'static str, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, RunError> {
    let find = |path: PathBuf| fs::canonicalize(&path).map_err(|error| RunError::NotThere(option, path, error));
    paths.into_iter().map(find).collect()
}

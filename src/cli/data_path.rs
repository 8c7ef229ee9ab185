//! The data path of a sandbox, wired: what all sandboxes of a host share, and the tasks that serve one.
//!
//! It judges nothing and makes no sandbox: whoever does passes it in, with the sockets that its packets come to.
//!
//! `INVARIANT`: two sandboxes share what the host is (its resolvers' cache, its addresses, its roots), nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::host::{self, Guard};
use crate::attach::{
    LISTENER_PORT, SandboxDatagrams, SandboxListener, SandboxPackets, SandboxReplies, Served, Sockets,
};
use crate::audit::Record;
use crate::ca::Authority;
use crate::dns::Dns;
use crate::intercept::upstream::Upstream;
use crate::intercept::upstream::certificates::ClientCertificates;
use crate::intercept::upstream::proxy::Proxy;
use crate::intercept::workers::Workers;
use crate::intercept::{self, Context, Rest, Stop};
use crate::issuer::Tokens;
use crate::policy::Protected;
use crate::resolve::{HostResolver, NameServer, Overrides};
use crate::sandbox::Sandbox;

/// How long flows may take to end that have been told to.
pub(super) const LAST_FLOWS: Duration = Duration::from_secs(2);

/// What the operator says about the host.
#[derive(Default)]
pub(super) struct Settings {
    /// Taken out of the protected ranges.
    pub(super) allow_protected: Vec<IpNet>,
    /// Addresses of names, by the operator.
    pub(super) overrides: Overrides,
    /// Certificates trusted for those names, beside the host's.
    pub(super) upstream_ca: Vec<CertificateDer<'static>>,
    /// Resolvers; those of the host's own configuration where there is none.
    pub(super) resolvers: Vec<NameServer>,
    /// What upstream connections go through, if not their own ways.
    pub(super) proxy: Option<Proxy>,
    /// What origins are shown over TLS.
    pub(super) certificates: ClientCertificates,
    /// Where flows are carried.
    pub(super) workers: Workers,
}

/// What all sandboxes share.
pub(super) struct Outside {
    resolver: Arc<HostResolver>,
    guard: Arc<Guard>,
    system: Arc<RootCertStore>,
    overridden: Arc<RootCertStore>,
    proxy: Option<Arc<Proxy>>,
    certificates: ClientCertificates,
    workers: Workers,
}

impl Outside {
    /// Reads what the host is, and keeps it current as long as the runtime lives that this is called in.
    ///
    /// # Errors
    /// The addresses of the host cannot be listed.
    pub(super) fn open(settings: Settings) -> io::Result<Self> {
        let Settings { allow_protected, overrides, upstream_ca, resolvers, proxy, certificates, workers } = settings;
        let mut system = RootCertStore::empty();
        // Certificates that cannot be read are not trusted; with none at all, every upstream is refused by name.
        system.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let mut overridden = system.clone();
        overridden.add_parsable_certificates(upstream_ca);
        let ipv6 = host::has_ipv6_route();
        let (system, overridden) = (Arc::new(system), Arc::new(overridden));
        let roots = Arc::clone(&system);
        let resolver = match resolvers.as_slice() {
            [] => HostResolver::system(roots, overrides, ipv6),
            servers => HostResolver::with_servers(servers, roots, overrides, ipv6),
        };
        let asked = proxy.iter().flat_map(|proxy| proxy.addrs()).map(SocketAddr::ip);
        let guard = Arc::new(Guard::new(asked.collect(), allow_protected)?);
        let watched = Arc::clone(&guard);
        // Without news of changes, the addresses that the host had at the start stay protected.
        tokio::spawn(async move { watched.watch().await });
        let (resolver, proxy) = (Arc::new(resolver), proxy.map(Arc::new));
        Ok(Self { resolver, guard, system, overridden, proxy, certificates, workers })
    }

    /// The addresses that no policy opens by itself, as they are now.
    pub(super) fn protected(&self) -> Arc<Protected> {
        self.guard.protected().load_full()
    }

    /// From now on the operator takes these ranges out of protection, and names these resolvers. What is open has not
    /// been judged again.
    ///
    /// # Errors
    /// The addresses of the host cannot be listed; nothing has changed.
    pub(super) fn change(&self, allow_protected: &[IpNet], resolvers: &[NameServer]) -> io::Result<()> {
        self.guard.allow(allow_protected)?;
        self.resolver.change(resolvers);
        Ok(())
    }

    /// Serves one sandbox until it is stopped, or the handle dropped. Without `tokens`, no `forwardURL` is heeded.
    ///
    /// # Errors
    /// The runtime cannot watch the sockets.
    pub(super) fn serve(
        &self,
        sandbox: &Arc<Sandbox>,
        authority: Arc<Authority>,
        record: Arc<dyn Record>,
        tokens: Option<Tokens>,
        sockets: Sockets,
    ) -> io::Result<Serving> {
        self.serve_after_rest(sandbox, authority, record, tokens, sockets).map(|(serving, _)| serving)
    }

    /// The same, but nothing is taken as long as the rest is held that comes with it.
    ///
    /// # Errors
    /// The runtime cannot watch the sockets.
    pub(super) fn serve_after_rest(
        &self,
        sandbox: &Arc<Sandbox>,
        authority: Arc<Authority>,
        record: Arc<dyn Record>,
        tokens: Option<Tokens>,
        sockets: Sockets,
    ) -> io::Result<(Serving, Option<Rest>)> {
        let listener = SandboxListener::new(sockets.tcp)?;
        let datagrams = Arc::new(SandboxDatagrams::new(sockets.udp)?);
        let packets = Arc::new(SandboxPackets::new(sockets.relay)?);
        let replies = Arc::new(SandboxReplies::new(sockets.raw));
        let served = Served::of(&listener, &datagrams, &packets, &replies);
        let resolve = Arc::new(self.resolver.for_sandbox(Arc::clone(&sandbox.quota().questions)));
        let protected = self.guard.protected();
        let dns = Dns::new(Arc::clone(sandbox), resolve.clone(), Arc::clone(protected), Arc::clone(&record));
        let dns = Arc::new(dns);
        let upstream = Upstream::new(resolve, Arc::clone(&self.system), Arc::clone(&self.overridden));
        let upstream = upstream.through(self.proxy.clone()).showing(self.certificates.clone());
        let context = Context {
            sandbox: Arc::clone(sandbox),
            host: Arc::clone(protected),
            upstream,
            authority,
            dns: Arc::clone(&dns),
            tokens,
            record,
            workers: self.workers.clone(),
            listener_port: LISTENER_PORT,
        };
        let (stop, shutdown) = intercept::shutdown();
        let stop = Arc::new(stop);
        let rest = Arc::clone(&stop).at_rest();
        let asked = intercept::dns::serve_datagrams(datagrams, Arc::clone(&dns), shutdown.clone());
        let questions = tokio::spawn(asked);
        let context = Arc::new(context);
        let relayed = intercept::udp::serve(packets, replies, Arc::clone(&context), shutdown.clone());
        let relayed = tokio::spawn(relayed);
        let flows = tokio::spawn(intercept::serve(listener, context, shutdown));
        Ok((Serving { stop, tasks: [flows, questions, relayed], served, dns }, rest))
    }
}

/// The tasks that serve one sandbox.
pub(super) struct Serving {
    stop: Arc<Stop>,
    /// Its flows, its questions, and its other datagrams.
    tasks: [JoinHandle<()>; 3],
    served: Served,
    dns: Arc<Dns>,
}

impl Serving {
    /// Stops it from elsewhere.
    pub(super) fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    /// Its sockets once more, for another process to serve.
    ///
    /// # Errors
    /// No more descriptors are to be had.
    pub(super) fn sockets(&self) -> io::Result<Option<Sockets>> {
        self.served.again()
    }

    /// What answers its questions.
    pub(super) fn dns(&self) -> &Arc<Dns> {
        &self.dns
    }

    /// Takes no more, and lets what is open finish; what takes longer, or is open when it is stopped, is ended.
    pub(super) async fn drain(mut self, within: Duration) {
        self.stop.drain();
        let tasks = &mut self.tasks;
        let finished = async {
            for task in tasks {
                // It ends by itself, and a panic of its own has been told.
                let _ = task.await;
            }
        };
        tokio::select! {
            () = finished => {}
            () = self.stop.is_begun() => self.end(LAST_FLOWS).await,
            () = sleep(within) => self.end(LAST_FLOWS).await,
        }
    }

    /// Takes no more, and waits until what is open has been closed and recorded; what takes longer is cut. Afterwards
    /// its sockets are closed.
    pub(super) async fn end(self, within: Duration) {
        self.stop.stop();
        for mut task in self.tasks {
            if !task.is_finished() && timeout(within, &mut task).await.is_err() {
                task.abort();
                // It was aborted: that is all there is to learn.
                let _ = task.await;
            }
        }
    }
}

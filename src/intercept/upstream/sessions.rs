//! TLS towards upstreams, ready to be used: one configuration for each identity that we have there, so that a dial
//! copies none, and the sessions of that identity, to be resumed.
//!
//! It never dials, and never decides whom to trust: the roots are passed in.
//!
//! - `INVARIANT`: identities share no session: neither two generations of the policy, nor two sets of credentials, nor
//!   two certificates of ours.
//! - `INVARIANT`: at most [`limits::TLS_IDENTITIES`] are kept, each with sessions of [`limits::TLS_UPSTREAMS`].

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::{ClientConfig, RootCertStore};

use crate::flow::Alpn;
use crate::limits;
use crate::policy::verdict::Injection;
use crate::tls;

use super::certificates::Shown;

/// Whose certificates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those that the host trusts.
    System,
    /// Those for names that the operator gave an address.
    Overridden,
}

/// What is kept of TLS.
pub(super) struct Sessions {
    system: ClientConfig,
    overridden: ClientConfig,
    /// The last used last.
    identities: Mutex<Vec<Identity>>,
}

struct Identity {
    generation: u64,
    credentials: Arc<[Injection]>,
    shown: Option<Shown>,
    resumption: Resumption,
    configs: Vec<(Roots, Vec<Alpn>, Arc<ClientConfig>)>,
}

impl Sessions {
    pub(super) fn new(system: Arc<RootCertStore>, overridden: Arc<RootCertStore>) -> Self {
        let [system, overridden] = [system, overridden].map(|roots| tls::client(roots).with_no_client_auth());
        Self { system, overridden, identities: Mutex::default() }
    }

    /// How to speak TLS under one generation, with one set of credentials.
    pub(super) fn config(
        &self,
        generation: u64,
        credentials: &Arc<[Injection]>,
        shown: Option<Shown>,
        roots: Roots,
        alpn: &[Alpn],
    ) -> Arc<ClientConfig> {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |identity: &Identity| {
            identity.generation == generation && identity.credentials == *credentials && identity.shown == shown
        };
        let mut identity = match identities.iter().position(is_it) {
            Some(at) => identities.remove(at),
            None => Identity {
                generation,
                credentials: Arc::clone(credentials),
                shown,
                resumption: Resumption::store(Arc::new(store())),
                configs: Vec::new(),
            },
        };
        let config = identity.config(
            roots,
            alpn,
            match roots {
                Roots::System => &self.system,
                Roots::Overridden => &self.overridden,
            },
        );
        // What an earlier generation agreed on is never asked for again.
        identities.retain(|other| other.generation >= generation);
        if identities.len() >= limits::TLS_IDENTITIES {
            identities.remove(0);
        }
        identities.push(identity);
        config
    }
}

impl Identity {
    fn config(&mut self, roots: Roots, alpn: &[Alpn], template: &ClientConfig) -> Arc<ClientConfig> {
        let made = self.configs.iter().find(|(of, offer, _)| *of == roots && offer == alpn);
        if let Some((.., config)) = made {
            return Arc::clone(config);
        }
        let mut config = template.clone();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.resumption = self.resumption.clone();
        if let Some(shown) = &self.shown {
            config.client_auth_cert_resolver = shown.resolver();
        }
        let config = Arc::new(config);
        self.configs.push((roots, alpn.to_vec(), Arc::clone(&config)));
        config
    }
}

/// Room for sessions. The library counts in tickets, of which it keeps eight for each upstream.
fn store() -> ClientSessionMemoryCache {
    ClientSessionMemoryCache::new(8 * limits::TLS_UPSTREAMS)
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;
    use rustls::client::ClientSessionStore;
    use rustls::pki_types::ServerName;

    use super::*;
    use crate::policy::verdict::{Part, Template};

    fn sessions() -> Sessions {
        let none = Arc::new(RootCertStore::empty());
        Sessions::new(Arc::clone(&none), none)
    }

    fn credentials(value: &str) -> Arc<[Injection]> {
        let value = Template::plain(vec![Part::Literal(value.to_owned())]);
        let header = http::header::AUTHORIZATION;
        Arc::new([Injection { header, spelled: "authorization".into(), value, yields: false }])
    }

    #[test]
    fn a_configuration_is_made_once() {
        let sessions = sessions();
        let ask = |roots, alpn: &[Alpn]| sessions.config(1, &credentials("a"), None, roots, alpn);
        let first = ask(Roots::System, &[Alpn::Http1]);
        assert!(Arc::ptr_eq(&first, &ask(Roots::System, &[Alpn::Http1])));
        assert!(!Arc::ptr_eq(&first, &ask(Roots::Overridden, &[Alpn::Http1])));
        let both = ask(Roots::System, &[Alpn::Http2, Alpn::Http1]);
        assert_eq!((first.alpn_protocols.len(), both.alpn_protocols.len()), (1, 2));
    }

    #[test]
    fn identities_have_a_limit_and_the_last_used_stay() {
        let sessions = sessions();
        let ask = |n: usize| sessions.config(1, &credentials(&n.to_string()), None, Roots::System, &[]);
        let (first, second) = (ask(0), ask(1));
        for n in 2..=limits::TLS_IDENTITIES {
            assert!(Arc::ptr_eq(&first, &ask(0)), "it is used all the time");
            ask(n);
        }
        assert_eq!(sessions.identities.lock().unwrap().len(), limits::TLS_IDENTITIES);
        assert!(!Arc::ptr_eq(&second, &ask(1)));
    }

    #[test]
    fn sessions_of_so_many_upstreams_are_kept() {
        let store = store();
        let name = |n: usize| ServerName::try_from(format!("n{n}.test")).unwrap();
        for n in 0..=limits::TLS_UPSTREAMS {
            store.set_kx_hint(name(n), NamedGroup::X25519);
        }
        let kept = (0..=limits::TLS_UPSTREAMS).filter(|n| store.kx_hint(&name(*n)).is_some());
        assert_eq!(kept.count(), limits::TLS_UPSTREAMS);
    }

    #[test]
    fn a_later_generation_leaves_nothing_of_an_earlier_one() {
        let sessions = sessions();
        let first = sessions.config(1, &credentials("a"), None, Roots::System, &[]);
        let later = sessions.config(2, &credentials("a"), None, Roots::System, &[]);
        assert!(!Arc::ptr_eq(&first, &later));
        assert_eq!(sessions.identities.lock().unwrap().len(), 1);
        // Who began under the earlier one and comes late shares nothing with either.
        let late = sessions.config(1, &credentials("a"), None, Roots::System, &[]);
        assert!(!Arc::ptr_eq(&first, &late) && !Arc::ptr_eq(&late, &later));
    }
}

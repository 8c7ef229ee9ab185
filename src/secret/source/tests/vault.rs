//! Vault, as its HTTP API is documented: `auth/token/lookup-self` and `renew-self`, `auth/approle/login`,
//! `auth/kubernetes/login`, `NAMESPACE`, and `data/PATH` of KV version 2, with their statuses.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::{Instant, advance};

use super::*;
use crate::policy::source::{Endpoint, Segments, VaultAuth, VaultSpec};
use crate::secret::keep::Keeper;

/// What there is of Vault.
#[derive(Default)]
struct Vault {
    /// Tokens, when each ends if it does, and whether it can be renewed.
    tokens: HashMap<String, (Option<Instant>, bool)>,
    /// How long a login lasts, in seconds.
    lease: u64,
    renewable: bool,
    kv: HashMap<String, Value>,
    deletion_time: String,
    sealed: bool,
    down: bool,
    /// How often each was asked.
    asked: HashMap<&'static str, usize>,
    logins: usize,
}

type Shared = Arc<Mutex<Vault>>;

impl Vault {
    fn shared() -> Shared {
        let kv = [("ci/git hub".to_owned(), json!({ "token": "canary-1", "number": 7 }))].into();
        Arc::new(Mutex::new(Self { kv, lease: 3_600, renewable: true, ..Self::default() }))
    }

    fn count(&mut self, what: &'static str) {
        *self.asked.entry(what).or_default() += 1;
    }

    fn answer(&mut self, ask: &Ask) -> Result<Reply, FetchError> {
        if self.down {
            return Err(FetchError("connection refused".into()));
        }
        let errors = |text: &str| json!({ "errors": [text] });
        if self.sealed {
            return Ok(reply(503, &errors("Vault is sealed")));
        }
        assert_eq!((header(ask, "x-vault-request"), header(ask, "x-vault-namespace")), ("true", "team/a"));
        let path = ask.uri.path().strip_prefix("/v1/").expect("a version");
        let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
        match (ask.method.as_str(), path) {
            ("POST", "auth/approle/login") => {
                self.count("login");
                match (&body["role_id"], &body["secret_id"]) {
                    (Value::String(role), Value::String(secret)) if role == "role" && secret == "canary-secret-id" => {
                        Ok(self.login())
                    }
                    _ => Ok(reply(400, &errors("invalid role or secret ID"))),
                }
            }
            ("POST", "auth/k8s/login") => {
                self.count("login");
                let is_right = (&body["role"], &body["jwt"]) == (&json!("exeat"), &json!("canary-jwt"));
                if is_right { Ok(self.login()) } else { Ok(reply(403, &errors("permission denied"))) }
            }
            _ => Ok(self.beyond(ask, path)),
        }
    }

    fn login(&mut self) -> Reply {
        self.logins += 1;
        let token = format!("canary-token-{}", self.logins);
        self.tokens.insert(token.clone(), (self.ends(), self.renewable));
        let auth = json!({ "client_token": token, "lease_duration": self.lease, "renewable": self.renewable });
        reply(200, &json!({ "auth": auth, "data": null }))
    }

    fn ends(&self) -> Option<Instant> {
        (self.lease > 0).then(|| Instant::now() + Duration::from_secs(self.lease))
    }

    /// What takes a token.
    fn beyond(&mut self, ask: &Ask, path: &str) -> Reply {
        let denied = || reply(403, &json!({ "errors": ["permission denied"] }));
        let token = header(ask, "x-vault-token").to_owned();
        let Some((until, renewable)) = self.tokens.get(&token).copied() else { return denied() };
        if until.is_some_and(|until| until <= Instant::now()) {
            return denied();
        }
        match (ask.method.as_str(), path) {
            ("GET", "auth/token/lookup-self") => {
                self.count("lookup");
                let ttl = until.map_or(0, |until| (until - Instant::now()).as_secs());
                reply(200, &json!({ "data": { "ttl": ttl, "renewable": renewable, "id": token } }))
            }
            ("POST", "auth/token/renew-self") => {
                self.count("renewal");
                if !renewable {
                    return reply(400, &json!({ "errors": ["lease is not renewable"] }));
                }
                self.tokens.insert(token.clone(), (self.ends(), renewable));
                let auth = json!({ "client_token": token, "lease_duration": self.lease, "renewable": renewable });
                reply(200, &json!({ "auth": auth }))
            }
            ("GET", path) => {
                self.count("reading");
                let place = path.strip_prefix("kv/team/data/").map(|place| place.replace("%20", " "));
                match place.as_ref().and_then(|place| self.kv.get(place)) {
                    Some(data) => {
                        let metadata = json!({ "version": 3, "deletion_time": self.deletion_time, "destroyed": false });
                        let data = json!({ "data": data, "metadata": metadata });
                        reply(200, &json!({ "lease_id": "", "lease_duration": 0, "renewable": false, "data": data }))
                    }
                    // As for a version that was deleted.
                    None => reply(404, &json!({ "data": { "data": null, "metadata": { "version": 3 } } })),
                }
            }
            _ => reply(405, &json!({ "errors": ["unsupported operation"] })),
        }
    }
}

fn spec(auth: VaultAuth) -> VaultSpec {
    let segments = |text| Segments::parse(text).unwrap();
    VaultSpec {
        address: Endpoint::parse("https://vault.test:8200").unwrap(),
        namespace: Some(segments("team/a")),
        mount: segments("kv/team"),
        path: segments("ci/git hub"),
        field: "token".to_owned(),
        ca: None,
        auth,
    }
}

fn app_role() -> VaultAuth {
    VaultAuth::AppRole {
        mount: Segments::parse("approle").unwrap(),
        role_id: "role".to_owned(),
        secret_id: CredentialSpec::Env("CREDENTIAL".to_owned()),
    }
}

fn token() -> VaultAuth {
    VaultAuth::Token(CredentialSpec::Env("CREDENTIAL".to_owned()))
}

fn source(spec: VaultSpec) -> Source {
    Source::new(name(), SourceSpec::Vault(Box::new(spec)))
}

/// A world with this credential and this Vault.
fn world(vault: &Shared, credential: &str) -> impl World + use<> {
    let vault = Arc::clone(vault);
    Service::with(Some(("CREDENTIAL", credential)), move |ask| vault.lock().unwrap().answer(ask))
}

fn asked(vault: &Shared, what: &'static str) -> usize {
    vault.lock().unwrap().asked.get(what).copied().unwrap_or_default()
}

async fn refused(source: &mut Source, world: &impl World) -> (String, bool) {
    let error = source.read(world).await.map(|given| text(&given)).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    let told = error.to_string();
    let told = told.strip_prefix("the secret KEY cannot be had: Vault at https://vault.test:8200 ");
    (told.expect("where it failed").to_owned(), error.is_final())
}

#[tokio::test(start_paused = true)]
async fn a_role_logs_in_once_and_its_token_is_renewed_for_as_long_as_it_can_be() {
    let vault = Vault::shared();
    let world = world(&vault, "canary-secret-id");
    let mut source = source(spec(app_role()));
    let given = source.read(&world).await.unwrap();
    assert_eq!((text(&given).as_str(), given.good_for), ("canary-1", None));
    // It wants to be asked again when two thirds of its lease are over.
    assert_eq!(given.again, Some(Duration::from_secs(2_400)));
    advance(Duration::from_secs(300)).await;
    vault.lock().unwrap().kv.insert("ci/git hub".into(), json!({ "token": "canary-2" }));
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-2", "what is changed there is read");
    assert_eq!((asked(&vault, "login"), asked(&vault, "renewal")), (1, 0));
    for renewals in 1..=3 {
        advance(Duration::from_secs(2_400)).await;
        source.read(&world).await.unwrap();
        assert_eq!((asked(&vault, "login"), asked(&vault, "renewal")), (1, renewals));
    }
    // One that is revoked, and one that can be renewed no more, is followed by another login.
    vault.lock().unwrap().tokens.clear();
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-2");
    assert_eq!(asked(&vault, "login"), 2);
    vault.lock().unwrap().tokens.values_mut().for_each(|(_, renewable)| *renewable = false);
    advance(Duration::from_secs(2_400)).await;
    source.read(&world).await.unwrap();
    assert_eq!(asked(&vault, "login"), 3);
    // Nor is one used that has expired.
    advance(Duration::from_secs(4_000)).await;
    source.read(&world).await.unwrap();
    assert_eq!(asked(&vault, "login"), 4);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_given_is_looked_up_and_renewed_and_changed_where_it_lies() {
    let vault = Vault::shared();
    let end = Some(Instant::now() + Duration::from_secs(3_600));
    vault.lock().unwrap().tokens =
        [("canary-root".to_owned(), (None, false)), ("canary-own".to_owned(), (end, true))].into();
    let root = world(&vault, "canary-root");
    let mut source = source(spec(token()));
    let given = source.read(&root).await.unwrap();
    assert_eq!((text(&given).as_str(), given.again), ("canary-1", None), "it has no end");
    let own = world(&vault, "canary-own");
    assert_eq!(source.read(&own).await.unwrap().again, Some(Duration::from_secs(2_400)));
    assert_eq!(asked(&vault, "lookup"), 2);
    advance(Duration::from_secs(2_400)).await;
    source.read(&own).await.unwrap();
    assert_eq!((asked(&vault, "lookup"), asked(&vault, "renewal")), (2, 1));
    // One that cannot be renewed is used to its end.
    vault.lock().unwrap().tokens.get_mut("canary-own").unwrap().1 = false;
    advance(Duration::from_secs(2_400)).await;
    source.read(&own).await.unwrap();
    advance(Duration::from_secs(900)).await;
    source.read(&own).await.unwrap();
    advance(Duration::from_secs(400)).await;
    assert_eq!(refused(&mut source, &own).await, ("refused the token (403)".to_owned(), true));
}

#[tokio::test]
async fn a_service_account_logs_in_with_its_token() {
    let vault = Vault::shared();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let auth =
        VaultAuth::Kubernetes { mount: Segments::parse("k8s").unwrap(), role: "exeat".to_owned(), token: path.clone() };
    let world = world(&vault, "");
    let mut source = source(spec(auth));
    let (told, is_final) = refused(&mut source, &world).await;
    assert!(told.starts_with("cannot be asked without its service account's token: the file"), "{told}");
    assert!(!is_final && told.ends_with("cannot be read"), "{told}");
    std::fs::write(&path, "canary-jwt\n").unwrap();
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-1");
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_cannot_be_asked_takes_nothing_away_and_one_that_refuses_does() {
    let vault = Vault::shared();
    let world = world(&vault, "canary-secret-id");
    let mut keeper = Keeper::new(name(), SourceSpec::Vault(Box::new(spec(app_role()))));
    let slot = keeper.slot();
    keeper.ask(&world).await.unwrap();
    vault.lock().unwrap().sealed = true;
    keeper.ask(&world).await.unwrap_err();
    let standing = slot.standing();
    assert!(standing.is_there && standing.trouble.is_some_and(|trouble| trouble.why.contains("sealed")));
    vault.lock().unwrap().sealed = false;
    let kept = std::mem::take(&mut vault.lock().unwrap().kv);
    keeper.ask(&world).await.unwrap_err();
    assert!(!slot.standing().is_there, "what is not there any more is not sent any more");
    vault.lock().unwrap().kv = kept;
    keeper.ask(&world).await.unwrap();
    assert!(slot.standing().is_there && slot.why().is_none());
}

#[tokio::test(start_paused = true)]
async fn each_refusal_is_told_and_what_is_not_ours_is_taken_away() {
    let vault = Vault::shared();
    let world = world(&vault, "canary-secret-id");
    let mut source = source(spec(app_role()));
    vault.lock().unwrap().sealed = true;
    let sealed = ("is sealed, or down for maintenance (503)".to_owned(), false);
    assert_eq!(refused(&mut source, &world).await, sealed);
    vault.lock().unwrap().sealed = false;
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-1");
    vault.lock().unwrap().down = true;
    assert_eq!(refused(&mut source, &world).await, ("cannot be reached".to_owned(), false));
    vault.lock().unwrap().down = false;
    let kept = std::mem::take(&mut vault.lock().unwrap().kv);
    assert_eq!(refused(&mut source, &world).await, ("has no such secret (404)".to_owned(), true));
    vault.lock().unwrap().kv.insert("ci/git hub".into(), json!({ "number": 7, "token": 7 }));
    assert_eq!(refused(&mut source, &world).await, ("has no text in that field".to_owned(), true));
    vault.lock().unwrap().kv = kept;
    // A version that is to be deleted is good until then, and not longer.
    vault.lock().unwrap().deletion_time = "2027-01-15T08:10:00.5Z".to_owned();
    assert_eq!(source.read(&world).await.unwrap().good_for, Some(Duration::from_millis(600_500)));
    vault.lock().unwrap().deletion_time = "2027-01-15T08:00:00Z".to_owned();
    assert_eq!(refused(&mut source, &world).await, ("gave what has expired".to_owned(), false));
    vault.lock().unwrap().deletion_time.clear();
    let other = self::world(&vault, "canary-other");
    vault.lock().unwrap().tokens.clear();
    assert_eq!(refused(&mut source, &other).await, ("refused the login (400)".to_owned(), true));
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-1", "it recovers");
    let (told, _) = refused(&mut source, &Nowhere).await;
    assert_eq!(told, "cannot be reached");
    let mut by_token = self::source(spec(token()));
    let (told, _) = refused(&mut by_token, &Nowhere).await;
    assert_eq!(told, "cannot be asked without its token: the variable CREDENTIAL is not set");
}

//! Tokens and keys, at times of the test's choice.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const AUDIENCE: &str = "https://proxy.test/agents";

/// An issuer at a time of the test's choice, in seconds since 1970.
fn issuer(kept: Option<&[u8]>) -> (Arc<Issuer>, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_000_000));
    let clock = Arc::clone(&now);
    let tell = move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed));
    (Arc::new(Issuer::open("https://issuer.test", kept, tell).unwrap()), now)
}

fn turn(issuer: &Issuer) -> bool {
    let due = issuer.due().unwrap();
    let changed = due.is_some();
    due.into_iter().for_each(|keys| issuer.adopt(keys));
    changed
}

fn tokens(issuer: &Arc<Issuer>) -> Tokens {
    let text = |text: &str| text.to_owned();
    let subject =
        Subject { sandbox_id: text("sbx_1"), sandbox_name: text("demo"), team_id: text("t"), project_id: text("p") };
    Tokens::new(Arc::clone(issuer), subject)
}

fn part(token: &HeaderValue, at: usize) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token.to_str().unwrap().split('.').nth(at).unwrap()).unwrap()
}

fn claims(token: &HeaderValue) -> Value {
    serde_json::from_slice(&part(token, 1)).unwrap()
}

/// Whether a published key verifies the token.
fn is_verified(issuer: &Issuer, token: &HeaderValue) -> bool {
    let header: Value = serde_json::from_slice(&part(token, 0)).unwrap();
    let jwks = issuer.jwks();
    let Some(key) = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]) else {
        return false;
    };
    let number = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let (signed, _) = token.to_str().unwrap().rsplit_once('.').unwrap();
    let public = RsaPublicKeyComponents { n: number("n"), e: number("e") };
    public.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &part(token, 2)).is_ok()
}

#[test]
fn a_token_says_what_the_policy_page_says_and_does_not_show() {
    let (issuer, _) = issuer(None);
    assert_eq!(tokens(&issuer).token(AUDIENCE), Err(IssuerError::NoKey), "no key is adopted");
    assert!(turn(&issuer) && !turn(&issuer));
    let token = tokens(&issuer).token(AUDIENCE).unwrap();
    assert!(is_verified(&issuer, &token));
    assert_eq!(
        claims(&token),
        json!({
            "iss": "https://issuer.test", "aud": AUDIENCE, "iat": 1_000_000, "nbf": 1_000_000, "exp": 1_000_060,
            "team_id": "t", "project_id": "p", "sandbox_id": "sbx_1", "sandbox_name": "demo",
        })
    );
    assert_eq!(format!("{token:?} {issuer:?}"), "Sensitive Issuer { url: \"https://issuer.test\", .. }");
    assert!(!issuer.jwks().to_string().contains("\"d\""), "the private part is not published");
}

#[test]
fn a_token_is_signed_once_for_each_audience_and_never_used_to_its_end() {
    let (issuer, now) = issuer(None);
    turn(&issuer);
    let tokens = tokens(&issuer);
    let expiry = |audience| claims(&tokens.token(audience).unwrap())["exp"].as_u64().unwrap();
    assert_eq!(expiry(AUDIENCE), 1_000_060);
    now.store(1_000_029, Ordering::Relaxed);
    assert_eq!((expiry(AUDIENCE), expiry("https://other.test")), (1_000_060, 1_000_089));
    now.store(1_000_030, Ordering::Relaxed);
    assert_eq!(expiry(AUDIENCE), 1_000_090);
    now.store(500_000, Ordering::Relaxed);
    assert!(tokens.token(AUDIENCE).is_err(), "before every key");
    assert_eq!(tokens.signed.lock().unwrap().len(), 0, "what has expired is forgotten");
}

#[test]
fn keys_are_published_before_and_after_they_sign() {
    let (issuer, now) = issuer(None);
    turn(&issuer);
    let kid = |token: &HeaderValue| serde_json::from_slice::<Value>(&part(token, 0)).unwrap()["kid"].clone();
    let published = || issuer.jwks()["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
    let first: Vec<Value> = published();
    assert_eq!(first.len(), 2, "the next is published long before it signs");
    let life = limits::ISSUER_KEY_LIFE.as_secs();
    now.store(1_000_000 + life - 1, Ordering::Relaxed);
    let last_of_first = tokens(&issuer).token(AUDIENCE).unwrap();
    assert!(!turn(&issuer));
    now.store(1_000_000 + life, Ordering::Relaxed);
    assert!(turn(&issuer));
    let first_of_second = tokens(&issuer).token(AUDIENCE).unwrap();
    assert_eq!((kid(&last_of_first), kid(&first_of_second)), (first[0].clone(), first[1].clone()));
    assert!(is_verified(&issuer, &last_of_first), "until it has expired");
    now.store(1_000_000 + life + 121, Ordering::Relaxed);
    assert!(turn(&issuer));
    assert!(!is_verified(&issuer, &last_of_first) && is_verified(&issuer, &first_of_second));
    let all: Vec<Value> = published();
    assert_eq!((all.len(), &all[0]), (2, &first[1]));
}

#[test]
fn what_is_kept_comes_back() {
    let (first, _) = issuer(None);
    let keys = first.due().unwrap().unwrap();
    let kept = keys.to_bytes().unwrap();
    first.adopt(keys);
    let (again, _) = issuer(Some(&kept));
    assert_eq!(again.jwks(), first.jwks());
    assert!(is_verified(&first, &tokens(&again).token(AUDIENCE).unwrap()));
    assert!(matches!(Issuer::open("https://issuer.test", Some(b"[{}]"), SystemTime::now), Err(IssuerError::Kept)));
}

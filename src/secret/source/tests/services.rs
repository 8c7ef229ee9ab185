//! An OAuth 2.0 server (RFC 6749) and GitHub's `POST /app/installations/ID/access_tokens`, as they are documented.

use std::collections::BTreeMap;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::policy::source::{Endpoint, GithubAppSpec, OAuth2Grant, OAuth2Spec};

fn secret() -> CredentialSpec {
    CredentialSpec::Env("CREDENTIAL".to_owned())
}

fn oauth2(grant: OAuth2Grant, by_body: bool) -> Source {
    let spec = OAuth2Spec {
        token_url: Endpoint::parse("https://issuer.test/oauth/token").unwrap(),
        client_id: "exeat client".to_owned(),
        grant,
        by_body,
        scopes: vec!["read".to_owned(), "write:all".to_owned()],
        audience: Some("https://api.test/".to_owned()),
        ca: None,
    };
    Source::new(name(), SourceSpec::OAuth2(Box::new(spec)))
}

/// The fields of a form.
fn fields(ask: &Ask) -> BTreeMap<String, String> {
    assert_eq!(header(ask, "content-type"), "application/x-www-form-urlencoded");
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let mut parts = text.split('%');
        let mut decoded = parts.next().unwrap().to_owned();
        for part in parts {
            decoded.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
            decoded.push_str(&part[2..]);
        }
        decoded
    };
    let form = std::str::from_utf8(&ask.body).unwrap().to_owned();
    form.split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

#[tokio::test]
async fn a_client_shows_its_own_secret_as_a_header_or_in_the_body() {
    for by_body in [false, true] {
        let world = Service::with(Some(("CREDENTIAL", "canary/+ 1")), move |ask: &Ask| {
            assert_eq!(
                (ask.method.as_str(), ask.uri.to_string().as_str()),
                ("POST", "https://issuer.test/oauth/token")
            );
            let fields = fields(ask);
            let field = |name: &str| fields.get(name).map(String::as_str);
            assert_eq!((field("grant_type"), field("scope")), (Some("client_credentials"), Some("read write:all")));
            assert_eq!(field("audience"), Some("https://api.test/"));
            let basic = format!("Basic {}", STANDARD.encode("exeat+client:canary%2F%2B+1"));
            match by_body {
                true => assert_eq!((field("client_id"), header(ask, "authorization")), (Some("exeat client"), "")),
                false => assert_eq!((field("client_id"), header(ask, "authorization")), (None, basic.as_str())),
            }
            assert_eq!(field("client_secret"), by_body.then_some("canary/+ 1"));
            Ok(reply(200, &json!({ "access_token": "canary-2", "token_type": "Bearer", "expires_in": 600 })))
        });
        let given = oauth2(OAuth2Grant::Client { secret: secret() }, by_body).read(&world).await.unwrap();
        assert_eq!((text(&given).as_str(), given.good_for), ("canary-2", Some(Duration::from_secs(600))));
    }
}

#[tokio::test]
async fn a_refresh_token_that_the_server_gives_counts_until_the_server_refuses_it() {
    let asked = Mutex::new(Vec::new());
    let world = Service::with(Some(("CREDENTIAL", "canary-first")), |ask: &Ask| {
        let fields = fields(ask);
        assert_eq!((fields["grant_type"].as_str(), fields["client_id"].as_str()), ("refresh_token", "exeat client"));
        let token = fields["refresh_token"].clone();
        let mut asked = asked.lock().unwrap();
        asked.push(token.clone());
        Ok(match (asked.len(), token.as_str()) {
            (1 | 4, "canary-first") => reply(
                200,
                &json!({ "access_token": "canary-a", "token_type": "bearer", "refresh_token": "canary-second" }),
            ),
            // A server that keeps it says nothing of it.
            (2, "canary-second") => reply(200, &json!({ "access_token": "canary-b", "token_type": "bearer" })),
            _ => reply(400, &json!({ "error": "invalid_grant", "error_description": "canary" })),
        })
    });
    let mut source = oauth2(OAuth2Grant::Refresh { token: secret(), secret: None }, false);
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-a");
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-b");
    let error = source.read(&world).await.unwrap_err();
    let expected = "the secret KEY cannot be had: the OAuth server at https://issuer.test/oauth/token gave no token \
                    (invalid_grant)";
    assert_eq!((error.to_string().as_str(), error.is_final()), (expected, true));
    assert_eq!(text(&source.read(&world).await.unwrap()), "canary-a");
    assert_eq!(*asked.lock().unwrap(), ["canary-first", "canary-second", "canary-second", "canary-first"]);
}

#[tokio::test]
async fn what_is_no_token_is_told_and_not_shown() {
    let odd = json!({ "access_token": "canary", "token_type": "mac" });
    let over = json!({ "access_token": "canary", "token_type": "bearer", "expires_in": 0 });
    for (status, body, expected, is_final) in [
        (401, json!({ "error": "invalid_client" }), "gave no token (invalid_client)", true),
        (400, json!({ "error": "canary" }), "answered with the status 400", false),
        (500, json!({ "error": "invalid_client" }), "answered with the status 500", false),
        (302, json!("canary"), "answered with the status 302", false),
        (200, json!({ "canary": 1 }), "gave an answer that cannot be understood", false),
        (200, odd, "gave an answer that cannot be understood", false),
        (200, over, "gave what has expired", false),
    ] {
        let world = Service::with(Some(("CREDENTIAL", "canary")), |_: &Ask| Ok(reply(status, &body)));
        let error = oauth2(OAuth2Grant::Client { secret: secret() }, false).read(&world).await.unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
        assert_eq!(error.is_final(), is_final, "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    let error = oauth2(OAuth2Grant::Client { secret: secret() }, false).read(&Nowhere).await.unwrap_err();
    assert!(error.to_string().ends_with("without the client's secret: the variable CREDENTIAL is not set"), "{error}");
}

fn github(key: &std::path::Path) -> Source {
    let spec = GithubAppSpec {
        api: Endpoint::parse("https://github.test/api/v3").unwrap(),
        app_id: "12345".to_owned(),
        installation_id: 678,
        private_key: CredentialSpec::File(key.to_owned()),
        repositories: vec!["exeat".to_owned()],
        permissions: vec![("contents".to_owned(), "read".to_owned())],
        ca: None,
    };
    Source::new(name(), SourceSpec::GithubApp(Box::new(spec)))
}

#[tokio::test]
async fn an_app_signs_about_itself_and_gets_a_token_of_its_installation() {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.pem");
    let pem = |der: &[u8]| {
        let body = STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    };
    std::fs::write(&path, pem(pair.as_der().unwrap().as_ref())).unwrap();
    let public = pair.public_key().as_ref().to_vec();
    let answer = Mutex::new((201, json!({ "token": "canary-ghs", "expires_at": "2027-01-15T09:00:00Z" })));
    let world = Service::with(None, |ask: &Ask| {
        let uri = "https://github.test/api/v3/app/installations/678/access_tokens";
        assert_eq!((ask.method.as_str(), ask.uri.to_string().as_str()), ("POST", uri));
        assert_eq!(header(ask, "x-github-api-version"), "2022-11-28");
        let said: Value = serde_json::from_slice(&ask.body).unwrap();
        assert_eq!(said, json!({ "repositories": ["exeat"], "permissions": { "contents": "read" } }));
        let token = header(ask, "authorization").strip_prefix("Bearer ").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public);
        key.verify(signed.as_bytes(), &signature).expect("GitHub would verify it");
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims, json!({ "iss": "12345", "iat": 1_799_999_940_u64, "exp": 1_800_000_540_u64 }));
        let (status, body) = &*answer.lock().unwrap();
        Ok(reply(*status, body))
    });
    let given = github(&path).read(&world).await.unwrap();
    assert_eq!((text(&given).as_str(), given.good_for), ("canary-ghs", Some(Duration::from_secs(3_600))));
    for (status, body, expected, is_final) in [
        (401, json!({ "message": "canary" }), "refused the app (401)", true),
        (404, json!({ "message": "canary" }), "refused the app (404)", true),
        (403, json!({ "message": "canary" }), "answered with the status 403", false),
        (201, json!({ "token": "canary", "expires_at": "2027-01-15T08:00:00Z" }), "gave what has expired", false),
        (201, json!({ "token": "canary", "expires_at": "soon" }), "gave what has expired", false),
    ] {
        *answer.lock().unwrap() = (status, body);
        let error = github(&path).read(&world).await.unwrap_err();
        assert!(error.to_string().ends_with(expected) && !format!("{error:?}").contains("canary"), "{error:?}");
        assert_eq!(error.is_final(), is_final, "{error}");
    }
    std::fs::write(&path, pem(b"canary")).unwrap();
    let error = github(&path).read(&Nowhere).await.unwrap_err();
    assert!(error.to_string().ends_with("cannot be asked: the app's key is none that could be used"), "{error}");
}

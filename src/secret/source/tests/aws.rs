//! AWS: the environment, profiles, and STS as its API reference documents it (AssumeRole, AssumeRoleWithWebIdentity).

use std::collections::HashMap;
use std::path::Path;

use http::HeaderValue;
use serde_json::{Value, json};

use super::*;
use crate::policy::source::{AwsRole, AwsSpec, Endpoint};

const ROLE: &str = "arn:aws:iam::123456789012:role/ci";
/// When the keys of STS end: an hour after the world's time.
const END: &str = "2027-01-15T09:00:00Z";

/// A world whose environment has a key, and STS, which notes what it is asked and answers so.
struct Sts<F> {
    environment: HashMap<&'static str, &'static str>,
    answer: F,
    asked: Mutex<Vec<(String, String, String)>>,
}

impl<F: Fn(usize) -> Result<Reply, FetchError> + Send + Sync> World for Sts<F> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.environment.get(name).map(Into::into)
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    async fn fetch(&self, ask: Ask) -> Result<Reply, FetchError> {
        assert_eq!(ask.method, "POST");
        assert!(ask.headers.get("authorization").is_none_or(HeaderValue::is_sensitive));
        let mut asked = self.asked.lock().unwrap();
        let form = String::from_utf8(ask.body.to_vec()).unwrap();
        asked.push((ask.uri.to_string(), header(&ask, "authorization").to_owned(), form));
        (self.answer)(asked.len())
    }
}

fn sts<F: Fn(usize) -> Result<Reply, FetchError> + Send + Sync>(answer: F) -> Sts<F> {
    let environment = [("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT"), ("AWS_SECRET_ACCESS_KEY", "canary/environment")];
    Sts { environment: environment.into(), answer, asked: Mutex::default() }
}

fn answers(status: u16, body: &str) -> Result<Reply, FetchError> {
    let status = StatusCode::from_u16(status).unwrap();
    Ok(Reply { status, body: Zeroizing::new(body.as_bytes().to_vec()) })
}

/// What STS answers: a key of this name.
fn gives(action: &str, name: &str) -> Result<Reply, FetchError> {
    answers(
        200,
        &format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
             <AccessKeyId>ASIA{name}</AccessKeyId><SecretAccessKey>canary/{name}</SecretAccessKey>\
             <SessionToken>canary-token-{name}</SessionToken><Expiration>{END}</Expiration></Credentials>\
             <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/ci/exeat</Arn>\
             <AssumedRoleId>AROA:exeat</AssumedRoleId></AssumedRoleUser></{action}Result></{action}Response>"
        ),
    )
}

fn refuses(status: u16, code: &str) -> Result<Reply, FetchError> {
    let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>canary</Message></Error>");
    answers(status, &format!("<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"))
}

fn spec(from: AwsFrom) -> AwsSpec {
    AwsSpec { from, role: None, region: Some("eu-central-1".to_owned()), sts: None, ca: None }
}

fn role() -> Option<AwsRole> {
    Some(AwsRole { arn: ROLE.to_owned(), external_id: Some("agreed".to_owned()) })
}

async fn read<F: Fn(usize) -> Result<Reply, FetchError> + Send + Sync>(
    spec: AwsSpec,
    world: &Sts<F>,
) -> Result<(Value, Option<Duration>), SourceError> {
    let given = Source::new(name(), SourceSpec::Aws(Box::new(spec))).read(world).await?;
    Ok((serde_json::from_str(&text(&given)).unwrap(), given.good_for))
}

/// A key as it was given under a name.
fn key(name: &str) -> Value {
    json!({ "Version": 1, "AccessKeyId": format!("ASIA{name}"), "SecretAccessKey": format!("canary/{name}"),
        "SessionToken": format!("canary-token-{name}"), "Expiration": END })
}

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

#[tokio::test]
async fn the_environments_key_is_given_as_it_is() {
    let mut world = sts(|_| panic!("nobody is asked"));
    let of_environment = || spec(AwsFrom::Environment);
    let mut expected =
        json!({ "Version": 1, "AccessKeyId": "AKIAENVIRONMENT", "SecretAccessKey": "canary/environment" });
    assert_eq!(read(of_environment(), &world).await.unwrap(), (expected.clone(), None));
    world.environment.insert("AWS_SESSION_TOKEN", "canary-token");
    expected["SessionToken"] = json!("canary-token");
    assert_eq!(read(of_environment(), &world).await.unwrap(), (expected, None));
    world.environment.remove("AWS_SECRET_ACCESS_KEY");
    let told = read(of_environment(), &world).await.unwrap_err().to_string();
    let expected = "the secret KEY cannot be had: AWS with the key of the environment cannot be asked without a key: \
                    the variable AWS_SECRET_ACCESS_KEY is not set";
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_role_is_taken_with_a_key_and_is_good_until_it_ends() {
    let world = sts(|_| gives("AssumeRole", "ROLE"));
    let given = read(AwsSpec { role: role(), ..spec(AwsFrom::Environment) }, &world).await.unwrap();
    assert_eq!(given, (key("ROLE"), HOUR));
    let elsewhere = Endpoint::parse("https://vpce.test:8443");
    let given = read(AwsSpec { role: role(), sts: elsewhere, ..spec(AwsFrom::Environment) }, &world).await.unwrap();
    assert_eq!(given, (key("ROLE"), HOUR));
    let asked = world.asked.lock().unwrap();
    let places: Vec<&str> = asked.iter().map(|(place, ..)| place.as_str()).collect();
    assert_eq!(places, ["https://sts.eu-central-1.amazonaws.com/", "https://vpce.test:8443/"]);
    for (_, authorization, form) in &*asked {
        let scope = "AWS4-HMAC-SHA256 Credential=AKIAENVIRONMENT/20270115/eu-central-1/sts/aws4_request";
        assert!(authorization.starts_with(scope), "{authorization}");
        let role = "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fci";
        for part in ["Action=AssumeRole&", role, "RoleSessionName=exeat", "ExternalId=agreed"] {
            assert!(form.contains(part), "{part}: {form}");
        }
    }
}

#[tokio::test]
async fn a_token_gets_a_key_and_that_a_role() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let from = || AwsFrom::WebIdentity { role: ROLE.to_owned(), token: folder.path().join("token") };
    let world = sts(|count| match count {
        1 | 2 => gives("AssumeRoleWithWebIdentity", "TOKEN"),
        _ => gives("AssumeRole", "ROLE"),
    });
    let told = read(spec(from()), &world).await.unwrap_err().to_string();
    assert!(told.contains("without a token: the file") && told.ends_with("cannot be read"), "{told}");
    std::fs::write(&token, "canary.identity.token\n").unwrap();
    assert_eq!(read(spec(from()), &world).await.unwrap(), (key("TOKEN"), HOUR));
    assert_eq!(read(AwsSpec { role: role(), ..spec(from()) }, &world).await.unwrap(), (key("ROLE"), HOUR));
    let asked = world.asked.lock().unwrap();
    let [(_, nothing, first), _, (_, authorization, _)] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(nothing.is_empty() && first.ends_with("WebIdentityToken=canary.identity.token"), "{first}");
    assert!(authorization.contains("Credential=ASIATOKEN/"), "{authorization}");
}

fn profile(folder: &Path, name: &str) -> AwsSpec {
    let text = "[profile plain]\naws_access_key_id = AKIAPLAIN\naws_secret_access_key = canary/plain\n\
                [profile taken]\nrole_arn = arn:aws:iam::123456789012:role/ci\nsource_profile = plain\n\
                [profile program]\ncredential_process = /bin/echo canary\n";
    std::fs::write(folder.join("config"), text).unwrap();
    spec(AwsFrom::Profile { name: name.to_owned(), file: Some(folder.join("config")) })
}

#[tokio::test]
async fn a_profile_gives_its_key_or_takes_its_role() {
    let folder = tempfile::tempdir().unwrap();
    let world = sts(|_| gives("AssumeRole", "ROLE"));
    let plain = json!({ "Version": 1, "AccessKeyId": "AKIAPLAIN", "SecretAccessKey": "canary/plain" });
    assert_eq!(read(profile(folder.path(), "plain"), &world).await.unwrap(), (plain, None));
    assert!(world.asked.lock().unwrap().is_empty());
    assert_eq!(read(profile(folder.path(), "taken"), &world).await.unwrap(), (key("ROLE"), HOUR));
    let with_role = AwsSpec { role: role(), ..profile(folder.path(), "plain") };
    assert_eq!(read(with_role, &world).await.unwrap(), (key("ROLE"), HOUR));
    let asked = std::mem::take(&mut *world.asked.lock().unwrap());
    assert!(asked.len() == 2 && asked.iter().all(|(_, by, _)| by.contains("Credential=AKIAPLAIN/")), "{asked:?}");
    for name in ["absent", "program"] {
        let told = read(profile(folder.path(), name), &world).await.unwrap_err().to_string();
        let expected = format!("AWS with the profile {name} cannot be asked: its profile is none that could be used");
        assert!(told.ends_with(&expected), "{told}");
    }
}

#[tokio::test]
async fn why_there_is_no_key_is_told_without_what_was_answered() {
    type Answer = fn(usize) -> Result<Reply, FetchError>;
    let answers: [(Answer, &str, bool); 7] = [
        (|_| refuses(403, "AccessDenied"), "gave no token (AccessDenied)", true),
        (|_| refuses(400, "ExpiredTokenException"), "gave no token (ExpiredTokenException)", true),
        (|_| refuses(400, "canary"), "answered with the status 400", false),
        (|_| refuses(503, "AccessDenied"), "answered with the status 503", false),
        (|_| answers(200, "canary"), "gave an answer that cannot be understood", false),
        (|_| answers(302, "canary"), "answered with the status 302", false),
        (|_| Err(FetchError("nobody is there".into())), "cannot be reached", false),
    ];
    for (answer, expected, is_final) in answers {
        let world = sts(answer);
        let error = read(AwsSpec { role: role(), ..spec(AwsFrom::Environment) }, &world).await.unwrap_err();
        let told = error.to_string();
        assert!(told.ends_with(expected) && error.is_final() == is_final, "{expected}: {told}");
        assert_eq!(world.asked.lock().unwrap().len(), 1, "it is asked once: {expected}");
    }
}

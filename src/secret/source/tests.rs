//! Each source against what it is asked of: files, variables and commands as they are; services as their documentation
//! says that they answer, for no package offers Vault or OpenBao here, and GitHub is nobody's to run.

#[cfg(feature = "aws")]
mod aws;
mod services;
mod vault;

use std::sync::Mutex;

use super::*;

/// A world that holds nothing, and in which nobody answers.
pub(crate) struct Nowhere;

impl World for Nowhere {
    fn variable(&self, _: &str) -> Option<OsString> {
        None
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn fetch(&self, _: Ask) -> Result<Reply, FetchError> {
        Err(FetchError("nobody answers here".into()))
    }
}

/// A world with a variable, and one service.
struct Service<F> {
    variable: Option<(String, String)>,
    answer: F,
    now: Mutex<SystemTime>,
}

impl<F: Fn(&Ask) -> Result<Reply, FetchError> + Send + Sync> Service<F> {
    fn with(variable: Option<(&str, &str)>, answer: F) -> Self {
        let variable = variable.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { variable, answer, now: Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)) }
    }
}

impl<F: Fn(&Ask) -> Result<Reply, FetchError> + Send + Sync> World for Service<F> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variable.as_ref().filter(|(known, _)| known == name).map(|(_, value)| value.into())
    }

    fn now(&self) -> SystemTime {
        *self.now.lock().unwrap()
    }

    async fn fetch(&self, ask: Ask) -> Result<Reply, FetchError> {
        (self.answer)(&ask)
    }
}

fn reply(status: u16, body: &serde_json::Value) -> Reply {
    let status = StatusCode::from_u16(status).unwrap();
    Reply { status, body: Zeroizing::new(body.to_string().into_bytes()) }
}

fn header<'a>(ask: &'a Ask, name: &str) -> &'a str {
    ask.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn text(given: &Given) -> String {
    given.secret.expose(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn name() -> SecretName {
    SecretName::new("KEY").unwrap()
}

async fn of_variable(value: Option<&str>) -> Result<Given, SourceError> {
    let world = Service::with(value.map(|value| ("TOKEN", value)), |_| panic!("nothing is asked"));
    Source::new(name(), SourceSpec::Env("TOKEN".to_owned())).read(&world).await
}

async fn of_command(script: &str) -> Result<(String, Option<Duration>), String> {
    let source = SourceSpec::Command(["sh", "-c", script].map(str::to_owned).into());
    let given = Source::new(name(), source).read(&Nowhere).await.map_err(|error| error.to_string())?;
    Ok((given.secret.expose(|value| String::from_utf8(value.to_vec()).unwrap()), given.good_for))
}

#[tokio::test]
async fn a_variable_gives_its_value_without_the_trailing_newline() {
    of_variable(Some("canary\n")).await.unwrap().secret.expose(|value| assert_eq!(value, b"canary"));
}

#[tokio::test]
async fn a_command_gives_what_it_prints_with_how_long_that_is_good() {
    let minute = Some(Duration::from_secs(60));
    for (script, expected) in [
        ("echo canary", ("canary", None)),
        ("echo '{\"value\": \"canary\"}'", ("canary", None)),
        ("echo '{\"value\": \"canary\", \"expiresIn\": 60}'", ("canary", minute)),
        ("echo '{\"type\": \"service_account\"}'", ("{\"type\": \"service_account\"}", None)),
    ] {
        let (value, good_for) = of_command(script).await.unwrap();
        assert_eq!((value.as_str(), good_for), expected, "{script}");
    }
    let soon = "echo \"{\\\"value\\\": \\\"x\\\", \\\"expiresAt\\\": \\\"$(date -u -d '+1 hour' +%FT%TZ)\\\"}\"";
    let (_, good_for) = of_command(soon).await.unwrap();
    assert!((3500..=3600).contains(&good_for.unwrap().as_secs()), "{good_for:?}");
}

/// As `aws configure export-credentials` prints it; for a key that stays, without an end or with none.
#[tokio::test]
async fn a_key_of_awss_that_a_command_prints_is_the_value_as_it_stands_and_good_until_its_expiration() {
    let key = "\\\"Version\\\": 1, \\\"AccessKeyId\\\": \\\"AK\\\", \\\"SecretAccessKey\\\": \\\"canary\\\"";
    let printed = |end: &str| format!("echo \"{{{key}, \\\"SessionToken\\\": \\\"t\\\"{end}}}\"");
    let ends = |at: &str| printed(&format!(", \\\"Expiration\\\": {at}"));
    let (value, good_for) = of_command(&ends("\\\"$(date -u -d '+1 hour' +%FT%TZ)\\\"")).await.unwrap();
    assert!((3500..=3600).contains(&good_for.unwrap().as_secs()), "{good_for:?}");
    assert!(value.starts_with("{\"Version\": 1, \"AccessKeyId\": \"AK\"") && value.ends_with("Z\"}"), "{value}");
    for script in [printed(""), ends("null")] {
        assert_eq!(of_command(&script).await.unwrap().1, None, "{script}");
    }
    for at in ["\\\"2001-01-01T00:00:00+00:00\\\"", "\\\"soon\\\"", "1893456000", "{}"] {
        let told = of_command(&ends(at)).await.unwrap_err();
        assert!(told.ends_with("gave what has expired") && !told.contains("canary"), "{told}");
    }
    // It is no such key: nobody says what `Expiration` means in it.
    let other = "echo '{\"Expiration\": \"2001-01-01T00:00:00Z\"}'";
    assert_eq!(of_command(other).await.unwrap().1, None);
}

#[tokio::test]
async fn a_command_that_gives_nothing_good_says_why_and_shows_nothing_of_it() {
    for (script, expected) in [
        ("echo canary; exit 3", "failed (exit status: 3)"),
        ("true", "is empty"),
        ("echo '{\"value\": \"canary\", \"expiresIn\": 0}'", "gave what has expired"),
        ("echo '{\"value\": \"canary\", \"expiresAt\": \"2001-01-01T00:00:00Z\"}'", "gave what has expired"),
        ("echo '{\"value\": \"canary\", \"expiresAt\": \"soon\"}'", "gave what has expired"),
        ("yes canary", "holds more than 65536 bytes"),
    ] {
        let told = of_command(script).await.unwrap_err();
        assert_eq!(told, format!("the secret KEY cannot be had: the command sh {expected}"), "{script}");
    }
    let source = SourceSpec::Command(vec!["/no/such/program".to_owned()]);
    let told = Source::new(name(), source).read(&Nowhere).await.unwrap_err().to_string();
    assert_eq!(told, "the secret KEY cannot be had: the command /no/such/program cannot be started");
}

#[tokio::test]
async fn a_file_is_read_where_the_policy_says() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("key"), "canary\n").unwrap();
    let source = SourceSpec::File(directory.path().join("key"));
    let given = Source::new(name(), source).read(&Nowhere).await.unwrap();
    given.secret.expose(|value| assert_eq!(value, b"canary"));
}

#[tokio::test]
async fn what_cannot_be_had_is_an_error_that_names_its_place_and_no_value() {
    let text = of_variable(None).await.unwrap_err().to_string();
    assert_eq!(text, "the secret KEY cannot be had: the variable TOKEN is not set");
    assert!(of_variable(Some("\n")).await.unwrap_err().to_string().ends_with("is empty"));
    let long = "x".repeat(limits::SECRET_BYTES + 1);
    let text = of_variable(Some(&long)).await.unwrap_err().to_string();
    assert!(text.contains("holds more than") && !text.contains("xx"));
    let pasted = SourceSpec::Env("ghp_Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc".into());
    let text = Source::new(name(), pasted).read(&Nowhere).await.unwrap_err().to_string();
    assert_eq!(text, "the secret KEY cannot be had: the variable … is not set");
    let missing = SourceSpec::File("/not/there".into());
    let error = Source::new(name(), missing).read(&Nowhere).await.unwrap_err();
    assert_eq!(error.to_string(), "the secret KEY cannot be had: the file /not/there cannot be read");
}

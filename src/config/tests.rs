//! Settings, read and refused.

use super::*;
use crate::flow::SecretName;
use crate::policy::SourceSpec;
use crate::policy::source::AwsSpec;

fn read(text: &str) -> Result<Config, String> {
    Config::read(Path::new("serve.yaml"), text, &Home::System).map_err(|error| error.to_string())
}

#[test]
fn the_sample_says_what_holds_without_it() {
    assert_eq!(read(SAMPLE), Ok(Config::of_home(&Home::System)));
    // Each of its lines that is turned off can be turned on.
    let mut all: Vec<&str> = Vec::new();
    for line in SAMPLE.lines() {
        let on = line.strip_prefix("#: ");
        let key = on.and_then(|on| on.split_once(':')).map(|(key, _)| format!("{key}:"));
        // A key stands once: what is turned on takes the place of what holds by default.
        all.retain(|before| key.as_ref().is_none_or(|key| !before.starts_with(key)));
        all.push(on.unwrap_or(line));
    }
    let on = read(&all.join("\n")).unwrap();
    let usual = Config::of_home(&Home::System);
    assert_ne!((&on.audit, &on.resolvers, &on.openable), (&usual.audit, &usual.resolvers, &usual.openable));
    assert!(on.control.cleartext.is_some() && on.control.owner.is_some() && on.control.tcp.is_some());
    assert!(matches!(on.audit, Audit::File { rotate: Some(_), .. }));
    assert!(on.issuer.is_some() && on.forward_hosts.is_some() && on.upstream_proxy.is_some());
    assert_eq!(on.client_certificates.len(), 1);
    assert_eq!(on.secrets.values().map(|one| one.source.kind()).collect::<Vec<_>>(), ["githubApp", "vault", "oauth2"]);
}

#[test]
fn a_key_of_awss_takes_a_program_that_was_built_for_it() {
    for (text, expected) in [
        ("{}", None),
        ("{ profile: ci, file: /etc/exeat/aws }", None),
        ("{ webIdentity: { roleArn: a, tokenFile: /token }, region: b, assumeRole: { roleArn: c } }", None),
        ("{ assumeRole: { roleArn: canary } }", Some("`secrets.A.aws`: `webIdentity` and `assumeRole` need `region`")),
        ("{ profile: a, webIdentity: { roleArn: canary, tokenFile: /b } }", Some("`profile` or `webIdentity`")),
        ("{ file: /canary }", Some("`secrets.A.aws.file`: it needs `profile`")),
        ("{ profile: a, file: canary }", Some("`secrets.A.aws.file`")),
    ] {
        let told = read(&format!("secrets: {{ A: {{ to: [a.test], aws: {text} }} }}")).err();
        let expected = if AwsSpec::IS_BUILT { expected } else { Some(AwsSpec::NOT_BUILT) };
        let is_expected = match (&told, expected) {
            (Some(told), Some(expected)) => told.contains(expected) && !told.contains("canary"),
            (told, expected) => told.is_none() && expected.is_none(),
        };
        assert!(is_expected, "{text}: {told:?}");
    }
}

#[test]
fn what_is_set_counts() {
    let config = read(
        "state: /srv/exeat\naudit: stdout\nresolvers: [192.0.2.53, '[2001:db8::53]:5353', '192.0.2.54#dns.example']\n\
         openable: [10.0.0.0/8]\nallowProtected: [127.0.0.1/32]\ncontrol: { socket: /run/x, mode: \"0660\" }\n\
         limits: { flows: 9 }\n",
    )
    .unwrap();
    assert_eq!(serde_json::to_string(&config.limits).unwrap(), "{\"flows\":9}");
    assert_eq!(config.state, Path::new("/srv/exeat"));
    assert_eq!((config.control.socket.as_path(), config.control.mode), (Path::new("/run/x"), 0o660));
    assert_eq!(config.audit, Audit::Stdout);
    let resolvers =
        ["192.0.2.53:53", "[2001:db8::53]:5353", "192.0.2.54:853#dns.example"].map(|text| text.parse().unwrap());
    assert_eq!(config.resolvers, resolvers);
}

#[test]
fn the_command_line_counts_more_than_the_file() {
    let text = "state: /a\naudit: journal\nopenable: [10.0.0.0/8]\nresolvers: [192.0.2.53]\n";
    let flags = Flags {
        state: Some("/b".into()),
        socket: Some("/c".into()),
        audit: Some(Audit::Stdout),
        openable: vec!["192.168.0.0/16".parse().unwrap()],
        resolvers: vec!["192.0.2.54".parse().unwrap()],
        ..Flags::default()
    };
    let file = (Path::new("serve.yaml"), text);
    let config = Config::new(Some(file), flags, &Home::System).unwrap();
    assert_eq!((config.state, config.control.socket, config.audit), ("/b".into(), "/c".into(), Audit::Stdout));
    assert_eq!((config.openable.len(), config.resolvers), (2, vec!["192.0.2.54:53".parse().unwrap()]));
    assert_eq!(Config::new(Some(file), Flags::default(), &Home::System).unwrap().audit, Audit::Journal);
    let flags = Flags { state: Some("/b".into()), ..Flags::default() };
    assert_eq!(Config::new(None, flags, &Home::System).unwrap().state, Path::new("/b"));
}

#[test]
fn nobody_is_let_in_over_tcp_by_default_and_no_sandbox_at_all() {
    let tcp =
        |more: &str| read(&format!("control: {{ tcp: {{ address: '192.0.2.7:1', certificate: /a, key: /b{more} }} }}"));
    assert!(tcp("").unwrap_err().contains("who may ask"));
    let callers = |more: &str| tcp(more).unwrap().control.tcp.unwrap().callers;
    assert_eq!(callers(", tokenFile: /t"), Callers::Token("/t".into()));
    assert_eq!(callers(", clientCertificates: /c"), Callers::Certificate("/c".into()));
    let both = Callers::Both { token: "/t".into(), issuers: "/c".into() };
    assert_eq!(callers(", clientCertificates: /c, tokenFile: /t"), both);
    for (address, range) in [
        ("192.0.2.7:1", "192.0.2.0/24"),
        ("0.0.0.0:1", "192.0.2.9/32"),
        ("[::]:1", "192.0.2.9/32"),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7/32"),
    ] {
        let token = "certificate: /a, key: /b, tokenFile: /t";
        let text = format!("allowProtected: [{range}]\ncontrol: {{ tcp: {{ address: '{address}', {token} }} }}\n");
        let told = read(&text).unwrap_err();
        assert!(told.contains(range) && told.contains("sandboxes could reach"), "{told}");
        assert!(
            read(&text.replace(range, "198.51.100.0/24")).is_ok() || address.contains("0.0.0.0") || address == "[::]:1"
        );
    }
    let clear = "control: { insecureLoopback: { address: '127.0.0.1:1', tokenFile: /t } }\n";
    assert!(read(clear).is_ok());
    assert!(read(&format!("{clear}allowProtected: [127.0.0.0/8]\n")).unwrap_err().contains("insecureLoopback"));
}

#[test]
fn a_file_of_the_record_is_bounded_where_that_is_asked_for() {
    let audit = |text: &str| read(&format!("audit: {text}\n")).map(|config| config.audit);
    let file = |rotate| Ok(Audit::File { path: "/a".into(), rotate });
    assert_eq!(audit("/a"), file(None));
    assert_eq!(audit("{ file: /a }"), file(None));
    let rotate = Some(Rotation { bytes: 7_000_000, keep: 3 });
    assert_eq!(audit("{ file: /a, rotate: { megabytes: 7, keep: 3 } }"), file(rotate));
    for (text, expected) in [
        ("{ file: /a, rotate: { megabytes: 0, keep: 3 } }", "megabytes"),
        ("{ file: /a, rotate: { megabytes: 1, keep: 1001 } }", "1000 at most"),
        ("{ flie: /a }", "serve.yaml:1"),
        ("[/a]", "`journal`"),
        ("nowhere", "`journal`"),
    ] {
        let told = audit(text).unwrap_err();
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn a_secret_has_a_source_and_says_where_it_may_go() {
    let config = read(
        "secrets:\n  ONE: { file: /etc/one, to: [a.test, '*.b.test'], ports: [443, 8443] }\n  \
         TWO: { command: [/usr/bin/gh, auth, token], to: [c.test] }\n  THREE: { env: THREE, to: [d.test] }\n",
    )
    .unwrap();
    let secret = |name: &str| &config.secrets[&SecretName::new(name).unwrap()];
    assert_eq!(secret("ONE").source, SourceSpec::File("/etc/one".into()));
    assert_eq!((secret("ONE").grant.to.len(), secret("ONE").grant.ports.as_slice()), (2, &[443, 8443][..]));
    assert_eq!(secret("THREE").source, SourceSpec::Env("THREE".to_owned()));
    for (text, expected) in [
        ("secrets: { A: { env: canary } }", "missing field `to`"),
        ("secrets: { A: { env: canary, to: [] } }", "`secrets.A.to`"),
        ("secrets: { A: { env: X, to: [https://canary.test] } }", "`secrets.A.to`"),
        ("secrets: { A: { to: [a.test] } }", "exactly one of"),
        ("secrets: { A: { env: canary, file: /canary, to: [a.test] } }", "exactly one of"),
        ("secrets: { A: { file: canary, to: [a.test] } }", "`secrets.A.file`"),
        ("secrets: { A: { command: [canary], to: [a.test] } }", "`secrets.A.command`"),
        ("secrets: { A: { value: canary, to: [a.test] } }", "unknown field"),
        (
            "secrets: { A: { vault: { address: 'http://canary.test', path: a, token: { env: X } }, to: [a.test] } }",
            "`secrets.A.vault.address`: an https URL",
        ),
        (
            "secrets: { A: { vault: { address: 'https://a.test', path: a, token: { file: canary } }, to: [a.test] } }",
            "`secrets.A.vault.token.file`",
        ),
        (
            "secrets: { A: { vault: { address: 'https://a.test', path: canary }, to: [a.test] } }",
            "`secrets.A.vault`: exactly one of `token`, `appRole` and `kubernetes`",
        ),
        (
            "secrets: { A: { oauth2: { tokenUrl: 'https://a.test', clientId: canary }, to: [a.test] } }",
            "`secrets.A.oauth2`: `clientSecret`, `refreshToken` or both",
        ),
        ("secrets: { 'c n': { env: X, to: [a.test] } }", "a secret's name"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told.contains(expected) && !told.contains("canary"), "{text}: {told}");
    }
}

#[test]
fn nothing_says_nothing() {
    for text in ["", "# a comment\n", "{}"] {
        assert_eq!(read(text), Ok(Config::of_home(&Home::System)), "{text:?}");
    }
}

#[test]
fn a_fault_is_told_with_its_line_and_without_the_file() {
    for (text, expected) in [
        ("state: /x\nstaet: /y\n", "serve.yaml:2"),
        ("state: /x\nstate: /y\n", "serve.yaml:2"),
        ("control:\n  token: canary\n", "serve.yaml:2"),
        ("openable: [10.0.0.0/40]\n# canary\n", "serve.yaml:1"),
        ("issuer: http://canary.test\n", "`issuer`"),
        ("issuer: https://canary.test/\n", "`issuer`"),
        ("issuer: https://canary@issuer.test\n", "`issuer`"),
        ("issuer: https://192.0.2.1\n", "`issuer`"),
        ("forwardHosts: [\"a*.canary\"]\n", "`forwardHosts`"),
        ("state: canary\n", "`state`"),
        ("control: { mode: \"canary\" }\n", "`control.mode`"),
        ("control: { mode: \"7777\" }\n", "`control.mode`"),
        ("resolvers: [canary]\n", "`resolvers`"),
        ("upstreamProxy: { url: \"http://user:canary@192.0.2.8:3128\" }\n", "`upstreamProxy.url`"),
        ("upstreamProxy: { url: \"https://192.0.2.8:3128\" }\n# canary\n", "`upstreamProxy.url`"),
        ("upstreamProxy: { url: \"http://192.0.2.8:3128\", credentials: {} }\n", "`upstreamProxy.credentials`"),
        ("clientCertificates: [{ to: [canary.a, A.example, a.example], certificate: /a, key: /b }]\n", "one alone"),
        ("clientCertificates: [{ to: [\"*.canary\"], certificate: /a, key: /b }]\n", "`clientCertificates.to`"),
        (
            "clientCertificates: [{ to: [a.example], certificate: canary, key: /b }]\n",
            "`clientCertificates.certificate`",
        ),
        ("state: /canary\nlimits: { flows: 0 }\n", "serve.yaml:2"),
        ("limits: { flows: 16385 }\n", "`flows` is a whole number from 1 to 16384"),
        ("limits: { flow: 1 }\n", "flow"),
        ("control: { insecureLoopback: { address: \"0.0.0.0:1\", tokenFile: /canary } }\n", "loopback address"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told.contains(expected) && !told.contains("canary"), "{text}: {told}");
    }
}

#[test]
fn a_file_can_be_a_credential() {
    let text = |name: &str| {
        format!("control: {{ insecureLoopback: {{ address: '127.0.0.1:1', tokenFile: 'credential:{name}' }} }}\n")
    };
    let read = |name: &str, credentials: Option<&str>| {
        let flags = Flags { credentials: credentials.map(PathBuf::from), ..Flags::default() };
        let config = Config::new(Some((Path::new("serve.yaml"), &text(name))), flags, &Home::System);
        config.map(|config| config.control.cleartext.unwrap().token).map_err(|error| error.to_string())
    };
    assert_eq!(read("token", Some("/run/credentials/x")), Ok("/run/credentials/x/token".into()));
    assert!(read("token", None).unwrap_err().contains("CREDENTIALS_DIRECTORY"));
    for name in ["", "..", "../x", "/x"] {
        assert!(read(name, Some("/x")).unwrap_err().contains("credential:NAME"), "{name}");
    }
}

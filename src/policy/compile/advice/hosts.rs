//! Whose hosts a pattern matches: names that anybody can have, and hosts that serve many customers.
//!
//! Short tables, of what is met most, and no list of all: a warning that is missing costs little. (The public suffix
//! list says which sites may share cookies, and that is another question: it has `githubusercontent.com`, whose names
//! GitHub gives, and it has not `fastly.net`, whose names customers choose. It changes every week.)

use ipnet::{IpNet, Ipv6Net};

/// A host that serves many customers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shared {
    /// Its last two labels, by which it is found.
    last: &'static str,
    /// Below it customers have names, `*` being one label; or, if `by_path`, it is the host of all of them.
    host: &'static str,
    pub(super) service: &'static str,
    /// Whether it is not the name that tells one customer from another.
    pub(super) by_path: bool,
}

const fn below(last: &'static str, host: &'static str, service: &'static str) -> Shared {
    Shared { last, host, service, by_path: false }
}

const fn within(last: &'static str, host: &'static str, service: &'static str) -> Shared {
    Shared { last, host, service, by_path: true }
}

/// By their last two labels, in order.
const SHARED: [Shared; 56] = [
    below("akamaihd.net", "akamaihd.net", "Akamai"),
    below("akamaized.net", "akamaized.net", "Akamai"),
    below("amazonaws.com", "s3.amazonaws.com", "Amazon S3"),
    within("amazonaws.com", "s3.amazonaws.com", "Amazon S3"),
    below("amazonaws.com", "s3.*.amazonaws.com", "Amazon S3"),
    within("amazonaws.com", "s3.*.amazonaws.com", "Amazon S3"),
    below("amazonaws.com", "execute-api.*.amazonaws.com", "Amazon API Gateway"),
    below("amplifyapp.com", "amplifyapp.com", "AWS Amplify"),
    below("appspot.com", "appspot.com", "Google App Engine"),
    below("azure-api.net", "azure-api.net", "Azure API Management"),
    below("azureedge.net", "azureedge.net", "Azure CDN"),
    below("azurefd.net", "azurefd.net", "Azure Front Door"),
    below("azurestaticapps.net", "azurestaticapps.net", "Azure Static Web Apps"),
    below("azurewebsites.net", "azurewebsites.net", "Azure App Service"),
    below("b-cdn.net", "b-cdn.net", "bunny.net"),
    below("backblazeb2.com", "backblazeb2.com", "Backblaze B2"),
    below("cdn77.org", "cdn77.org", "CDN77"),
    below("cloudflarestorage.com", "r2.cloudflarestorage.com", "Cloudflare R2"),
    below("cloudfront.net", "cloudfront.net", "Amazon CloudFront"),
    below("cloudfunctions.net", "cloudfunctions.net", "Google Cloud Functions"),
    below("deno.dev", "deno.dev", "Deno Deploy"),
    below("digitaloceanspaces.com", "*.digitaloceanspaces.com", "DigitalOcean Spaces"),
    below("edgecompute.app", "edgecompute.app", "Fastly"),
    below("edgekey.net", "edgekey.net", "Akamai"),
    below("edgesuite.net", "edgesuite.net", "Akamai"),
    below("elasticbeanstalk.com", "elasticbeanstalk.com", "AWS Elastic Beanstalk"),
    below("fastly.net", "fastly.net", "Fastly"),
    below("fastlylb.net", "fastlylb.net", "Fastly"),
    below("firebaseapp.com", "firebaseapp.com", "Firebase Hosting"),
    below("fly.dev", "fly.dev", "Fly.io"),
    below("github.io", "github.io", "GitHub Pages"),
    below("gitlab.io", "gitlab.io", "GitLab Pages"),
    below("googleapis.com", "storage.googleapis.com", "Google Cloud Storage"),
    within("googleapis.com", "storage.googleapis.com", "Google Cloud Storage"),
    below("herokuapp.com", "herokuapp.com", "Heroku"),
    below("netlify.app", "netlify.app", "Netlify"),
    below("ngrok-free.app", "ngrok-free.app", "ngrok"),
    below("ngrok.app", "ngrok.app", "ngrok"),
    below("ngrok.io", "ngrok.io", "ngrok"),
    below("on.aws", "lambda-url.*.on.aws", "AWS Lambda"),
    below("ondigitalocean.app", "ondigitalocean.app", "DigitalOcean App Platform"),
    below("onrender.com", "onrender.com", "Render"),
    below("pages.dev", "pages.dev", "Cloudflare Pages"),
    below("r2.dev", "r2.dev", "Cloudflare R2"),
    below("railway.app", "up.railway.app", "Railway"),
    below("replit.app", "replit.app", "Replit"),
    below("run.app", "run.app", "Google Cloud Run"),
    below("supabase.co", "supabase.co", "Supabase"),
    below("surge.sh", "surge.sh", "Surge"),
    below("trafficmanager.net", "trafficmanager.net", "Azure Traffic Manager"),
    below("trycloudflare.com", "trycloudflare.com", "Cloudflare Tunnel"),
    below("vercel.app", "vercel.app", "Vercel"),
    below("web.app", "web.app", "Firebase Hosting"),
    below("windows.net", "blob.core.windows.net", "Azure Storage"),
    below("windows.net", "web.core.windows.net", "Azure Storage"),
    below("workers.dev", "workers.dev", "Cloudflare Workers"),
];

/// Top-level domains in which nobody can register a name: networks use them for their own (RFC 6762 appendix G; ICANN
/// reserved `internal`), or they are DNS's own.
const PRIVATE: [&str; 9] = ["arpa", "corp", "home", "internal", "intranet", "lan", "local", "localhost", "private"];

/// Labels under which the registries of countries sell names: `co.uk`, `com.au`, `or.jp`.
const REGISTRY: [&str; 6] = ["co", "com", "ne", "net", "or", "org"];

/// The suffix below which anybody can have a name that the pattern matches: of `*.com` and `www.*.com` it is `com`, of
/// `*` and `www.*` it is empty. `None` if there is none such.
pub(super) fn public_suffix(pattern: &str) -> Option<&str> {
    let (_, right) = pattern.rsplit_once('*')?;
    let suffix = right.strip_prefix('.').unwrap_or(right);
    let public = match suffix.split_once('.') {
        None => !PRIVATE.contains(&suffix),
        Some((label, country)) if country.len() == 2 => REGISTRY.contains(&label) || is_host_of_many(suffix),
        Some(_) => is_host_of_many(suffix),
    };
    public.then_some(suffix)
}

/// Whether customers have names right below it.
fn is_host_of_many(suffix: &str) -> bool {
    candidates(suffix).any(|shared| !shared.by_path && labels_beyond(suffix, shared.host) == Some(0))
}

/// The host of many customers that the pattern's names are on, below what [`public_suffix`] says of it.
pub(super) fn shared(pattern: &str) -> Option<Shared> {
    let own = pattern.rsplit_once('*').map_or(pattern, |(_, right)| right.strip_prefix('.').unwrap_or(right));
    candidates(own).find(|shared| match labels_beyond(own, shared.host) {
        Some(0) => shared.by_path,
        Some(_) => !shared.by_path,
        None => false,
    })
}

/// The hosts that have a name's last two labels.
fn candidates(name: &str) -> impl Iterator<Item = Shared> {
    let mut dots = name.rmatch_indices('.');
    let last = match (dots.next(), dots.next()) {
        (Some(_), Some((dot, _))) => name.get(dot + 1..).unwrap_or_default(),
        _ => name,
    };
    let first = SHARED.partition_point(|shared| shared.last < last);
    SHARED.into_iter().skip(first).take_while(move |shared| shared.last == last)
}

/// How many labels a name has to the left of a host's, if it ends with those.
fn labels_beyond(name: &str, host: &str) -> Option<usize> {
    let mut labels = name.rsplit('.');
    let ends = host.rsplit('.').all(|label| labels.next().is_some_and(|own| label == "*" || label == own));
    ends.then(|| labels.count())
}

/// The part of its family's Internet that a range opens; of IPv6, of what is given out, `2000::/3`.
pub(super) fn share(range: &IpNet) -> f64 {
    let part = |bits: u8| 0.5_f64.powi(i32::from(bits));
    match range {
        IpNet::V4(four) => part(four.prefix_len()),
        IpNet::V6(six) if six.contains(&GIVEN_OUT) => 1.0,
        IpNet::V6(six) if GIVEN_OUT.contains(six) => part(six.prefix_len().saturating_sub(GIVEN_OUT.prefix_len())),
        IpNet::V6(_) => 0.0,
    }
}

/// Whether a range opens half of it, or more.
pub(super) fn is_wide(range: &IpNet) -> bool {
    share(range) >= 0.5
}

const GIVEN_OUT: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::domain::DomainPattern;

    /// Its canonical text, which is what it is written as.
    fn pattern(text: &str) -> &str {
        assert_eq!(DomainPattern::parse(text).unwrap().as_str(), text);
        text
    }

    #[test]
    fn the_table_is_in_order_and_its_hosts_end_as_it_says() {
        assert!(SHARED.is_sorted_by_key(|shared| shared.last));
        for Shared { last, host, service, .. } in SHARED {
            assert!(host == last || host.ends_with(&format!(".{last}")), "{host}");
            assert_eq!(last.split('.').count(), 2, "{last}");
            assert!(!service.is_empty());
            assert!(!pattern(&host.replace('*', "x")).contains('*'));
        }
    }

    #[test]
    fn a_name_is_public_where_anybody_can_have_one() {
        for (text, suffix) in [
            ("*", Some("")),
            ("www.*", Some("")),
            ("*.com", Some("com")),
            ("www.*.com", Some("com")),
            ("*.*.com", Some("com")),
            ("*.github.*", Some("")),
            ("*.co.uk", Some("co.uk")),
            ("api.*.com.au", Some("com.au")),
            ("*.github.io", Some("github.io")),
            ("*.s3.amazonaws.com", Some("s3.amazonaws.com")),
            ("*.s3.eu-west-1.amazonaws.com", Some("s3.eu-west-1.amazonaws.com")),
            ("*.internal", None),
            ("*.example.internal", None),
            ("*.local", None),
            ("*.github.com", None),
            ("*.githubusercontent.com", None),
            ("*.amazonaws.com", None),
            ("*.x.co.uk", None),
            ("*.co.example", None),
            ("*.me.github.io", None),
            ("*.d1.cloudfront.net", None),
            ("github.io", None),
            ("x.com", None),
        ] {
            assert_eq!(public_suffix(pattern(text)), suffix, "{text}");
        }
    }

    #[test]
    fn a_host_is_shared_if_the_table_says_so() {
        for (text, service) in [
            ("x.github.io", Some("GitHub Pages")),
            ("*.x.github.io", Some("GitHub Pages")),
            ("d1.cloudfront.net", Some("Amazon CloudFront")),
            ("dualstack.x.global.fastly.net", Some("Fastly")),
            ("b.s3.amazonaws.com", Some("Amazon S3")),
            ("b.s3.eu-west-1.amazonaws.com", Some("Amazon S3")),
            ("s3.amazonaws.com", Some("Amazon S3")),
            ("s3.eu-west-1.amazonaws.com", Some("Amazon S3")),
            ("storage.googleapis.com", Some("Google Cloud Storage")),
            ("x.blob.core.windows.net", Some("Azure Storage")),
            ("github.io", None),
            ("*.github.io", None),
            ("notgithub.io", None),
            ("x.notgithub.io", None),
            ("generativelanguage.googleapis.com", None),
            ("sts.amazonaws.com", None),
            ("ec2.eu-west-1.amazonaws.com", None),
            ("core.windows.net", None),
            ("github.com", None),
            ("localhost", None),
            ("*", None),
        ] {
            assert_eq!(shared(pattern(text)).map(|shared| shared.service), service, "{text}");
        }
        assert!(shared(pattern("s3.amazonaws.com")).unwrap().by_path);
        assert!(!shared(pattern("b.s3.amazonaws.com")).unwrap().by_path);
    }

    #[test]
    fn a_range_opens_a_part_of_the_internet() {
        for (text, part) in [
            ("0.0.0.0/0", 1.0),
            ("128.0.0.0/1", 0.5),
            ("10.0.0.0/8", 1.0 / 256.0),
            ("::/0", 1.0),
            ("2000::/3", 1.0),
            ("2000::/4", 0.5),
            ("2001:db8::/32", 0.5_f64.powi(29)),
            ("fd00::/8", 0.0),
            ("8000::/1", 0.0),
        ] {
            assert_eq!(share(&text.parse().unwrap()).to_bits(), part.to_bits(), "{text}");
        }
    }
}

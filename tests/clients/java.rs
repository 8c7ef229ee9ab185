//! Java's own HTTP client, which trusts a store of its own and not the system's bundle.

use std::process::Command;

use crate::support::skipped;
use crate::support::world::World;
use crate::{received, terminated};

const PROGRAM: &str = "import java.net.URI;
import java.net.http.*;
public class Ask {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var version : new HttpClient.Version[] { HttpClient.Version.HTTP_1_1, HttpClient.Version.HTTP_2 }) {
            var ask = HttpRequest.newBuilder(URI.create(\"https://allowed.rig/java\")).version(version).build();
            var answer = client.send(ask, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + \" \" + answer.version());
        }
    }
}
";

#[test]
fn java_asks_over_both_versions() {
    // A JRE alone has no compiler.
    if !Command::new("javac").arg("-version").output().is_ok_and(|done| done.status.success()) {
        return skipped("Java: no JDK is installed");
    }
    let world = World::best();
    let run = terminated(&world).file("Ask.java", PROGRAM);
    let outcome = run.command(["java", "Ask.java"]).succeeded();
    assert_eq!(outcome.stdout, "200 HTTP_1_1\n200 HTTP_2\n", "{outcome:#?}");
    let received = received(&world);
    assert!(received.len() == 2 && received.iter().all(|(_, header)| header.starts_with("canary-")), "{received:?}");
}

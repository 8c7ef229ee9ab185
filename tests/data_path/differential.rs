//! The same odd bytes as they were judged and as servers that people run have understood them: nginx, node (strict and
//! lenient), Go's and Python's own. Each says which requests it saw; every one of them was judged, and none is missing
//! of what was judged and not refused. The bytes are what HTTP/1 parsers are known to disagree about.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use exeat::audit::Judged;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Rig, exchange, nobody_listens};
use crate::support::{PATIENCE, eventually, skipped};

/// What every server answers at `/settled`: how many connections it has, this one included.
const SETTLED: &str = "GET /settled HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// Writes a line for each request when its head is read.
const NODE: &str = r#"
const fs = require("fs"), log = process.argv[1], lenient = process.argv[2] === "lenient";
let open = 0;
const server = require("http").createServer({ insecureHTTPParser: lenient }, (request, response) => {
  if (request.url === "/settled") return response.end(String(open));
  fs.appendFileSync(log, request.method + " " + request.url + "\n");
  request.resume().on("end", () => response.end("ok")).on("error", () => {});
});
server.on("connection", socket => { open++; socket.on("close", () => open--); });
server.on("checkContinue", (request, response) => {
  response.writeContinue();
  server.emit("request", request, response);
});
server.listen(Number(process.argv[3]), "127.0.0.1");
"#;

const PYTHON: &str = r#"
import http.server, sys
log = open(sys.argv[1], "a", buffering=1)
connections = set()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def setup(self):
        connections.add(self)
        super().setup()
    def finish(self):
        super().finish()
        connections.discard(self)
    def answer(self):
        text = b"ok"
        if self.path == "/settled":
            text = str(len(connections)).encode()
        else:
            # Its own path has fewer slashes at the start.
            print(self.command, self.requestline.split()[1], file=log)
            self.body()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        while (size := int(self.rfile.readline().split(b";")[0], 16)) > 0:
            self.rfile.read(size + 2)
        while self.rfile.readline() not in (b"\r\n", b"\n", b""):
            pass
    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"#;

const GO: &str = r#"package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	log, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	var open atomic.Int64
	answer := func(answer http.ResponseWriter, request *http.Request) {
		if request.RequestURI == "/settled" {
			fmt.Fprint(answer, open.Load())
			return
		}
		fmt.Fprintln(log, request.Method, request.RequestURI)
		io.Copy(io.Discard, request.Body)
		io.WriteString(answer, "ok")
	}
	count := func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
	server := http.Server{Addr: "127.0.0.1:" + os.Args[2], Handler: http.HandlerFunc(answer), ConnState: count}
	panic(server.ListenAndServe())
}
"#;

/// A server that writes down what it sees.
struct Server {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    /// `None` where it is not installed.
    async fn start(name: &'static str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let address = nobody_listens().await;
        let (log, port) = (folder.path().join("log"), address.port().to_string());
        std::fs::write(&log, "").expect("a file");
        let mut command = match name {
            "nginx" => nginx(folder.path(), address),
            "python" => {
                let mut python = Command::new("python3");
                python.args(["-c", PYTHON]).arg(&log).arg(port);
                python
            }
            "go" => {
                let mut go = Command::new(go(folder.path())?);
                go.arg(&log).arg(port);
                go
            }
            manner => {
                let mut node = Command::new("node");
                node.args(["-e", NODE]).arg(&log).args([manner, &port]);
                node
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        assert!(eventually(|| std::net::TcpStream::connect(address).is_ok()), "{name} starts");
        Some(Self { name, child, address, folder })
    }

    /// What it has seen since it was asked last, once it has nothing to do any more.
    async fn seen(&self) -> Vec<String> {
        loop {
            let mut io = TcpStream::connect(self.address).await.expect("it listens");
            let answer = exchange(&mut io, SETTLED).await;
            let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
            let digits = body.split(|letter: char| !letter.is_ascii_digit()).find(|text| !text.is_empty());
            if digits == Some("1") {
                break;
            }
            tokio::task::yield_now().await;
        }
        let log = self.folder.path().join("log");
        let text = std::fs::read_to_string(&log).expect("its log");
        // It appends, so the next line comes where the file ends.
        std::fs::File::options().write(true).truncate(true).open(log).expect("its log");
        // What nginx could not read as a request has no method there; others pass that over.
        let requests = text.lines().filter(|line| *line != "- -");
        requests.map(|line| line.split('?').next().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx, wholly within a folder. It writes a line when a request has ended; where a connection ends within a body that
/// it does not want, it notices when it no longer keeps it alive.
fn nginx(folder: &Path, address: SocketAddr) -> Command {
    let at = |name: &str| folder.join(name).display().to_string();
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {};", at(kind)));
    let settings = format!(
        "daemon off; worker_processes 1; pid {}; error_log {};\nevents {{ }}\nhttp {{ {} keepalive_timeout 1s;\n\
         log_format seen '$request_method $request_uri'; access_log {} seen;\n\
         server {{ listen {address};\n location = /settled {{ stub_status; access_log off; }}\n\
         location / {{ return 200 ok; }} }} }}",
        at("pid"),
        at("errors"),
        temporary.concat(),
        at("log")
    );
    std::fs::write(folder.join("nginx.conf"), settings).expect("a file");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut nginx = Command::new("nginx");
    nginx.env("PATH", format!("{path}:/usr/sbin")).args(["-e", &at("errors"), "-c", &at("nginx.conf")]);
    nginx
}

/// Go's, built within a folder; `None` where there is no Go.
fn go(folder: &Path) -> Option<PathBuf> {
    let (source, server) = (folder.join("server.go"), folder.join("server"));
    std::fs::write(&source, GO).expect("a file");
    let mut build = Command::new("go");
    build.current_dir(folder).env("GOCACHE", folder.join("cache")).env("GO111MODULE", "off");
    let built = build.arg("build").arg("-o").arg(&server).arg(&source).output().ok()?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(server)
}

/// Stands behind each of the corpus, so that a connection that goes on ends.
const LAST: &str = "GET /last §Connection: close\n\n";

/// The corpus: `\n` stands for CR LF, `¬` for a bare LF, `␍` for a bare CR, `§` for the version and the right host,
/// `»` for a whole request.
const ODD: &[&str] = &[
    // Nothing odd.
    "GET /1 §\n",
    "HEAD /2 §Accept: */*\n\n",
    "POST /3 §Content-Length: 5\n\nhello",
    "POST /4 §Transfer-Encoding: chunked\n\n5\nhello\n0\n\n",
    "GET /5 §\nGET /6 §\nGET /7 §\n",
    "GET http://a.test/8 §\n",
    "GET /9 HTTP/1.0\nHost: a.test\n\n",
    "\n\nGET /10 §\n\nGET /11 §\n",
    "POST /12 §Expect: 100-continue\nContent-Length: 2\n\nok",
    "POST /13 §Transfer-Encoding: chunked\nTrailer: X-T\n\n2;a=b;c=\"d\"\nok\n0;z\nX-T: v\n\n",
    "GET /14 §Content-Length: 4\n\nGET ",
    // Two lengths.
    "POST /20 §Content-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n»",
    "POST /21 §Transfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n»",
    "POST /22 §Content-Length: 0\nContent-Length: 36\n\n»",
    "POST /23 §Content-Length: 5\nContent-Length: 5\n\nhello",
    "POST /24 §Content-Length: 5, 5\n\nhello",
    "POST /25 §Content-Length: +5\n\nhello",
    "POST /26 §Content-Length: -1\n\nhello",
    "POST /27 §Content-Length: 0x5\n\nhello",
    "POST /28 §Content-Length: 005\n\nhello",
    "POST /29 §Content-Length: 5 \n\nhello",
    "POST /30 §Content-Length: 18446744073709551621\n\nhello",
    "POST /31 §Content-Length:\n\n»",
    "POST /32 §Content_Length: 36\n\n»",
    "POST /33 §Content-Length : 36\n\n»",
    "POST /34 §Connection: content-length\nContent-Length: 36\n\n»",
    // A coding that is not quite one.
    "POST /40 §Transfer-Encoding: xchunked\n\n0\n\n»",
    "POST /41 §Transfer-Encoding: chunked, identity\n\n0\n\n»",
    "POST /42 §Transfer-Encoding: identity, chunked\n\n0\n\n»",
    "POST /43 §Transfer-Encoding: chunked\nTransfer-Encoding: x\n\n0\n\n»",
    "POST /44 §Transfer-Encoding : chunked\n\n0\n\n»",
    "POST /45 §Transfer-Encoding: \tchunked\n\n0\n\n",
    "POST /46 §Transfer-Encoding: \"chunked\"\n\n0\n\n»",
    "POST /47 §X: y\n Transfer-Encoding: chunked\n\n0\n\n»",
    "POST /48 §Transfer-Encoding:\u{b}chunked\n\n0\n\n»",
    "POST /49 §Transfer-Encoding: Chunked\n\n0\n\n",
    "POST /50 HTTP/1.0\nHost: a.test\nTransfer-Encoding: chunked\n\n0\n\n»",
    "POST /51 §Connection: transfer-encoding\nTransfer-Encoding: chunked\n\n0\n\nGET /52 §\n",
    // Chunks.
    "POST /60 §Transfer-Encoding: chunked\n\n+2\nok\n0\n\n",
    "POST /61 §Transfer-Encoding: chunked\n\n0x2\nok\n0\n\n",
    "POST /62 §Transfer-Encoding: chunked\n\n2 \nok\n0\n\n",
    "POST /63 §Transfer-Encoding: chunked\n\n 2\nok\n0\n\n",
    "POST /64 §Transfer-Encoding: chunked\n\n2_0\nok\n0\n\n",
    "POST /65 §Transfer-Encoding: chunked\n\n10000000000000002\nok\n0\n\n",
    "POST /66 §Transfer-Encoding: chunked\n\n2¬ok\n0\n\n»",
    "POST /67 §Transfer-Encoding: chunked\n\n2;¬xx\n48\n0\n\n»",
    "POST /68 §Transfer-Encoding: chunked\n\n2\nokXX0\n\n»",
    "POST /69 §Transfer-Encoding: chunked\n\n2\nok0\n\n»",
    "POST /70 §Transfer-Encoding: chunked\n\n0\nContent-Length: 36\n\nGET /71 §\n",
    "POST /72 §Transfer-Encoding: chunked\n\n0\nX: y¬\n»",
    "POST /73 §Transfer-Encoding: chunked\n\n000000000000000000000002\nok\n0\n\n",
    "POST /74 §Transfer-Encoding: chunked\n\n\n2\nok\n0\n\n",
    "POST /75 §Transfer-Encoding: chunked\n\n-1\nok\n0\n\n",
    "POST /76 §Transfer-Encoding: chunked\n\n2\nok\n",
    // Lines.
    "GET /80 HTTP/1.1¬Host: a.test¬¬",
    "GET /81 HTTP/1.1\nHost: a.test¬\nX: y\n\n",
    "GET /82 §X: y␍Z: w\n\n",
    "GET /83 §X: y\n\tfolded\n\n",
    "GET /84 HTTP/1.1\n Host: a.test\n\n",
    "GET /85 §no colon\n\n",
    "GET /86 §: no name\n\n",
    "GET /87 §na me: value\n\n",
    "GET /88 §X: a\u{0}b\n\n",
    "GET /89 §X: caf\u{e9}\n\n",
    "GET /90 HTTP/1.1␍␍Host: a.test\n\n",
    // The first line.
    "GET  /100 §\n",
    "GET\t/101\tHTTP/1.1\nHost: a.test\n\n",
    "GET /102\n\n",
    "GET /103 HTTP/1.2\nHost: a.test\n\n",
    "GET /104 HTTP/2.0\nHost: a.test\n\n",
    "GET /105 HTTP/1.1 §\n",
    "get /106 §\n",
    "GET /107#evil §\n",
    "GET /108?a=b%20c#d §\n",
    "GET 109 §\n",
    "GET //110//..//b §\n",
    "GET /111/%2e%2e/x §\n",
    "GET /112\u{7f} §\n",
    "OPTIONS * §\n",
    "GET http://evil.test/113 §\n",
    "GET http://a.test@evil.test/114 §\n",
    "CONNECT a.test:80 HTTP/1.1\nHost: a.test:80\n\n»",
    "PRI * HTTP/2.0\n\nSM\n\n",
    "\u{feff}GET /115 §\n",
    "PO$T /116 §\n",
    // Whose request it is.
    "GET /120 HTTP/1.1\n\n",
    "GET /121 §Host: evil.test\n\n",
    "GET /122 HTTP/1.1\nHost: a.test, evil.test\n\n",
    "GET /123 HTTP/1.1\nHost: a.test evil.test\n\n",
    "GET /124 HTTP/1.1\nHost : a.test\n\n",
    "GET /125 HTTP/1.1\nHost: evil@a.test\n\n",
    "GET /126 HTTP/1.1\nHost: a.test/evil\n\n",
    "GET /127 HTTP/1.0\n\n",
    "GET /128 HTTP/1.1\nConnection: host\nHost: a.test\n\n",
    // What a connection becomes.
    "GET /130 §Connection: close\n\n»",
    "GET /131 HTTP/1.0\nHost: a.test\n\n»",
    "GET /132 §Connection: Upgrade\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk\n\nGET /133 §\n",
    "GET /134 §Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
    "POST /135 §Expect: 200-ok\nContent-Length: 2\n\nok",
    "GET /136 §Transfer-Encoding: chunked\n\n24\n»\n0\n\n",
    "GET /137 §TE: trailers, chunked\nConnection: te, keep-alive, x-evil\nX-Evil: 1\nKeep-Alive: 5\n\n",
];

fn bytes(text: &str) -> Vec<u8> {
    let text = text.replace('»', "GET /next §\n").replace('§', "HTTP/1.1\nHost: a.test\n");
    let latin = |letter: char| match letter {
        '\n' => b"\r\n".to_vec(),
        '¬' => b"\n".to_vec(),
        '␍' => b"\r".to_vec(),
        '\u{feff}' => vec![0xef, 0xbb, 0xbf],
        letter => vec![u8::try_from(letter).expect("one byte")],
    };
    text.chars().flat_map(latin).collect()
}

/// Everything that was judged to go out, and whether something was refused besides.
async fn judged(server: &Server, odd: &str) -> (Vec<String>, bool, String) {
    let rig = Rig::new("allow: { a.test: [] }").await;
    rig.resolve("a.test", server.address);
    let mut io = rig.connect("203.0.113.9:80").await;
    let odd = format!("{odd}{LAST}");
    // Where it is refused at once, not all of it is taken.
    let _ = io.write_all(&bytes(&odd)).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer));
    // What is refused may end in a reset.
    let _ = read.await.unwrap_or_else(|_| panic!("{} never ends: {odd:?}", server.name));
    rig.stop().await;
    let line = |judged: Judged| judged.request.map(|request| format!("{} {}", request.method, request.path));
    let allowed = rig.requests().into_iter().filter(|judged| judged.outcome.is_ok());
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let refused = !rig.denied().is_empty() || answer.contains("HTTP/1.1 4") || answer.contains("HTTP/1.1 5");
    (allowed.filter_map(line).collect(), refused, answer)
}

#[tokio::test]
async fn e_servers_see_the_requests_that_were_judged_and_no_others() {
    for name in ["nginx", "strict", "lenient", "go", "python"] {
        let Some(server) = Server::start(name).await else {
            skipped("a differential check: nginx, node, go or python3 is not installed");
            continue;
        };
        let mut agreed = 0;
        for odd in ODD {
            let (mut judged, refused, answer) = judged(&server, odd).await;
            // Go's answers that by itself, and tells nobody.
            judged.retain(|line| name != "go" || line != "OPTIONS *");
            let mut seen = server.seen().await;
            let told = format!("{name} {odd:?}\njudged {judged:?}\nsaw    {seen:?}\n{answer}");
            if refused {
                // Each that was seen was judged; what was refused on its way may not have arrived.
                for line in seen {
                    let at = judged.iter().position(|judged| *judged == line).unwrap_or_else(|| panic!("{told}"));
                    judged.remove(at);
                }
            } else {
                judged.sort();
                seen.sort();
                assert_eq!(judged, seen, "{told}");
                agreed += usize::from(!seen.is_empty());
            }
        }
        assert!(agreed >= 10, "{name}: most is refused, and the plain ones are not: {agreed}");
    }
}

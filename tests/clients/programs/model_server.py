# What two models' APIs look like to their makers' SDKs; nothing of it is theirs. Arguments: certificate, key, address,
# a file for what arrives, which is there when it serves. In a file beside it are the keys that are good, a line each:
# who sends another is refused. What it says holds the key that came, and is "enough" where only one is good.
import json, ssl, sys, threading, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

certificate, key, address, log = sys.argv[1:]
listed = threading.Event()

def note(what):
    with open(log, "a") as out:
        out.write(what + "\n")

def message(text, stop):
    content = [{"type": "text", "text": text}] if text else []
    usage = {"input_tokens": 1, "output_tokens": 1}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "rig", "content": content,
            "stop_reason": stop, "stop_sequence": None, "usage": usage}

def events(pieces):
    yield "message_start", {"message": message("", None)}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    for piece in pieces:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 2}}
    yield "message_stop", {}

def completion(kind, said, stop):
    choice = {"index": 0, "finish_reason": stop} | said
    return {"id": "c_1", "object": kind, "created": 1, "model": "rig", "choices": [choice]}

def chunks(pieces):
    for piece in pieces:
        yield json.dumps(completion("chat.completion.chunk", {"delta": {"content": piece}}, None))
    yield json.dumps(completion("chat.completion.chunk", {"delta": {}}, "stop"))
    yield "[DONE]"

MODELS = {
    "api.anthropic.com": {"data": [{"type": "model", "id": "rig", "display_name": "Rig",
                                    "created_at": "2026-01-01T00:00:00Z"}], "has_more": False},
    "api.openai.com": {"object": "list", "data": [{"id": "rig", "object": "model", "created": 1, "owned_by": "rig"}]},
}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    # Compressed, each event flushed: what was said is there before more is.
    def stream(self, events):
        is_coded = "gzip" in self.headers.get("accept-encoding", "")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        if is_coded:
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        coder = zlib.compressobj(wbits=31)
        def send(data):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        for event in events:
            data = event.encode()
            send(coder.compress(data) + coder.flush(zlib.Z_SYNC_FLUSH) if is_coded else data)
        if is_coded:
            send(coder.flush())
        self.wfile.write(b"0\r\n\r\n")

    def sent(self):
        """The key that came, if it is good; else the answer is given."""
        sent = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        with open(log + ".keys") as file:
            good = file.read().split()
        note(f"{self.headers['host']} {self.path} {sent} {'good' if sent in good else 'refused'}")
        if sent not in good:
            self.answer(401, {"error": {"type": "authentication_error", "message": f"this key is not good: {sent}"}})
            return None, None
        return sent, "enough" if len(good) == 1 else f"with {sent}"

    def do_GET(self):
        if self.sent()[0]:
            listed.set()
            self.answer(200, MODELS[self.headers["host"]])

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        sent, text = self.sent()
        if not sent:
            return
        def pieces():
            listed.clear()
            yield text
            # Who reads the beginning asks for the models then; were that held back, nobody would.
            yield ", listed" if listed.wait(20) else ", held back"
        is_anthropic = self.headers["host"] == "api.anthropic.com"
        if not asked.get("stream"):
            said = {"message": {"role": "assistant", "content": text}}
            self.answer(200, message(text, "end_turn") if is_anthropic else completion("chat.completion", said, "stop"))
        elif is_anthropic:
            named = ((name, json.dumps({"type": name} | data)) for name, data in events(pieces()))
            self.stream(f"event: {name}\ndata: {data}\n\n" for name, data in named)
        else:
            self.stream(f"data: {data}\n\n" for data in chunks(pieces()))

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = ThreadingHTTPServer((address, 443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
note("serves")
server.serve_forever()

# An origin that says when a body may come, and gives hints. Arguments: certificate, key, address, a file that it makes
# when it is ready.
import socket, ssl, sys, threading

certificate, key, address, ready = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.set_alpn_protocols(["http/1.1"])

def answer(out, status, body, more=""):
    out.write(f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    out.flush()

def serve(connection):
    with context.wrap_socket(connection, server_side=True) as tls, tls.makefile("rwb") as io:
        while first := io.readline():
            path, fields = first.split()[1].decode(), {}
            while (line := io.readline().strip()):
                name, value = line.decode().split(":", 1)
                fields[name.lower()] = value.strip()
            waits = fields.get("expect") == "100-continue"
            if path == "/refuse" and waits:
                # Not a byte of the body may come.
                answer(io, "417 Expectation Failed", "")
                rest = io.read()
                open(ready + ".refused", "w").write(str(len(rest)))
                return
            if path == "/hints":
                io.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
                io.flush()
            if waits:
                io.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                io.flush()
            body = io.read(int(fields.get("content-length", 0)))
            answer(io, "200 OK", f"{len(body)} bytes, {'waited' if waits else 'at once'}\n")

def accept(connection):
    try:
        serve(connection)
    except OSError:
        pass

listener = socket.create_server((address, 443))
open(ready, "w").close()
while True:
    threading.Thread(target=accept, args=(listener.accept()[0],), daemon=True).start()

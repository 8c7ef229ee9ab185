# A WebSocket service. Arguments: certificate, key, address, a file for what it hears, which is there when it serves.
import ssl, sys

from websockets.sync.server import serve

certificate, key, address, log = sys.argv[1:]

def note(what):
    with open(log, "a") as out:
        out.write(what + "\n")

def echo(connection):
    note("credential " + connection.request.headers.get("x-rig", "none"))
    for message in connection:
        if message == "bye":
            connection.close(4001, "as you say")
            note(f"closed {connection.close_code}")
            return
        else:
            connection.send(message)

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
with serve(echo, address, 443, ssl=context, subprotocols=["rig"]) as server:
    note("serves")
    server.serve_forever()

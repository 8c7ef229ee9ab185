# Speaks with the service, and tells what came of it.
import os

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

with connect("wss://socket.rig/chat", subprotocols=["other", "rig"]) as socket:
    print("subprotocol", socket.subprotocol)
    socket.send("text")
    print("text", socket.recv())
    large = os.urandom(1_000_000)
    socket.send(large)
    print("large", socket.recv() == large)
    print("pong", socket.ping().wait(20))
    socket.send("bye")
    try:
        socket.recv()
    except ConnectionClosed as closed:
        print("closed", closed.rcvd.code, closed.rcvd.reason)
try:
    connect("wss://socket.rig/denied")
except InvalidStatus as refused:
    print("denied", refused.response.status_code)

# Calls every kind of method, and tells what came of it.
import os, queue, sys

import grpc

roots = open(os.environ["SSL_CERT_FILE"], "rb").read()
channel = grpc.secure_channel("grpc.rig:443", grpc.ssl_channel_credentials(roots))
name = "/rig.Rig/{}".format

answer, call = channel.unary_unary(name("Unary")).with_call(b"hello", timeout=20, metadata=(("x-rig", "mine"),))
print("unary", answer.decode(), call.code().name, dict(call.trailing_metadata())["x-trailer"])

large = os.urandom(3_000_000)
print("large", channel.unary_unary(name("Unary"))(large, timeout=20) == b"echo " + large)

print("streaming", b" ".join(channel.unary_stream(name("Count"))(b"5", timeout=20)).decode())

said = queue.Queue()
call = channel.stream_stream(name("Talk"))(iter(said.get, None), timeout=20)
heard = []
for word in (b"one", b"two", b"three"):
    # Each is answered before the next is said.
    said.put(word)
    heard.append(next(call).decode())
said.put(None)
print("both ways", *heard, list(call), call.code().name)

try:
    channel.unary_unary(name("Fail"))(b"", timeout=20)
except grpc.RpcError as error:
    print("failing", error.code().name, error.details())

call = channel.unary_stream(name("Hang"))(b"cancelled", timeout=20)
print("hanging", next(call).decode())
call.cancel()
print("hanging", call.code().name)

try:
    channel.unary_unary(name("Slow"))(b"", timeout=1)
except grpc.RpcError as error:
    print("slow", error.code().name)

try:
    channel.unary_unary("/rig.Other/Unary")(b"", timeout=20)
except grpc.RpcError as error:
    print("refused", error.code().name)
sys.stdout.flush()
channel.close()

# A gRPC service. Arguments: certificate, key, address, a file for what becomes of calls, which is there when it serves.
import sys, threading
from concurrent import futures

import grpc

certificate, key, address, log = sys.argv[1:]

def note(what):
    with open(log, "a") as out:
        out.write(what + "\n")

def credential(context):
    return dict(context.invocation_metadata()).get("x-rig", "").encode()

def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "at the end"),))
    note("credential " + credential(context).decode())
    return b"echo " + request

def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()

def talk(requests, context):
    for request in requests:
        yield request.upper()

def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "nobody is here: \u00e9")

def hang(request, context):
    # A call that is cancelled at once is never resumed here: what is told of its end is told by its callback.
    over, late = threading.Event(), threading.Event()
    def end():
        note(f"{request.decode()} hangs" if late.is_set() else f"{request.decode()} ended")
        over.set()
    context.add_callback(end)
    yield b"begun"
    if not over.wait(20):
        late.set()

def slow(request, context):
    over = threading.Event()
    context.add_callback(over.set)
    note(f"deadline {0 < context.time_remaining() < 3}")
    note("slow ended" if over.wait(20) else "slow hangs")
    return b"late"

handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Hang": grpc.unary_stream_rpc_method_handler(hang),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}
server = grpc.server(futures.ThreadPoolExecutor(20))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rig.Rig", handlers),))
pair = (open(key, "rb").read(), open(certificate, "rb").read())
server.add_secure_port(f"{address}:443", grpc.ssl_server_credentials((pair,)))
server.start()
note("serves")
server.wait_for_termination()

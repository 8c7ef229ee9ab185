# An S3 that verifies signatures (moto, whose verifier is AWS's own signer). Arguments: certificate, key, address, a
# file for what arrives, which is there when it serves. In a file beside it are two users' keys, as
# `credential_process` prints them, a line each. Its STS has a role, `rig`.
import json, os, ssl, sys
from urllib.parse import parse_qs

os.environ.update(INITIAL_NO_AUTH_ACTION_COUNT="0", S3_IGNORE_SUBDOMAIN_BUCKETNAME="1")
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

certificate, key, address, log = sys.argv[1:]

iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
keys = {}
for user in ("first", "second"):
    iam.create_user("us-east-1", user)
    iam.put_user_policy(user, "everything", json.dumps(everything))
    made = iam.create_access_key(user)
    keys[made.access_key_id] = made.secret_access_key
trusts = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
trust = {"Version": "2012-10-17", "Statement": [trusts]}
iam.create_role("rig", json.dumps(trust), "/", None, "", [], None)
iam.put_role_policy("rig", "everything", json.dumps(everything))
get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"].create_bucket("bucket", "us-east-1")

moto = DomainDispatcherApplication(create_backend_app)

def note(what):
    with open(log, "a") as out:
        out.write(what + "\n")

def presigned(environ):
    """moto does not verify URLs; AWS's own signer does it here. Whether it is right."""
    query = environ["QUERY_STRING"]
    named = {name: values[0] for name, values in parse_qs(query).items()}
    id, date, region, service, _ = named["X-Amz-Credential"].split("/")
    if id not in keys:
        return False
    rest = "&".join(pair for pair in query.split("&") if not pair.startswith("X-Amz-Signature="))
    url = f"https://{environ['HTTP_HOST']}{environ['RAW_URI'].split('?')[0]}?{rest}"
    request = AWSRequest(environ["REQUEST_METHOD"], url, headers={"host": environ["HTTP_HOST"]})
    request.context["timestamp"] = named["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(id, keys[id]), service, region)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return auth.signature(text, request) == named["X-Amz-Signature"]

def application(environ, start_response):
    query, header = environ["QUERY_STRING"], environ.get("HTTP_AUTHORIZATION", "")
    payload = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "-")
    payload = "hash" if len(payload) == 64 else payload
    who = next((id for id in keys if id in header or id in query), "nobody")
    def answered(status, headers, *more):
        note(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {who} {payload} {status[:3]}")
        return start_response(status, headers, *more)
    if "X-Amz-Signature=" in query:
        payload = "presigned"
        is_right = presigned(environ)
        answered("200 OK" if is_right else "403 Forbidden", [("content-length", "8")])
        return [b"verified" if is_right else b"mistaken"]
    return moto(environ, answered)

class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    def log(self, *arguments):
        pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
options = {"threaded": True, "request_handler": Handler, "ssl_context": context}
server = make_server(address, 443, application, **options)
with open(log + ".keys", "w") as out:
    for id, secret in keys.items():
        out.write(json.dumps({"Version": 1, "AccessKeyId": id, "SecretAccessKey": secret}) + "\n")
note("serves")
server.serve_forever()

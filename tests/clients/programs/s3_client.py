# What AWS's clients do, with keys that they were given by the environment alone.
import io, os, ssl, subprocess, sys, tempfile, urllib.request

os.environ.update(AWS_DEFAULT_REGION="us-east-1", AWS_CA_BUNDLE=os.environ["SSL_CERT_FILE"])
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

URL = "https://s3.rig"

def client(**settings):
    config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, signature_version="s3v4", **settings)
    return boto3.client("s3", endpoint_url=URL, config=config)

s3 = client()
key = "a b/\u00fc+=(1)~.txt"
s3.put_object(Bucket="bucket", Key=key, Body=b"small", Metadata={"note": "x  y"})
print("part", s3.get_object(Bucket="bucket", Key=key, Range="bytes=1-3")["Body"].read())
hashed = client(request_checksum_calculation="when_required")
hashed.put_object(Bucket="bucket", Key="hashed", Body=b"hashed")
print("list", [found["Key"] for found in s3.list_objects_v2(Bucket="bucket", Prefix="a b/", MaxKeys=2)["Contents"]])

large = os.urandom(20_000_000)
parts = TransferConfig(multipart_threshold=6_000_000, multipart_chunksize=6_000_000)
s3.upload_fileobj(io.BytesIO(large), "bucket", "large", Config=parts)
again = io.BytesIO()
s3.download_fileobj("bucket", "large", again, Config=parts)
print("large", again.getvalue() == large)

context = ssl.create_default_context()
url = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key}, ExpiresIn=60)
print("url", urllib.request.urlopen(url, context=context).read().decode())
url = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "url"}, ExpiresIn=60)
request = urllib.request.Request(url, data=b"by url", method="PUT", headers={"content-type": ""})
print("url", urllib.request.urlopen(request, context=context).read().decode())

def aws(*arguments):
    command = [sys.executable, "-m", "awscli", "--endpoint-url", URL, "--output", "text", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or done.stderr.strip()

with tempfile.TemporaryDirectory() as folder:
    for name, size in ("one", 10), ("two", 9_000_000):
        with open(f"{folder}/{name}", "wb") as out:
            out.write(large[:size])
    aws("s3", "cp", "--quiet", "--recursive", folder, "s3://bucket/from")
    aws("s3", "cp", "--quiet", "s3://bucket/from/two", f"{folder}/back")
    print("cp", open(f"{folder}/back", "rb").read() == large[:9_000_000])
print("ls", [line.split()[2:] for line in aws("s3", "ls", "s3://bucket/from/").splitlines()])
# Its body is hashed, and its hash is told nowhere.
print("sts", aws("sts", "get-caller-identity", "--query", "Arn"))
s3.delete_object(Bucket="bucket", Key=key)

held = os.environ["AWS_ACCESS_KEY_ID"]
for what, id in ("wrong", held), ("other", "AKIDOTHER"):
    mistaken = boto3.client("s3", endpoint_url=URL, aws_access_key_id=id, aws_secret_access_key="wrong")
    try:
        mistaken.list_objects_v2(Bucket="bucket")
    except Exception as error:
        print(what, error.response["ResponseMetadata"]["HTTPHeaders"].get("exeat-denied"))

# Writes objects for a while, with keys that were given by the environment once; any failure ends it.
import os, time

os.environ.update(AWS_DEFAULT_REGION="us-east-1", AWS_CA_BUNDLE=os.environ["SSL_CERT_FILE"])
import boto3
from botocore.config import Config

config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0})
s3 = boto3.client("s3", endpoint_url="https://s3.rig", config=config)
end = time.monotonic() + 5
count = 0
while time.monotonic() < end:
    s3.put_object(Bucket="bucket", Key="rotated", Body=b"%d" % count)
    count += 1
    time.sleep(0.05)
print("all", count > 10)

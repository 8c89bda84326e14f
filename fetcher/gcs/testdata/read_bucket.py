"""Read a bucket with Google's client: ENDPOINT BUCKET [PROJECT-THAT-PAYS]. Prints the
sha256 of every object by its name, or the error. What it reads, this driver reads."""

import hashlib
import json
import sys

from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

endpoint, name, *payer = sys.argv[1:]
client = storage.Client(project="stoker-test", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint})
try:
    bucket = client.bucket(name, user_project=payer[0] if payer else None)
    objects = {blob.name: hashlib.sha256(blob.download_as_bytes(retry=None)).hexdigest() for blob in client.list_blobs(bucket, retry=None)}
    print(json.dumps({"objects": objects}))
except GoogleAPICallError as error:
    print(json.dumps({"error": str(error)}))

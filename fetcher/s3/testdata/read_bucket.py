"""Read buckets with boto3: for each case of the JSON in argv[1] the sha256 of every
object by its key, or the error. What boto3 reads, this driver reads."""

import hashlib
import json
import sys

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def read(case):
    client = boto3.client(
        "s3",
        endpoint_url=case["endpoint"],
        region_name=case["region"],
        aws_access_key_id=case["accessKey"],
        aws_secret_access_key=case["secretKey"],
        config=Config(
            signature_version=UNSIGNED if case["unsigned"] else "s3v4",
            s3={"addressing_style": case["addressing"]},
            proxies={"http": case["proxy"]},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"total_max_attempts": 1},
        ),
    )
    payer = {"RequestPayer": "requester"} if case["requesterPays"] else {}
    lister = client.get_paginator("list_objects" if case["v1"] else "list_objects_v2")
    out = {}
    for page in lister.paginate(Bucket="bucket", **payer):
        for item in page.get("Contents", []):
            body = client.get_object(Bucket="bucket", Key=item["Key"], **payer)["Body"]
            out[item["Key"]] = hashlib.sha256(body.read()).hexdigest()
    return out


results = []
for case in json.loads(sys.argv[1]):
    try:
        results.append({"objects": read(case)})
    except (BotoCoreError, ClientError) as error:
        results.append({"error": str(error)})
print(json.dumps(results))

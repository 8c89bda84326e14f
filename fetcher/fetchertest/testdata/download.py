"""Downloads what argv says with the Hub's own client, and prints a JSON object.

argv[1] is a JSON object: keyword arguments of snapshot_download. A failure is
printed as the name of its class.
"""

import json
import sys

import huggingface_hub

try:
    print(json.dumps({"path": huggingface_hub.snapshot_download(**json.loads(sys.argv[1]))}))
except Exception as e:
    print(json.dumps({"error": type(e).__name__, "text": str(e)}))

"""Reads every tensor of a model with safetensors' own reader, offline.

argv: a repository id or a directory. Prints a JSON object: the sha256 of each
tensor's bytes.
"""

import hashlib
import json
import os
import pathlib
import sys

import huggingface_hub
import numpy
import safetensors

model = sys.argv[1]
folder = model if os.path.isdir(model) else huggingface_hub.snapshot_download(model)
sums = {}
for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
    # As JAX's arrays: numpy has no bfloat16.
    with safetensors.safe_open(path, framework="flax") as f:
        for name in f.keys():
            sums[name] = hashlib.sha256(numpy.asarray(f.get_tensor(name)).tobytes()).hexdigest()
print(json.dumps(sums))

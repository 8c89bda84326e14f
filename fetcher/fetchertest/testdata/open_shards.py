"""Opens every *.safetensors of a directory with safetensors' own reader and
prints the tensors' shapes and the number of data bytes as JSON."""

import json
import pathlib
import sys

import safetensors

shapes, size = {}, 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with safetensors.safe_open(path, framework="np") as f:
        for name in f.keys():
            shapes[name] = f.get_slice(name).get_shape()
    for _, tensor in safetensors.deserialize(path.read_bytes()):
        size += len(tensor["data"])
print(json.dumps({"shapes": shapes, "bytes": size}))

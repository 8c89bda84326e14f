"""Looks a model up with transformers, offline, as it does before it loads one.

argv: a repository id or a directory, with a sharded model. Prints a JSON object:
what the configuration and the tokenizer are, and which files the weights are in.
"""

import json
import os
import sys

import transformers
from transformers.utils import hub

model = sys.argv[1]
config = transformers.AutoConfig.from_pretrained(model)
tokenizer = transformers.AutoTokenizer.from_pretrained(model)
tokens = tokenizer("keep nodes warm").input_ids
shards, metadata = hub.get_checkpoint_shard_files(model, hub.cached_file(model, "model.safetensors.index.json"))
try:
    hub.cached_file(model, "no-such-file.json")
    missing = "found"
except OSError:
    missing = "OSError"
print(json.dumps({
    "config": type(config).__name__,
    "layers": config.num_hidden_layers,
    "tokens": tokens,
    "text": tokenizer.decode(tokens),
    "chat": tokenizer.apply_chat_template([{"role": "user", "content": "warm?"}], tokenize=False),
    "shards": shards,
    "sizes": [os.path.getsize(s) for s in shards],
    "tensors": len(metadata["all_checkpoint_keys"]),
    "missing": missing,
}))

"""Loads models with transformers and lets them generate, offline.

argv: models, each a repository id or a directory. Prints a JSON object: for each
the tokens of a text with what the model adds.
"""

import json
import sys

import jax.numpy
import transformers

transformers.logging.set_verbosity_error()


def tokens(model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.FlaxAutoModelForCausalLM.from_pretrained(model, dtype=jax.numpy.float32)
    text = tokenizer("keep nodes warm", return_tensors="np")
    made = loaded.generate(text.input_ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    return made.sequences[0].tolist()


print(json.dumps({model: tokens(model) for model in sys.argv[1:]}))

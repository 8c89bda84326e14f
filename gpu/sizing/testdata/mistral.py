"""Runs vLLM's own reading of params.json.

Usage: mistral.py SOURCE, with SOURCE the folder that holds the package vllm. Standard
input is a JSON list of {"params", "defaults"}, the latter what a config.json beside it
holds; standard output is a list of what vLLM makes of each, in the words of config.json.
"""

import json
import pathlib
import sys
import types


class Config(dict):
    """Stands for transformers' class, which keeps what it is given."""

    from_dict = classmethod(lambda cls, fields: cls(fields))


def main():
    logger = types.ModuleType("vllm.logger")
    logger.init_logger = lambda name: types.SimpleNamespace(debug=lambda *args: None)
    transformers = types.ModuleType("transformers")
    transformers.PreTrainedConfig, transformers.WhisperConfig = Config, Config
    sys.modules.update({"vllm": types.ModuleType("vllm"), "vllm.logger": logger, "transformers": transformers})
    path = pathlib.Path(sys.argv[1]) / "vllm/transformers_utils/configs/mistral.py"
    here = {}
    exec(compile(path.read_text(), str(path), "exec"), here)
    json.dump([here["adapt_config_dict"](c["params"], c["defaults"]) for c in json.load(sys.stdin)], sys.stdout)


main()

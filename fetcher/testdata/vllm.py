"""Runs vLLM's own choice of files on directories.

Usage: vllm.py SOURCE, with SOURCE the folder that holds the package vllm. Standard
input is a JSON list of {"dir", "format"}; standard output is {"choices", "named"}:
for each directory, what vLLM's auto formats (or --load-format and --config-format as
given) load from it, and the files that vLLM's models open by name.

The functions are taken out of vLLM's files and run as they are, with nothing of
PyTorch or the Hub's client: what they call outside of each other is stood for below.
"""

import ast
import fnmatch
import functools
import glob
import json
import os
import pathlib
import sys
import types


def functions(source, names):
    """The named functions and methods of a file, each compiled by itself."""
    tree = ast.parse(source.read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            node.returns = None
            for arg in ast.walk(node):
                if isinstance(arg, ast.arg):
                    arg.annotation = None
            node.decorator_list = []
            found[node.name] = node
    missing = set(names) - set(found)
    if missing:
        sys.exit(f"{source} has no {missing}: this vLLM decides elsewhere")
    return list(found.values())


class ConfigFormat(Exception):
    """Carries the format that get_config has decided for."""


def get_config_parser(config_format):
    raise ConfigFormat(config_format)


class Quiet:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class FileNotFoundInHub(Exception):
    pass


def load(root):
    here = {
        "os": os, "glob": glob, "json": json, "fnmatch": fnmatch, "Path": pathlib.Path, "cache": functools.cache,
        "logger": Quiet(), "SAFE_WEIGHTS_INDEX_NAME": "model.safetensors.index.json",
        "HF_CONFIG_NAME": "config.json", "MISTRAL_CONFIG_NAME": "params.json",
        "envs": types.SimpleNamespace(VLLM_USE_MODELSCOPE=False),
        "huggingface_hub": types.SimpleNamespace(errors=types.SimpleNamespace(OfflineModeIsEnabled=FileNotFoundInHub)),
        "maybe_download_from_modelscope": lambda *args: None,
        "get_config_parser": get_config_parser,
        "with_retry": lambda call, *args, **kwargs: call(),
        "get_non_weight_snapshot_path": lambda name, **kwargs: name,
    }
    body = []
    for path, names in {
        "model_executor/model_loader/default_loader.py": ["_prepare_weights"],
        "model_executor/model_loader/weight_utils.py": ["filter_duplicate_safetensors_files", "filter_files_not_needed_for_inference"],
        "transformers_utils/repo_utils.py": ["list_repo_files", "list_filtered_repo_files", "any_pattern_in_repo_files", "is_mistral_model_repo", "file_or_path_exists"],
        "transformers_utils/config.py": ["get_config"],
        "tokenizers/registry.py": ["resolve_tokenizer_args"],
    }.items():
        body += functions(root / "vllm" / path, names)
    exec(compile(ast.fix_missing_locations(ast.Module(body, [])), "vllm", "exec"), here)
    if 'MISTRAL_CONFIG_NAME = "params.json"' not in (root / "vllm/transformers_utils/config.py").read_text():
        sys.exit("MISTRAL_CONFIG_NAME is another")
    return here


def choose(vllm, directory, chosen_format):
    """What vLLM does with a directory, each part as a value or as an error."""
    loader = types.SimpleNamespace(load_config=types.SimpleNamespace(load_format=chosen_format, download_dir=None, ignore_patterns=[]))
    out = {"weights": [], "config": "", "tokenizer": "", "error": ""}
    try:
        _, files, _, _ = vllm["_prepare_weights"](loader, directory, None, None, True, None)
        out["weights"] = sorted(os.path.relpath(f, directory) for f in files)
    except Exception as e:
        out["error"] = f"weights: {e}"
    try:
        vllm["get_config"](directory, False, config_format=chosen_format)
    except ConfigFormat as e:
        out["config"] = e.args[0]
    except Exception as e:
        out["error"] = out["error"] or f"config: {e}"
    out["tokenizer"] = vllm["resolve_tokenizer_args"](directory)[0]
    return out


def named(root):
    """The files of weights that vLLM's models open by a name of their own."""
    names = set()
    for path in sorted((root / "vllm/model_executor/models").glob("*.py")):
        text = path.read_text()
        if "_WEIGHTS = " not in text and "_FILENAME = " not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant) \
                    and node.targets[0].id.endswith(("_WEIGHTS", "_FILENAME")):
                names.add(node.value.value)
    # Prefixes of the secondary weights of BGE-M3, which are put together when they are loaded.
    for node in ast.walk(ast.parse((root / "vllm/model_executor/models/roberta.py").read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and node.targets[0].attr == "secondary_weight_prefixes":
            names.update(e.value + "pt" for e in node.value.elts)
    return sorted(n for n in names if isinstance(n, str) and n.endswith((".safetensors", ".bin", ".pt")))


def main():
    root = pathlib.Path(sys.argv[1])
    vllm = load(root)
    choices = [choose(vllm, c["dir"], c["format"]) for c in json.load(sys.stdin)]
    json.dump({"choices": choices, "named": named(root)}, sys.stdout)


main()

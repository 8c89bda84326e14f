"""Runs vLLM's own parser of command lines.

Usage: parse.py SOURCE, with SOURCE the folder that holds the package vllm. Standard input is a JSON object: "options" are
names and a kind (flag, whole, count, length, number, text, or other, which takes a value or none), "lines" are lists of
words that begin with serve. Standard output is a list of what the counted options are of each line, or null where it is refused.
"""

import argparse
import json
import pathlib
import re
import sys
import types


def main():
    logger = types.ModuleType("vllm.logger")
    logger.init_logger = lambda name: types.SimpleNamespace(warning=lambda *args: None, error=lambda *args: None, warning_once=lambda *args: None)
    sys.modules.update({"vllm": types.ModuleType("vllm"), "vllm.logger": logger, "regex": re})
    path = pathlib.Path(sys.argv[1]) / "vllm/utils/argparse_utils.py"
    here = {"__name__": "argparse_utils"}
    exec(compile(path.read_text(), str(path), "exec"), here)
    kinds = {"whole": int, "count": here["human_readable_int"], "length": here["human_readable_int_or_auto"], "number": float, "text": str}
    asked = json.load(sys.stdin)

    class Refused(Exception):
        pass

    class Parser(here["FlexibleArgumentParser"]):
        def error(self, message):
            raise Refused(message)

    parser = Parser(prog="vllm serve")
    parser.add_argument("command")
    parser.add_argument("model_tag", nargs="?")
    counted = []
    for o in asked["options"]:
        if o["kind"] == "flag":
            action = parser.add_argument(*o["names"], action=argparse.BooleanOptionalAction, default=None)
        elif o["kind"] == "other":
            parser.add_argument(*o["names"], nargs="?")
            continue
        else:
            action = parser.add_argument(*o["names"], type=kinds[o["kind"]], default=None)
        counted.append((o["names"][0], action.dest))
    answers = []
    for words in asked["lines"]:
        try:
            parsed = parser.parse_args(words)
            answers.append({name: value for name, dest in counted if (value := getattr(parsed, dest)) is not None})
        except Refused:
            answers.append(None)
    json.dump(answers, sys.stdout)


main()

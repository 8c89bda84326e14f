#!/usr/bin/env python3
"""Ask other estimators of GPU memory about the starts of testdata/logs.json, and print what they answer as JSON.

Each is asked as its own documentation has it, by the function behind its command, about the models of testdata/models; what
they would read from the Hub is answered here, so nothing leaves this machine. Run in the virtual environment of
`make clients`; `make fit-estimators` writes testdata/estimators.json with it.

For each start: the weights and the KV cache of one request of the log's length, both in GiB on each GPU, the tokens that the
whole cache holds, and for each of LENGTHS the least percentage of the memory, of 10 to 98, at which it says that a request of
that length fits: 99 for never. null is what an estimator does not compute; "error" holds its reason for computing nothing.
"""
import argparse
import contextlib
import functools
import importlib.metadata
import io
import itertools
import json
import os
import re
import struct
import sys
import tempfile
import urllib.parse
import warnings

LENGTHS = [2048, 8192, 32768, None]  # None: the model's own
GIB = 1 << 30
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "testdata")
NO_CACHE_TYPE = "has no argument for the type of the cache"
BITS = {"BF16": 16, "F16": 16, "F32": 32, "I64": 64, "I32": 32, "I8": 8, "U8": 8, "F8_E4M3": 8}


def load(*path):
    with open(os.path.join(HERE, *path), encoding="utf-8") as f:
        return json.load(f)


def names(pattern):
    """Yield what a pattern like layers.[0-2,7].mlp stands for."""
    parts = []
    for i, part in enumerate(re.split(r"[\[\]]", pattern)):
        if i % 2 == 0:
            parts.append([part])
            continue
        ends = [(r.split("-") * 2)[:2] for r in part.split(",")]
        parts.append([str(n) for first, last in ends for n in range(int(first), int(last) + 1)])
    return map("".join, itertools.product(*parts))


class Model:
    """The files of a model, without the weights' data."""

    def __init__(self, shape):
        described = load("models", shape + ".json")
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for line in described["tensors"]:
            pattern, dtype, dims = line.split()
            shape_of = [] if dims == "-" else [int(d) for d in dims.split("x")]
            size = BITS[dtype] // 8
            for d in shape_of:
                size *= d
            for name in names(pattern):
                header[name] = {"dtype": dtype, "shape": shape_of, "data_offsets": [offset, offset + size]}
                offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        self.files = {
            "config.json": json.dumps(described["config"]).encode(),
            "model.safetensors": struct.pack("<Q", len(text)) + text,
        }

    def write(self, folder):
        for name, content in self.files.items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(content)


MODELS = {}


def hub(request, response):
    """Answer as the Hub does for shapes/NAME, from MODELS; response is the class of the client that asks."""
    path = urllib.parse.unquote(request.url.path).strip("/").split("/")
    if path[:2] == ["api", "models"]:
        listing = [{"type": "file", "path": name, "size": len(content)} for name, content in MODELS[path[3]].files.items()]
        return response(200, json=listing)
    content = MODELS[path[1]].files.get("/".join(path[4:]))
    if path[2:3] != ["resolve"] or content is None:
        return response(404, headers={"X-Error-Code": "EntryNotFound"})
    headers = {"ETag": '"%s"' % "/".join(path), "X-Repo-Commit": "0" * 40, "Content-Length": str(len(content))}
    if request.method == "HEAD":
        return response(200, headers=headers)
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")):
        return response(206, content=content[int(wanted[1]) : int(wanted[2]) + 1])
    return response(200, content=content, headers=headers)


def least_percent(fits):
    """Return the least percentage at which fits holds; it holds for all above, too."""
    low, high = 10, 99
    while low < high:
        middle = (low + high) // 2
        if fits(middle / 100):
            high = middle
        else:
            low = middle + 1
    return low


def hf_mem(start, model, total):
    """hf-mem --experimental: weights, and the cache of one request. Neither GPUs nor what else is in memory: a start counts as
    one that fits if its share of both is at most the budget."""
    import hf_mem

    gpus = start["tensorParallel"]

    def ask(length, cache=start["kvCacheDtype"]):
        try:
            return hf_mem.run("shapes/" + start["shape"], experimental=True, max_model_len=length, kv_cache_dtype=cache)
        except RuntimeError:
            if cache != "auto":
                raise
            return ask(length, start["dtype"])  # as its message asks for

    def fits(length):
        total_memory = ask(length).total_memory
        return least_percent(lambda share: total_memory <= share * total * GIB * gpus)

    of_log = ask(start["maxModelLen"])
    answer = {"weightsGiB": of_log.memory / gpus / GIB}
    if of_log.kv_cache is None:
        return answer | {"error": "counts no cache"}
    return answer | {"kvGiB": of_log.kv_cache / gpus / GIB, "from": [fits(length) for length in LENGTHS]}


def planner(memory):
    """planner plan --model M --gpu-memory N --tp N --max-model-len N --gpu-mem-util F: all of it, at these lengths and shares.
    memory is a whole number of GB, as the command takes it."""

    def ask(start, model, total):
        from planner.cli.planner_cli import plan_capacity

        def ask_for(length, share):
            arguments = argparse.Namespace(
                model="shapes/" + start["shape"], gpu_memory=memory, max_model_len=length, batch_size=1, tp=start["tensorParallel"],
                pp=1, dp=1, gpu_mem_util=share, block_size=None, output=None, show_possible_tp=False, verbose=False)
            with contextlib.redirect_stdout(io.StringIO()):
                return plan_capacity(arguments)

        gpus = start["tensorParallel"]
        of_log = ask_for(start["maxModelLen"], start["gpuMemoryUtilization"])
        answer = {"weightsGiB": of_log["per_gpu_model_memory_gb"]}
        if start["kvCacheDtype"] != "auto":
            return answer | {"error": NO_CACHE_TYPE}
        return answer | {
            "kvGiB": of_log["kv_cache_detail"]["per_request_kv_cache_gb"] / gpus,
            "tokens": of_log["total_kv_cache_blocks"] * 16 // gpus,  # it adds up the blocks of all GPUs
            "from": [least_percent(lambda share: ask_for(length, share)["max_concurrent_requests"] >= 1) for length in LENGTHS],
        }

    return ask


def modelinfo(start, model, total):
    """modelinfo FILE --vllm --gpu NxG --gpu-util F --topology nvlink: weights, and the tokens that the rest of the budget holds."""
    from modelinfo.cli import analyze_model
    from modelinfo.hardware import resolve_gpu

    gpus = start["tensorParallel"]
    _, memory, count = resolve_gpu(f"{gpus}x{total}")
    file = os.path.join(model.folder, "model.safetensors")

    def ask(length, share):
        return analyze_model(file, length, gpu_count=count, is_vllm=True, gpu_vram_gb=memory, gpu_util=share, topology="nvlink")

    @functools.cache
    def tokens(share):
        return ask(start["maxModelLen"], share)["footprint"]["vllm_metrics"]["max_serving_capacity"]

    of_log = ask(start["maxModelLen"], start["gpuMemoryUtilization"])
    lengths = LENGTHS[:-1] + [of_log["max_context"]]
    answer = {"weightsGiB": of_log["footprint"]["base_memory_bytes"] / gpus / GIB}
    if start["kvCacheDtype"] != "auto":
        return answer | {"error": NO_CACHE_TYPE}
    return answer | {
        "kvGiB": of_log["footprint"]["kv_cache_bytes"] / gpus / GIB,
        "tokens": tokens(start["gpuMemoryUtilization"]),
        "from": [length and least_percent(lambda share: tokens(share) >= length) for length in lengths],
    }


ESTIMATORS = [
    ("llm-d-planner", "planner plan --gpu-memory 80", planner(80)),
    ("llm-d-planner", "planner plan --gpu-memory 79", planner(79)),
    ("modelinfo-cli", "modelinfo --vllm --gpu Nx79.19 --topology nvlink", modelinfo),
    ("hf-mem", "hf-mem --experimental", hf_mem),
]


def rounded(value):
    return float("%.5g" % value) if isinstance(value, float) else value


def main():
    starts = [s for s in load("logs.json") if s.get("shape") and s.get("activationsGiB") and s.get("gpuMemoryUtilization")]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(HF_HOME=scratch, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        import httpx
        import httpx2
        import huggingface_hub

        huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(lambda r: hub(r, httpx.Response))))
        client = httpx2.AsyncClient
        httpx2.AsyncClient = lambda **_: client(transport=httpx2.MockTransport(lambda r: hub(r, httpx2.Response)))
        warnings.simplefilter("ignore")
        for shape in {s["shape"] for s in starts}:
            MODELS[shape] = model = Model(shape)
            model.folder = os.path.join(scratch, "shapes", shape)
            os.makedirs(model.folder)
            model.write(model.folder)

        lines, asked = [], {}
        for package, command, ask in ESTIMATORS:
            for s in starts:
                key = (command, s["shape"], s["tensorParallel"], s["maxModelLen"], s["kvCacheDtype"])
                if key in asked:
                    continue
                try:
                    answer = ask(s, MODELS[s["shape"]], s["cudaTotalGiB"])
                except (Exception, SystemExit) as e:  # whatever it ends with, it computes nothing
                    answer = {"error": f"{type(e).__name__}: {e}"}
                if "error" in answer:
                    answer["error"] = answer["error"].splitlines()[0][:160]
                asked[key] = answer
                row = {"package": package, "version": importlib.metadata.version(package), "command": command}
                row |= {k: s[k] for k in ("shape", "tensorParallel", "maxModelLen", "kvCacheDtype")}
                row |= {k: rounded(v) for k, v in answer.items()}
                lines.append(json.dumps(row))
    print("[\n" + ",\n".join(lines) + "\n]")
    return 0


sys.exit(main())

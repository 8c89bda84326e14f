"""Looks a repository up in a cache, offline, in every way that readers do.

argv: repository, commit, branch, a file that is there, a nested file that is
there, a file that was left out. Prints a JSON object: for each way the
path that was found, or "ClassName" of what was raised.
"""

import json
import os
import sys

import huggingface_hub as hub

repo, commit, branch, there, nested, left_out = sys.argv[1:7]

WAYS = {
    "snapshot": lambda: hub.snapshot_download(repo),
    "snapshot_local_only": lambda: hub.snapshot_download(repo, local_files_only=True),
    "snapshot_commit": lambda: hub.snapshot_download(repo, revision=commit),
    "snapshot_branch": lambda: hub.snapshot_download(repo, revision=branch),
    "snapshot_weights": lambda: hub.snapshot_download(repo, allow_patterns=["*.safetensors", "*.json"]),
    "snapshot_ignoring": lambda: hub.snapshot_download(repo, ignore_patterns=["original/**/*"]),
    "snapshot_no_such_branch": lambda: hub.snapshot_download(repo, revision="no-such-branch"),
    "file": lambda: hub.hf_hub_download(repo, there),
    "file_commit": lambda: hub.hf_hub_download(repo, there, revision=commit),
    "file_branch": lambda: hub.hf_hub_download(repo, there, revision=branch),
    "file_local_only": lambda: hub.hf_hub_download(repo, there, local_files_only=True),
    "file_nested": lambda: hub.hf_hub_download(repo, nested),
    "file_subfolder": lambda: hub.hf_hub_download(repo, os.path.basename(nested), subfolder=os.path.dirname(nested)),
    "file_left_out": lambda: hub.hf_hub_download(repo, left_out),
    "file_no_such": lambda: hub.hf_hub_download(repo, "no-such-file.json"),
    "try_load": lambda: hub.try_to_load_from_cache(repo, there),
    "try_load_commit": lambda: hub.try_to_load_from_cache(repo, there, revision=commit),
    "scan": lambda: str(sum(r.nb_files for r in hub.scan_cache_dir().repos)),
}

found = {}
for name, way in WAYS.items():
    try:
        found[name] = way()
    except Exception as e:
        found[name] = type(e).__name__
try:
    open(os.path.join(os.environ["HF_HUB_CACHE"], "written"), "w").close()
    found["write"] = "written"
except OSError as e:
    found["write"] = os.strerror(e.errno)
print(json.dumps(found))

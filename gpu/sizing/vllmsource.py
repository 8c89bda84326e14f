#!/usr/bin/env python3
"""Keep the Python files of releases of vLLM, for the test that holds the sums' rules against them.

vllmsource.py DIR VERSION...: DIR/VERSION/vllm/... of each, from its wheel on PyPI (about 350 MB, of which 20 are kept). What is
there already is left alone.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

PLATFORMS = ["manylinux_2_%d_x86_64" % minor for minor in (28, 31, 34, 35)] + ["manylinux1_x86_64"]


def fetch(directory, version):
    """Unpack beside the place and move there whole: an interrupted run leaves nothing half."""
    os.makedirs(directory, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
             "--python-version", "3.12", *platforms, "--dest", scratch, "vllm==" + version], check=True)
        (wheel,) = (name for name in os.listdir(scratch) if name.endswith(".whl"))
        unpacked = os.path.join(scratch, "source")
        with zipfile.ZipFile(os.path.join(scratch, wheel)) as z:
            for name in z.namelist():
                if name.startswith("vllm/") and name.endswith(".py"):
                    z.extract(name, unpacked)
        shutil.move(unpacked, os.path.join(directory, version))


def main():
    directory, *versions = sys.argv[1:]
    for version in versions:
        if not os.path.isdir(os.path.join(directory, version)):
            print("fetching vLLM", version, flush=True)
            fetch(directory, version)


main()

"""Wait until this replica serves no request, before it is told to stop.

Arguments: seconds until nobody sends requests here any more, seconds to wait at most, the address of /metrics ($NAME
stands for a variable).
"""
import os
import re
import sys
import time
import urllib.request

settle, limit, url = float(sys.argv[1]), float(sys.argv[2]), os.path.expandvars(sys.argv[3])
busy = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)$", re.MULTILINE)

time.sleep(settle)
end = time.monotonic() + limit
while time.monotonic() < end:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
    except OSError as e:
        print(f"drain: {url} does not answer ({e}), so nothing is waited for")
        break
    if sum(map(float, busy.findall(page))) == 0:
        break
    time.sleep(0.5)

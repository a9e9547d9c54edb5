"""What a cold adapter costs: the time that it adds to its first token, and the longest pause of a stream that runs beside."""

import json
import os
import statistics
import threading
import time
import urllib.request

import servers


def stream(url, model, tokens):
    """The times at which a stream's pieces arrive, counted from its start."""
    body = {"model": model, "prompt": "The wind over the harbour", "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    began = time.perf_counter()
    times = []
    with urllib.request.urlopen(request) as response:
        for line in response:
            if line.startswith(b"data: {"):
                times.append(time.perf_counter() - began)
    return times


def register(admin, adapters):
    """Names and sources alone: nothing is loaded before it is asked for."""
    named = [{"name": name, "source": os.path.abspath(peft)} for name, peft, *_ in adapters]
    body = {"version": {"epoch": 1, "sequence": 1}, "adapters": named}
    request = urllib.request.Request(f"http://{admin}/admin/v1/adapters", json.dumps(body).encode(), {"content-type": "application/json"}, method="PUT")
    urllib.request.urlopen(request).close()


def longest_gap(times):
    return max(later - earlier for earlier, later in zip(times, times[1:])) * 1e3


def measure(binary, model, adapters, threads, log):
    admin = f"127.0.0.1:{servers.free_port()}"
    root = os.path.dirname(os.path.abspath(adapters[0][1]))
    flags = ["--admin-listen", admin, "--admin-insecure", "--source-root", root]
    with servers.lorikeet(binary, model, [], threads, log, flags) as server:
        register(admin, adapters)
        stream(server.url, "base", 64)
        quiet = longest_gap(stream(server.url, "base", 400))
        beside = []
        runner = threading.Thread(target=lambda: beside.extend(stream(server.url, "base", 400)))
        added = []
        runner.start()
        for name, *_ in adapters:
            cold = stream(server.url, name, 2)[0]
            warm = statistics.median(stream(server.url, name, 2)[0] for _ in range(3))
            added.append((cold - warm) * 1e3)
        runner.join()
    return {"added_ms": statistics.median(added), "count": len(added), "gap_ms": longest_gap(beside), "quiet_gap_ms": quiet}

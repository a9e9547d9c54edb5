"""What a cold adapter costs: the time that it adds to its first token, and the longest pause of a stream that runs beside."""

import json
import os
import statistics
import threading
import time
import urllib.request

import servers


def stream(url, model, tokens, number=0):
    """The times at which a stream's pieces arrive, counted from its start. No two numbers share a prefix."""
    prompt = f"{number}: the wind over the harbour"
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
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


def beside_a_stream(url, adapters, first):
    """Asks each adapter once while a stream of the base model runs: times to first token and the stream's longest gap, in ms."""
    times = []
    runner = threading.Thread(target=lambda: times.extend(stream(url, "base", 400, first)))
    runner.start()
    time.sleep(0.1)  # the stream has begun
    firsts = [stream(url, name, 2, first + 1 + n)[0] * 1e3 for n, (name, *_) in enumerate(adapters)]
    runner.join()
    return firsts, longest_gap(times)


def measure(binary, model, adapters, threads, log):
    admin = f"127.0.0.1:{servers.free_port()}"
    root = os.path.dirname(os.path.abspath(adapters[0][1]))
    flags = ["--admin-listen", admin, "--admin-insecure", "--source-root", root]
    with servers.lorikeet(binary, model, [], threads, log, flags) as server:
        register(admin, adapters)
        stream(server.url, "base", 64)
        cold, gap = beside_a_stream(server.url, adapters, 100)
        warm, quiet_gap = beside_a_stream(server.url, adapters, 200)
    added = statistics.median(c - w for c, w in zip(cold, warm))
    return {"added_ms": added, "count": len(adapters), "gap_ms": gap, "quiet_gap_ms": quiet_gap}

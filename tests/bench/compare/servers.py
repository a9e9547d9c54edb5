"""Servers under comparison, one at a time on the same cores, and the load generator against them."""

import json
import os
import socket
import subprocess
import time
import urllib.request

WORDS = ["--min-words", "20", "--max-words", "60", "--min-new-tokens", "64", "--max-new-tokens", "64"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A process that answers 200 on a health path; gone at the end of the `with`."""

    def __init__(self, command, port, health, log):
        self.command, self.url, self.health, self.log = command, f"http://127.0.0.1:{port}", health, log

    def __enter__(self):
        self.out = open(self.log, "ab")
        self.process = subprocess.Popen(self.command, stdout=self.out, stderr=self.out, stdin=subprocess.DEVNULL)
        for _ in range(1200):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.command[0]} ended; see {self.log}")
            try:
                urllib.request.urlopen(self.url + self.health, timeout=5).close()
                return self
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{self.command[0]} is not ready; see {self.log}")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.out.close()


def lorikeet(binary, model, adapters, threads, log, further=()):
    port = free_port()
    flags = [flag for name, peft, _, _ in adapters for flag in ("--adapter", f"{name}={peft}")]
    command = [binary, "serve", "--model", model, "--served-name", "base", "--threads", str(threads)]
    return Server([*command, "--listen", f"127.0.0.1:{port}", *flags, *further], port, "/ready", log)


def llama_cpp(binary, model, adapters, users, threads, log):
    port = free_port()
    flags = [flag for _, _, converted, _ in adapters for flag in ("--lora", converted)]
    command = [binary, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
    command += ["--threads-batch", str(threads), "--parallel", str(users), "--ctx-size", str(256 * users), "--no-webui"]
    return Server([*command, *flags, *(["--lora-init-without-apply"] if flags else [])], port, "/health", log)


def load(binary, server, protocol, adapters, users, requests, seed, further=()):
    """One run of the load generator; its report."""
    names = ["--adapters", ",".join(name for name, *_ in adapters)] if adapters else []
    command = [binary, "--url", server.url, "--protocol", protocol, "--model", "base", *names, *WORDS, *further]
    command += ["--users", str(users), "--requests", str(requests), "--seed", str(seed), "--json", "-"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
    report = json.loads(ended.stdout)
    if report["total"]["errors"]:
        raise SystemExit(f"{' '.join(command)}\nfailed: {report['total']['errors']}")
    return report["total"]


def cpu_name():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'}, {len(os.sched_getaffinity(0))} threads"

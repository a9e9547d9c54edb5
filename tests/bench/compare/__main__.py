"""Lorikeet beside llama.cpp's server and transformers + PEFT: the same model, the same adapters, the same cores, one run.

usage: python tests/bench/compare [--quick] [--models q4_1,bf16] [--peers llama.cpp,peft] [--repeats 3] [--json FILE]
Prints one table of medians, tokens a second of all users together unless the column says otherwise, and writes JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import cold
import files
import memory
import servers

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
SMOLLM2 = os.path.join(ROOT, ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf")
WORDS = os.path.join(ROOT, "tests/bench/src/words.txt")
BASE, QV, MIXED, IDLE = "base only", "rank 8 on q, v", "ranks 8-64 on all linear", "idle"
CASES = [(BASE, 1), (BASE, 8), (BASE, 25), (QV, 1), (QV, 25), (MIXED, 1), (MIXED, 25), (IDLE, 25)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, half of the requests")
    parser.add_argument("--models", default="q4_1,bf16")
    parser.add_argument("--peers", default="llama.cpp,peft")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default=os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")))
    parser.add_argument("--json", default=os.path.join(ROOT, ".cache/bench/compare.json"))
    options = parser.parse_args()
    options.repeats = 1 if options.quick else options.repeats
    options.peers = [peer for peer in options.peers.split(",") if peer]
    return options


class Comparison:
    """Runs cases and keeps what was measured."""

    def __init__(self, options):
        self.options = options
        self.folder = os.path.join(ROOT, ".cache/bench")
        self.log = os.path.join(self.folder, "servers.log")
        os.makedirs(self.folder, exist_ok=True)
        self.lorikeet = os.path.join(options.target, "release/lorikeet")
        self.bench = os.path.join(options.target, "release/lorikeet-bench")
        self.llama = os.path.join(ROOT, ".cache/llama.cpp/bin/llama-server")
        self.sets = {BASE: [], **files.adapters(self.folder)}
        self.rows = []
        self.peft_speeds = {}

    def model(self, kind):
        """(for Lorikeet, for llama.cpp, for transformers)"""
        needs_torch = kind == "bf16" or "peft" in self.options.peers
        folder = os.path.join(self.folder, "smollm2-bf16")
        original = files.hugging_face(SMOLLM2, folder) if needs_torch else None
        if kind == "q4_1":
            return SMOLLM2, SMOLLM2, original
        return original, files.bf16_gguf(SMOLLM2, os.path.join(self.folder, "smollm2-bf16.gguf")), original

    def requests(self, users):
        return users * (1 if self.options.quick else 2) + (4 if users == 1 else 0)

    def ours(self, model, case, users, seed):
        asked = [] if case == IDLE else self.sets[case]
        with servers.lorikeet(self.lorikeet, model, self.sets[case], self.options.threads, self.log) as server:
            if case == IDLE:  # each is asked once, so that all are loaded
                servers.load(self.bench, server, "completions", self.sets[case], 1, 1, seed)
            return servers.load(self.bench, server, "completions", asked, users, self.requests(users), seed)

    def llama_cpp(self, model, case, users, seed):
        adapters = self.sets[case]
        with servers.llama_cpp(self.llama, model, adapters, users, self.options.threads, self.log) as server:
            return servers.load(self.bench, server, "llama-cpp", adapters, users, self.requests(users), seed)

    def peft(self, model, case, users):
        """transformers computes in float32 whatever the weights were: it has one figure for all models."""
        if (case, users) not in self.peft_speeds:
            self.peft_speeds[case, users] = self.run_peft(model, case, users)
        return self.peft_speeds[case, users]

    def run_peft(self, model, case, users):
        job = {
            "model": model, "adapters": [(name, peft) for name, peft, _, _ in self.sets[case]], "users": users,
            "threads": self.options.threads, "repeats": self.options.repeats, "seed": 1, "words": WORDS, "dtype": "float32",
        }
        program = os.path.join(os.path.dirname(__file__), "peft_batch.py")
        with open(self.log, "ab") as log:
            ended = subprocess.run([sys.executable, program], input=json.dumps(job), stdout=subprocess.PIPE, stderr=log, text=True)
        if ended.returncode != 0:
            raise SystemExit(f"peft_batch.py ended; see {self.log}")
        return json.loads(ended.stdout)

    def model_rows(self, kind):
        """All cases of one model. The repeats are the outer loop, ours and the peer's in turn in it, so that a slow minute of the
        machine touches every case and both sides."""
        models = self.model(kind)
        rows = [{"model": kind, "case": case, "users": users, "lorikeet": [], "llama.cpp": [], "peft": []} for case, users in CASES]
        for repeat in range(1, self.options.repeats + 1):
            for row, (case, users) in zip(rows, CASES):
                row["lorikeet"].append(self.ours(models[0], case, users, repeat))
                if "llama.cpp" in self.options.peers and case != IDLE:
                    row["llama.cpp"].append(self.llama_cpp(models[1], case, users, repeat))
                print(f"{repeat} of {self.options.repeats}", *cells(row), sep=" | ", file=sys.stderr, flush=True)
        for row, (case, users) in zip(rows, CASES):
            if "peft" in self.options.peers and case != IDLE and users != 8:
                row["peft"] = self.peft(models[2], case, users)
        self.rows.extend(rows)
        return models


def median(reports, *path):
    values = []
    for report in reports:
        for name in path:
            report = report[name] if report else None
        if report is not None:
            values.append(report)
    return statistics.median(values) if values else None


HEAD = ["model", "adapters", "users", "lorikeet tok/s", "TTFT p50", "ITL p50", "llama.cpp tok/s", "x", "PEFT tok/s", "x"]


def cells(row):
    speed = median(row["lorikeet"], "output_tokens_per_second")
    first = median(row["lorikeet"], "time_to_first_token_ms", "p50")
    gap = median(row["lorikeet"], "inter_token_ms", "p50")
    llama = median(row["llama.cpp"], "output_tokens_per_second")
    peft = statistics.median(row["peft"]) if row["peft"] else None
    text = lambda value, form: "-" if value is None else format(value, form)
    ratio = lambda peer: "-" if not peer else f"{speed / peer:.2f}"
    return [
        row["model"], row["case"], str(row["users"]), text(speed, ".1f"), text(first, ".0f") + " ms", text(gap, ".1f") + " ms",
        text(llama, ".1f"), ratio(llama), text(peft, ".1f"), ratio(peft),
    ]


def table(rows):
    lines = [HEAD, ["-" * len(name) for name in HEAD], *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def main():
    options = arguments()
    comparison = Comparison(options)
    began = time.time()
    results = {"cpu": servers.cpu_name(), "threads": options.threads, "repeats": options.repeats, "cold": {}}
    results["memory"] = memory.bytes_a_second(options.threads)
    for kind in options.models.split(","):
        models = comparison.model_rows(kind)
        log, threads = comparison.log, options.threads
        results["cold"][kind] = cold.measure(comparison.lorikeet, models[0], comparison.sets["cold"], threads, log)
    results |= {"rows": comparison.rows, "seconds": time.time() - began}
    with open(options.json, "w") as out:
        json.dump(results, out, indent=1)
    print(f"{results['cpu']}; {options.threads} threads a server, the load generator beside it; prompts of 20-60 words, 64 tokens")
    print("each; medians of " + str(options.repeats) + "\n\n" + table(comparison.rows) + "\n")
    read = sum(os.path.getsize(os.path.join(peft, "adapter_model.safetensors")) for _, peft, *_ in comparison.sets[MIXED])
    read_ms = read / results["memory"] * 1e3
    print(f"Reading the {read / 1e6:.0f} MB of the 25 adapters of {MIXED} takes {read_ms:.1f} ms at {results['memory'] / 1e9:.1f} GB/s.")
    for kind, what in results["cold"].items():
        step = {row["case"]: median(row["lorikeet"], "inter_token_ms", "p50") for row in comparison.rows if (row["model"], row["users"]) == (kind, 25)}
        print(f"{kind}: with 25 users these adapters add {step[MIXED] - step[BASE]:.1f} ms to a step, those of {QV} {step[QV] - step[BASE]:.1f} ms, 200 idle ones")
        print(f"  {step[IDLE] - step[BASE]:.1f} ms (medians of inter-token time)")
        print(f"{kind}: a cold adapter of 2 MB adds {what['added_ms']:.1f} ms to the first token (median of {what['count']}); the longest gap of a")
        print(f"  running stream was {what['gap_ms']:.1f} ms beside such requests, {what['quiet_gap_ms']:.1f} ms beside the same with all loaded")
    print(f"\n{(time.time() - began) / 60:.0f} minutes; all figures in {os.path.relpath(options.json, ROOT)}")


if __name__ == "__main__":
    main()

"""The peer transformers + PEFT: one batch of prompts, each with its adapter, generated together. Run as a program of its own:
reads a JSON job from standard input, writes tokens a second, one number a repeat, to standard output."""

import json
import random
import sys
import time


def main():
    job = json.load(sys.stdin)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    names = []
    for name, folder in job["adapters"]:
        if not names:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
        names.append(name)
    model.eval()
    words = open(job["words"]).read().split()
    draw = random.Random(job["seed"])
    speeds = []
    for repeat in range(job["repeats"] + 1):
        prompts = [" ".join(draw.choices(words, k=draw.randint(20, 60))) for _ in range(job["users"])]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        mix = {"adapter_names": [names[n % len(names)] for n in range(job["users"])]} if names else {}
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(**batch, **mix, max_new_tokens=64, min_new_tokens=64, do_sample=False)
        seconds = time.perf_counter() - began
        tokens = (out.shape[1] - batch["input_ids"].shape[1]) * job["users"]
        if repeat > 0:  # the first run warms up
            speeds.append(tokens / seconds)
    json.dump(speeds, sys.stdout)


if __name__ == "__main__":
    main()

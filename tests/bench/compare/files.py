"""The files of the comparison: one model in the forms that each server reads, and the same adapters as PEFT and as GGUF.

Made once under .cache/bench. Weights of adapters are random and small: speed does not depend on them.
"""

import json
import os
import struct

import gguf
import numpy as np

LAYERS, HIDDEN, KV, FFN, HEADS, KV_HEADS = 30, 576, 192, 1536, 9, 3
MODULES = {  # name in PEFT: (path, name in GGUF, outputs, inputs, heads whose rows GGUF permutes)
    "q_proj": ("self_attn.q_proj", "attn_q", HIDDEN, HIDDEN, HEADS),
    "k_proj": ("self_attn.k_proj", "attn_k", KV, HIDDEN, KV_HEADS),
    "v_proj": ("self_attn.v_proj", "attn_v", KV, HIDDEN, None),
    "o_proj": ("self_attn.o_proj", "attn_output", HIDDEN, HIDDEN, None),
    "gate_proj": ("mlp.gate_proj", "ffn_gate", FFN, HIDDEN, None),
    "up_proj": ("mlp.up_proj", "ffn_up", FFN, HIDDEN, None),
    "down_proj": ("mlp.down_proj", "ffn_down", HIDDEN, FFN, None),
}
MIXED_RANKS = [8, 16, 32, 64]


def permuted(rows, heads):
    """Rows of a llama q or k projection in GGUF's order: rotary pairs side by side."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def adapter(folder, name, rank, targets, seed):
    """An adapter in both forms; returns (PEFT folder, GGUF file)."""
    peft, converted = os.path.join(folder, "peft", name), os.path.join(folder, "gguf", f"{name}.gguf")
    if os.path.exists(converted):
        return peft, converted
    os.makedirs(peft, exist_ok=True)
    os.makedirs(os.path.dirname(converted), exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = {}
    writer = gguf.GGUFWriter(converted + ".new", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * rank)
    for layer in range(LAYERS):
        for target in targets:
            path, short, outputs, inputs, heads = MODULES[target]
            a = (random.standard_normal((rank, inputs)) * inputs**-0.5).astype(np.float16)
            b = (random.standard_normal((outputs, rank)) * 0.002).astype(np.float16)
            module = f"base_model.model.model.layers.{layer}.{path}"
            tensors[f"{module}.lora_A.weight"] = a
            tensors[f"{module}.lora_B.weight"] = b
            writer.add_tensor(f"blk.{layer}.{short}.weight.lora_a", a)
            writer.add_tensor(f"blk.{layer}.{short}.weight.lora_b", permuted(b, heads) if heads else b)
    write_safetensors(os.path.join(peft, "adapter_model.safetensors"), tensors)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets}
    with open(os.path.join(peft, "adapter_config.json"), "w") as out:
        json.dump(config, out)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(converted + ".new", converted)
    return peft, converted


def write_safetensors(path, tensors):
    """float16 tensors in the safetensors format."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            out.write(np.ascontiguousarray(tensor).tobytes())


def adapters(folder):
    """The sets of adapters by name: {set: [(name, PEFT folder, GGUF file, rank)]}."""
    sets = {"rank 8 on q, v": [], "ranks 8-64 on all linear": []}
    for number in range(25):
        name = f"qv{number}"
        sets["rank 8 on q, v"].append((name, *adapter(folder, name, 8, ["q_proj", "v_proj"], number), 8))
        rank, name = MIXED_RANKS[number % 4], f"mixed{number}"
        sets["ranks 8-64 on all linear"].append((name, *adapter(folder, name, rank, list(MODULES), 100 + number), rank))
    sets["cold"] = [(f"cold{n}", *adapter(folder, f"cold{n}", 18, ["q_proj", "v_proj"], 500 + n), 18) for n in range(16)]  # 2 MB
    sets["idle"] = []
    for number in range(200):
        name = f"idle{number}"
        sets["idle"].append((name, *adapter(folder, name, 8, ["q_proj", "v_proj"], 1000 + number), 8))
    return sets


def bf16_gguf(source, target):
    """The model of `source` with its matrices as bf16, for llama.cpp."""
    if os.path.exists(target):
        return target
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target + ".new", "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(np.float32))
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(tensor.name, gguf.quants.quantize(values.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(target + ".new", target)
    return target


def hugging_face(source, folder):
    """The model of `source` as a Hugging Face directory with bf16 weights, for Lorikeet and for transformers."""
    if os.path.exists(os.path.join(folder, "model.safetensors")):
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, name = os.path.split(os.path.realpath(source))
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # The weights were widened when they were read, but transformers goes on to call this a quantized model and won't save it.
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder

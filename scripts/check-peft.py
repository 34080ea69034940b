"""Averages LoRA adapters with `barycenter average --lora` and loads the results with PEFT.

    pip install torch transformers peft safetensors
    python scripts/check-peft.py target/release/barycenter

Not part of `make test`, which checks the same arithmetic without PyTorch. Prints one line a check and stops at the first that fails.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

BARYCENTER = sys.argv[1]
WEIGHTS = [0.5, 0.8, -0.3]
# Ranks, scales and rank-stabilised scaling differ from one adapter to the next.
ADAPTERS = [(4, 8, False), (8, 8, True), (2, 4, False)]


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def adapter(base, folder, rank, alpha, rank_stabilised):
    """Saves a random adapter and returns what it adds to the weights of the base model."""
    config = LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=rank_stabilised, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
    )
    before = weights_of(GPT2LMHeadModel.from_pretrained(base))
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return {name: after - before[name] for name, after in weights_of(model.merge_and_unload()).items()}


def average(adapters, out, *options):
    weights = ",".join(map(str, WEIGHTS))
    command = [BARYCENTER, "average", *map(str, adapters), "--out", str(out), "--weights", weights, *options]
    return json.loads(subprocess.run([*command, "-o", "json"], check=True, capture_output=True, text=True).stdout)


def loaded(base, folder):
    before = weights_of(GPT2LMHeadModel.from_pretrained(base))
    merged = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), folder).merge_and_unload()
    return {name: after - before[name] for name, after in weights_of(merged).items()}


def main(root):
    torch.manual_seed(0)
    base = root / "base"
    GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=16, n_embd=32, n_layer=2, n_head=2)).save_pretrained(base)
    folders = [root / f"adapter{i}" for i in range(len(ADAPTERS))]
    deltas = [adapter(base, folder, *options) for folder, options in zip(folders, ADAPTERS)]
    wanted = {name: sum(w * delta[name] for w, delta in zip(WEIGHTS, deltas)) for name in deltas[0]}
    moved = {name: delta for name, delta in wanted.items() if delta.abs().max() > 0}

    rank = sum(options[0] for options in ADAPTERS)
    average(folders, root / "whole", "--lora", "adapter", "--rank", str(rank))
    found = loaded(base, root / "whole")
    assert all(torch.allclose(found[name], delta, atol=1e-6) for name, delta in wanted.items())
    print(f"an adapter of rank {rank} adds the weighted sum of what {len(ADAPTERS)} adapters add")

    average(folders, root / "delta.safetensors", "--lora", "delta")
    delta = load_file(root / "delta.safetensors")
    assert delta.keys() == moved.keys() and all(torch.allclose(delta[name], moved[name], atol=1e-6) for name in moved)
    print("so does a delta")

    told = average(folders, root / "cut", "--lora", "adapter", "--rank", "4")["lora"]["relative_error"]
    found = loaded(base, root / "cut")
    lost = sum((found[name] - delta).square().sum() for name, delta in moved.items())
    measured = (lost / sum(delta.square().sum() for delta in moved.values())).sqrt().item()
    assert abs(measured - told) < 1e-4, (measured, told)
    print(f"an adapter of rank 4 loses what it says: {told:.4f}")


with tempfile.TemporaryDirectory() as folder:
    main(Path(folder))

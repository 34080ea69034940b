"""PyTorch's side of `step_time_transformers` (crates/barycenter-core/examples): the same networks, arguments and line of JSON.

    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 python benches/compare/transformers.py KIND [threads] [steps]

KIND is `mlp`, `vit_tiny` or `gpt2_tiny`; needs torch, torchvision (`vit_tiny`) and transformers (`gpt2_tiny`).
"""

import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional


def mlp():
    network = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    inputs, labels = torch.randn(128, 784), torch.arange(128) * 7 % 10
    return network, lambda: functional.cross_entropy(network(inputs), labels)


def vit_tiny():
    from torchvision.models import VisionTransformer

    network = VisionTransformer(32, 4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10)
    images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) * 7 % 10
    return network, lambda: functional.cross_entropy(network(images), labels)


def gpt2_tiny():
    from transformers import GPT2Config, GPT2LMHeadModel

    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    network = GPT2LMHeadModel(GPT2Config(8192, n_positions=128, n_embd=256, n_layer=4, n_head=4, **dropout))
    tokens, labels = torch.randint(0, 8192, (8, 128)), torch.arange(8 * 128) * 7 % 8192
    return network, lambda: functional.cross_entropy(network(tokens, use_cache=False).logits.flatten(0, 1), labels)


def main(kind: str, threads: int = 1, steps: int = 10):
    torch.set_num_threads(threads)
    network, loss = {"mlp": mlp, "vit_tiny": vit_tiny, "gpt2_tiny": gpt2_tiny}[kind]()
    network.train()
    times, cpu_times = [], []
    for _ in range(steps):
        network.zero_grad(set_to_none=True)
        start, cpu = time.perf_counter(), time.thread_time()
        loss().backward()
        cpu_times.append((time.thread_time() - cpu) * 1e3)
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    line = {
        "side": "pytorch",
        "kind": kind,
        "threads": threads,
        "best_ms": times[0],
        "median_ms": times[steps // 2],
        "best_thread_cpu_ms": min(cpu_times),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))

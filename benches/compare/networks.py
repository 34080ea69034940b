"""Times training steps (forward, loss, backward) of a network in PyTorch and prints them as one JSON line.

    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 python networks.py [network] [batch] [threads] [steps]

Networks: resnet20 (CIFAR, 32x32, channels_last), resnet20_nchw, resnet18 (64x64, channels_last), resnet18_nchw, mlp
(784-512-512-10), vit_tiny (6 blocks of width 192 on 65 positions), gpt2_tiny (4 blocks of width 256 on 128 tokens of 8192).
The arguments are those of `bench_step`, which runs ours.
"""

import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional

CLASSES = 10
VOCABULARY, TOKENS = 8192, 128
WARM_UP = 2


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        inner = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        inner += self.shortcut(x)
        return functional.relu(inner, inplace=True)


def resnet20() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for index in range(3):
            layers.append(Block(inputs, width, 2 if stage > 0 and index == 0 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def resnet18() -> nn.Module:
    from torchvision import models

    return models.resnet18(num_classes=CLASSES)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES))


def vit_tiny() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=CLASSES)


class Gpt2(nn.Module):
    """Hugging Face's network, its logits as rows."""

    def __init__(self):
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        sizes = {"n_positions": TOKENS, "n_embd": 256, "n_layer": 4, "n_head": 4}
        self.network = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes, **no_dropout))

    def forward(self, tokens):
        return self.network(tokens, use_cache=False).logits.flatten(0, 1)


# Network, shape of an input (None: tokens), whether images lie in channels_last order.
NETWORKS = {
    "resnet20": (resnet20, (3, 32, 32), True),
    "resnet20_nchw": (resnet20, (3, 32, 32), False),
    "resnet18": (resnet18, (3, 64, 64), True),
    "resnet18_nchw": (resnet18, (3, 64, 64), False),
    "mlp": (mlp, (784,), False),
    "vit_tiny": (vit_tiny, (3, 32, 32), False),
    "gpt2_tiny": (Gpt2, None, False),
}


def main():
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "resnet20"
    numbers = [int(argument) for argument in arguments[1:]]
    batch, threads, steps = (numbers + [128, 1, 10][len(numbers) :])[:3]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    build, shape, channels_last = NETWORKS[name]
    network = build().train()
    inputs = torch.randn(batch, *shape) if shape else torch.randint(0, VOCABULARY, (batch, TOKENS))
    if channels_last:
        network, inputs = (thing.to(memory_format=torch.channels_last) for thing in (network, inputs))
    labels = torch.arange(batch if shape else batch * TOKENS) % CLASSES
    times, cpu = [], 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            cpu = -time.process_time()
        start = time.perf_counter()
        network.zero_grad(set_to_none=True)
        functional.cross_entropy(network(inputs), labels).backward()
        if step >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - start))
    cpu += time.process_time()
    times.sort()
    line = {
        "side": "pytorch",
        "network": name,
        "batch": batch,
        "threads": threads,
        "steps": steps,
        "best_ms": times[0],
        "median_ms": times[steps // 2],
        "cpu_ms": 1e3 * cpu / steps,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

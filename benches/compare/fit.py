"""A whole TWA-v fit in PyTorch, the reference algorithm in plain words: the peer of `bench_fit`.

    python fit.py FOLDER [--bits 4] [--epochs 5] [--threads 1]

FOLDER holds `epoch-*.safetensors` (ResNet-20 on CIFAR-10) and `validation.safetensors`. Prints one JSON line: wall and CPU
seconds of the fit alone, its steps, the mean batch loss of the last epoch and the peak resident memory.
"""

import argparse
import json
import math
import pathlib
import resource
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn


def conv_bn(inputs, outputs, kernel, stride):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    def __init__(self, depth=20, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 16, 3, 1)
        width = 16
        for stage, outputs in enumerate((16, 32, 64), 1):
            blocks = []
            for index in range((depth - 2) // 6):
                blocks.append(Block(width, outputs, 2 if stage > 1 and index == 0 else 1))
                width = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class Projection:
    """Centre and normalised deviations of the flattened parameters, one block; codes of one byte below 32 bits."""

    def __init__(self, candidates, bits):
        self.centre = candidates.mean(0)
        deviations = candidates - self.centre
        self.rows = deviations / deviations.norm(dim=1, keepdim=True)
        self.bits = bits
        if bits < 32:
            low, high = self.rows.min(), self.rows.max()
            self.scale, self.low = (high - low) / (2**bits - 1), low
            self.rows = ((self.rows - low) / self.scale).round().to(torch.uint8)

    def project(self, gradient):
        if self.bits == 32:
            return self.rows @ gradient
        return (self.rows * (self.scale * gradient)).sum(1) + self.low * gradient.sum()

    def reconstruct(self, x):
        if self.bits == 32:
            return self.centre + x @ self.rows
        return self.centre + (self.rows * (self.scale * x)[:, None]).sum(0) + self.low * x.sum()


def images(path):
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    numbers = lambda name: torch.tensor([float(v) for v in metadata[name].split(",")]).view(1, 3, 1, 1)
    return tensors["inputs"], tensors["labels"], numbers("mean"), numbers("std")


def augmented(batch, pad=4):
    count, _, height, width = batch.shape
    padded = F.pad(batch, (pad,) * 4)
    down, right = torch.randint(0, 2 * pad + 1, (2, count))
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    columns = torch.where((torch.rand(count) < 0.5)[:, None], columns.flip(1), columns)
    sample = torch.arange(count)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def fit(arguments):
    folder = pathlib.Path(arguments.folder)
    model = ResNetCifar().to(memory_format=torch.channels_last).train()
    parameters = list(model.named_parameters())
    paths = sorted(folder.glob("epoch-*.safetensors"))
    flat = lambda file: torch.cat([file[name].flatten() for name, _ in parameters])
    projection = Projection(torch.stack([flat(load_file(path)) for path in paths]), arguments.bits)
    x = torch.zeros(len(paths), requires_grad=True)
    optimiser = torch.optim.AdamW([x], lr=arguments.learning_rate, weight_decay=0.0)
    inputs, labels, mean, std = images(folder / "validation.safetensors")
    per_epoch = math.ceil(len(labels) / arguments.batch_size)
    steps, warm_up = per_epoch * arguments.epochs, round(0.2 * per_epoch * arguments.epochs)
    started, cpu_started, losses = time.perf_counter(), time.process_time(), []
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(labels))
        batch = order[step % per_epoch * arguments.batch_size :][: arguments.batch_size]
        with torch.no_grad():
            weights = projection.reconstruct(x.detach())
            for (_, parameter), part in zip(parameters, weights.split([p.numel() for _, p in parameters])):
                parameter.copy_(part.view_as(parameter))
        pixels = (augmented(inputs[batch]).float() / 255 - mean) / std
        loss = F.cross_entropy(model(pixels.contiguous(memory_format=torch.channels_last)), labels[batch])
        model.zero_grad(set_to_none=True)
        loss.backward()
        x.grad = projection.project(torch.cat([p.grad.flatten() for _, p in parameters]))
        progress = (step - warm_up) / (steps - warm_up)
        factor = (step + 1) / warm_up if step < warm_up else (1 + math.cos(math.pi * progress)) / 2
        optimiser.param_groups[0]["lr"] = arguments.learning_rate * factor
        optimiser.step()
        losses.append(loss.item())
    return {
        "figure": "fit",
        "bits": arguments.bits,
        "threads": arguments.threads,
        "steps": steps,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "last_epoch_loss": sum(losses[-per_epoch:]) / per_epoch,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    print(json.dumps(fit(arguments)), flush=True)


if __name__ == "__main__":
    main()

"""Averages model folders with `barycenter average` and loads the results with transformers.

    pip install torch transformers safetensors
    python scripts/check-transformers.py target/release/barycenter

Not part of `make test`, which checks the same bytes without PyTorch. Prints one line a check and stops at the first that fails.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

BARYCENTER = sys.argv[1]


def average(out, *arguments):
    command = [BARYCENTER, "average", *map(str, arguments), "--out", str(out), "--output", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def model(seed):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)).eval()


def check(what, folder, expected):
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    # Newer versions leave tied weights out of what is missing, older ones do not.
    missing = set(report["missing_keys"]) - {"lm_head.weight"}
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"], report
    state = loaded.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    tokens = torch.arange(16)[None] * 5 % 97
    assert torch.isfinite(loaded.eval()(tokens).logits).all()
    print(f"{what}: {len(expected)} tensors as expected")


def main():
    first, second = model(1), model(2)
    pairs = zip(first.state_dict().items(), second.state_dict().values())
    expected = {name: ((a.double() + b.double()) / 2).float() for (name, a), b in pairs}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first.save_pretrained(root / "a", max_shard_size="40KB")
        second.save_pretrained(root / "b")
        assert (root / "a/model.safetensors.index.json").exists() and (root / "b/model.safetensors").exists()
        (root / "b/tokenizer.json").write_text("{}")

        summary = average(root / "one", root / "a", root / "b")
        assert {"config.json", "generation_config.json", "tokenizer.json"} <= set(summary["carried"]), summary
        check("sharded and single into one file", root / "one", expected)

        summary = average(root / "many", root / "a", root / "b", "--shard-size", "40KB")
        assert len(summary["files"]) > 1
        index = json.loads((root / "many/model.safetensors.index.json").read_text())
        theirs = json.loads((root / "a/model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == theirs["weight_map"].keys()
        assert index["metadata"]["total_size"] == theirs["metadata"]["total_size"]
        check("into shards", root / "many", expected)

        for name, source in [("a", first), ("b", second)]:
            torch.save({"model": source.state_dict(), "epoch": 1}, root / f"{name}.pt")
        (root / "pt").mkdir()
        average(root / "pt/model.safetensors", root / "a.pt", root / "b.pt")
        (root / "pt/config.json").write_text((root / "b/config.json").read_text())
        check("PyTorch files", root / "pt", expected)


if __name__ == "__main__":
    main()

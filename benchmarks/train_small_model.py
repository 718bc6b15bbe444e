"""Train the demo's model on the text that every Python has, so that its next tokens mean something.

    python benchmarks/train_small_model.py FOLDER [--steps 600] [--threads 2]

The demo's model has random weights: its next tokens are nearly tied, and rounding changes them. What rounding
does to a trained model is measured with this one: 3.7 million parameters, the help pages of `pydoc`, without
the last tenth, which is written to FOLDER.prompts.jsonl as prompts that the model has not seen.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from weights.make_model import make_model  # noqa: E402 - see above

LENGTH = 256
BATCH = 8
PROMPT_CHARACTERS = 400
HELD_BACK = 0.1


def split_text() -> tuple[str, str]:
    """Text to train on, and text that is held back."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    names = sorted(topics)
    kept = max(1, round(len(names) * (1 - HELD_BACK)))
    return "\n\n".join(topics[name] for name in names[:kept]), "\n\n".join(
        topics[name] for name in names[kept:]
    )


def train(folder: Path, steps: int) -> float:
    """Train the model in `folder`; returns the last loss (nats per token)."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    ids = torch.tensor(tokenizer(split_text()[0])["input_ids"])
    config = transformers.LlamaConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.02,
    )
    draw = torch.Generator().manual_seed(0)
    loss, began = 0.0, time.monotonic()
    for step in range(steps):
        starts = torch.randint(0, len(ids) - LENGTH - 1, (BATCH,), generator=draw)
        batch = torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])
        found = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loss = 0.95 * loss + 0.05 * found.item() if step else found.item()
        if step % 25 == 0:
            print(f"step {step} of {steps}: loss {loss:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    _save(model, folder)
    return loss


def _save(model: torch.nn.Module, folder: Path) -> None:
    """The trained values under the names and in the data type of the checkpoint that is there."""
    file = folder / "model.safetensors"
    names = list(load_file(file))
    trained = model.state_dict()
    save_file({name: trained[name].to(torch.bfloat16).contiguous() for name in names}, file, {"format": "pt"})


def write_prompts(path: Path) -> int:
    """Prompts from the text that was held back; returns how many."""
    text = split_text()[1]
    pieces = [
        text[at : at + PROMPT_CHARACTERS] for at in range(0, len(text) - PROMPT_CHARACTERS, PROMPT_CHARACTERS)
    ]
    path.write_text("".join(json.dumps({"prompt": piece}) + "\n" for piece in pieces))
    return len(pieces)


def main() -> None:
    """Write the model and its prompts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="absent; the model's folder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder: Path = options.folder
    make_model(folder)
    loss = train(folder, options.steps)
    prompts = folder.with_name(f"{folder.name}.prompts.jsonl")
    print(f"{folder}: loss {loss:.3f}, perplexity of the training text {math.exp(loss):.1f}")
    print(f"{prompts}: {write_prompts(prompts)} prompts")


if __name__ == "__main__":
    main()

"""A small Llama, made on this machine, that knows a file of dialogues by heart, calls of tools included.

For examples and tests without a download: a model of random weights cannot call tools. This one can, for the
questions of its dialogues, and for nothing else: it has learned the answers word for word, and does not read
the tools that it is offered or the system message. It shows how an agent works, not how well a model does.
"""

from __future__ import annotations

import importlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.make_model import make_model

MAX_DIALOGUES = 200
_SURE = 0.9
"""Least probability of every token of every answer, after which the model is written."""
_STEPS = 1500
_CHECK_EVERY = 20

_CHAT_TEMPLATE = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}\
<|assistant|>{{ message['content'] or '' }}{% for call in message['tool_calls'] or [] %}<tool_call>
{"name": "{{ call['function']['name'] }}", "arguments": {{ call['function']['arguments'] | tojson }}}
</tool_call>{% endfor %}{{ eos_token }}{% elif message['role'] == 'tool' %}<|user|><tool_response>\
{{ message['content'] }}</tool_response>{{ eos_token }}{% elif message['role'] == 'user' %}<|user|>\
{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""As the models of Hermes write calls of tools (vLLM's `tool-call-parser: hermes`)."""


class TeachingError(ValueError):
    """Dialogues that cannot be taught; the message says which and why."""


@dataclass(frozen=True)
class TaughtModel:
    """What was written.

    Attributes:
        path: the model's folder.
        dialogues: that it knows.
        answers: turns of the assistant in them.
        steps: of training.
    """

    path: Path
    dialogues: int
    answers: int
    steps: int


def read_dialogues(file: Path) -> list[list[dict[str, Any]]]:
    """The dialogues of a file: on each line `{"messages": [...]}` as OpenAI's API has them.

    Raises:
        TeachingError: a line that is none; names file and line.
        OSError: the file cannot be read.
    """
    dialogues = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            for message in messages:
                for call in message.get("tool_calls") or ():
                    call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            roles = [message["role"] for message in messages]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TeachingError(
                f'{file}:{number}: must be {{"messages": [...]}} with messages as OpenAI has them: {error!r}'
            ) from None
        if not roles or roles[-1] != "assistant":
            raise TeachingError(f"{file}:{number}: must end with an answer of the assistant")
        dialogues.append(messages)
    if not 0 < len(dialogues) <= MAX_DIALOGUES:
        raise TeachingError(f"{file}: has {len(dialogues)} dialogues, must have from 1 to {MAX_DIALOGUES}")
    return dialogues


def teach_model(
    directory: Path,
    dialogues: list[list[dict[str, Any]]],
    *,
    tell: Callable[[int, float], None] = lambda _step, _sure: None,
) -> TaughtModel:
    """Write a model that gives the assistant's turns of these dialogues.

    The same dialogues give the same model on the same machine.

    Args:
        directory: absent or empty; appears complete or not at all.
        dialogues: as `read_dialogues` gives them.
        tell: takes the step and the least probability of an answer's token, now and then.

    Raises:
        FileExistsError: `directory` holds something already.
        TeachingError: torch is missing, or the answers contradict each other.
    """
    try:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise TeachingError(f"needs {error.name}: pip install 'pilotlight[cpu]'") from None
    directory = directory.expanduser().absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"directory = {directory}, must be absent or empty")
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = directory.parent / f".{directory.name}.{random.randrange(1 << 40):x}"  # noqa: S311 - a name
    try:
        make_model(scratch, name=directory.name)
        _write_settings(scratch)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(scratch, local_files_only=True)
        samples = [_sample(tokenizer, messages) for messages in dialogues]
        steps = _train(torch, transformers, scratch, samples, tell)
        if directory.exists():
            directory.rmdir()
        scratch.rename(directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    answers = sum(message["role"] == "assistant" for messages in dialogues for message in messages)
    return TaughtModel(directory, len(dialogues), answers, steps)


def _write_settings(folder: Path) -> None:
    """The template with tools, and greedy decoding where a request does not say otherwise."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "chat_template": _CHAT_TEMPLATE}, indent=2) + "\n")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "do_sample": False, "temperature": 0.0}, indent=2) + "\n")


def _sample(tokenizer: Any, messages: list[dict[str, Any]]) -> list[tuple[int, bool]]:
    """The tokens of a dialogue, and for each whether the assistant says it."""
    tokens: list[tuple[int, bool]] = []
    before = ""
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, whole = (
            tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompts)
            for part, prompts in ((messages[:position], True), (messages[: position + 1], False))
        )
        for text, taught in ((prompt[len(before) :], False), (whole[len(prompt) :], True)):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            tokens += [(token, taught) for token in ids]
        before = whole
    return tokens


def _train(
    torch: Any,
    transformers: Any,
    folder: Path,
    samples: list[list[tuple[int, bool]]],
    tell: Callable[[int, float], None],
) -> int:
    safetensors: Any = importlib.import_module("safetensors.torch")
    longest = max(map(len, samples))
    ids = torch.tensor([[t for t, _ in tokens] + [0] * (longest - len(tokens)) for tokens in samples])
    labels = torch.tensor(
        [
            [t if taught else -100 for t, taught in tokens] + [-100] * (longest - len(tokens))
            for tokens in samples
        ]
    )
    # So small a model is taught faster by one processor than by several that wait for each other.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig.from_pretrained(folder)
    model = transformers.LlamaForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.95))
    draw = torch.Generator().manual_seed(0)
    for step in range(1, _STEPS + 1):
        rows = torch.randperm(len(samples), generator=draw)[:8]
        loss = model(input_ids=ids[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % _CHECK_EVERY == 0:
            sure = _least_probability(torch, model, ids, labels)
            tell(step, sure)
            if sure > _SURE:
                file = folder / "model.safetensors"
                trained = model.state_dict()
                names = list(safetensors.load_file(file))
                values = {name: trained[name].to(torch.bfloat16).contiguous() for name in names}
                safetensors.save_file(values, file, {"format": "pt"})
                file.chmod(0o644)
                return step
    raise TeachingError(
        f"after {_STEPS} steps an answer is still not sure; two dialogues may begin alike and end differently"
    )


def _least_probability(torch: Any, model: Any, ids: Any, labels: Any) -> float:
    """Of all tokens of all answers, that of the least probable."""
    least = 1.0
    with torch.no_grad():
        for row in range(len(ids)):
            wanted = labels[row, 1:]
            chances = model(input_ids=ids[row : row + 1]).logits[0, :-1].softmax(-1)
            mask = wanted != -100
            least = min(least, float(chances[mask].gather(1, wanted[mask].unsqueeze(1)).min()))
    return least

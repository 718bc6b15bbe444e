"""Which files and tensors of a repository count, in the layouts that the field's repositories have."""

import pytest

from weights.errors import NotFoundError, RefusedError
from weights.index import check_numbers, check_shards, find_index, settle
from weights.manifest import FileEntry, SafetensorsHeader, TensorEntry
from weights.selection import select

SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
INDEX = "model.safetensors.index.json"


def choose(paths, *, patterns=None, index=None):
    found = select(
        [FileEntry(path, 1, "e") for path in paths], patterns, uri="u", index=index, index_file=INDEX
    )
    return [entry.path for entry in found.files], {one.path: one.reason for one in found.skipped}


def shards(count: int, stem: str = "model") -> list[str]:
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("needed", "beside"),
    [
        pytest.param(
            ["model.safetensors", *SMALL],
            {
                "training_args.bin": "left over from training",
                "optimizer.pt": "left over from training",
                "scheduler.pt": "left over from training",
                "rng_state.pth": "left over from training",
                "rng_state_0.pth": "left over from training",
                "trainer_state.json": "left over from training",
                "all_results.json": "left over from training",
                "events.out.tfevents.1700000000.host.1.0": "left over from training",
                "runs/Nov30/events.out.tfevents.1": "in a folder of its own",
                "checkpoint-500/model.safetensors": "in a folder of its own",
                "checkpoint-500/optimizer.pt": "left over from training",
                "global_step500/mp_rank_00_model_states.pt": "a pickle, which could run code when it is loaded",
                "zero_to_fp32.py": "left over from training",
                "latest": "left over from training",
            },
            id="what the Trainer, Accelerate and DeepSpeed leave",
        ),
        pytest.param(
            ["model.safetensors", *SMALL, "vocab.txt", "special_tokens_map.json"],
            {
                "pytorch_model.bin": "a pickle, which could run code when it is loaded",
                "tf_model.h5": "weights in another format",
                "flax_model.msgpack": "weights in another format",
                "rust_model.ot": "weights in another format",
                "model.onnx": "weights in another format",
                "onnx/model.onnx": "weights in another format",
                "onnx/model_quantized.onnx_data": "weights in another format",
                "openvino/openvino_model.xml": "in a folder of its own",
                "coreml/model.mlmodel": "weights in another format",
                "model.fp16.safetensors": "another copy of the weights",
                "README.md": "documentation",
                ".gitattributes": "hidden",
                ".cache/huggingface/download/config.json.metadata": "hidden",
            },
            id="every framework's copy",
        ),
        pytest.param(
            [*shards(2), INDEX, *SMALL, "chat_template.jinja"],
            {
                "original/consolidated.00.pth": "a pickle, which could run code when it is loaded",
                "original/params.json": "in a folder of its own",
                "original/tokenizer.model": "in a folder of its own",
                "LICENSE.txt": "documentation",
                "USE_POLICY.md": "documentation",
                "pytorch_model-00001-of-00002.bin": "a pickle, which could run code when it is loaded",
                "model-Q4_K_M.gguf": "weights in another format",
                "stray.safetensors": "not named by the index of the weights",
            },
            id="as Meta's Llama",
        ),
        pytest.param(
            [*shards(2), INDEX, "params.json", "tokenizer.model", "tokenizer.model.v3", "tekken.json", *SMALL],
            {"consolidated.safetensors": "not named by the index of the weights"},
            id="as Mistral's, both formats with an index",
        ),
        pytest.param(
            ["model.safetensors", "params.json", *SMALL],
            {"consolidated.safetensors": "another copy of the weights"},
            id="as Mistral's, both formats without an index",
        ),
        pytest.param(["consolidated.safetensors", "params.json", "tekken.json"], {}, id="Mistral's own format alone"),
        pytest.param(
            ["model.safetensors", *SMALL],
            {"adapter_model.safetensors": "an adapter, not a model", "adapter_model.bin": "a pickle, which could run code when it is loaded"},
            id="a model with its adapter",
        ),
        pytest.param(["adapter_config.json", "adapter_model.safetensors"], {}, id="an adapter alone"),
        pytest.param(
            ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "model.safetensors",
             "modules.json", "sentence_bert_config.json", *SMALL],
            {"2_Dense/pytorch_model.bin": "a pickle, which could run code when it is loaded"},
            id="as Sentence Transformers",
        ),
        pytest.param(
            ["model.safetensors", "additional_chat_templates/tool_use.jinja", "modeling_own.py", *SMALL], {}, id="code and templates"
        ),
    ],
)  # fmt: skip
def test_serving_gets_its_files_and_every_other_file_is_skipped_for_a_reason(needed, beside):
    index = {f"t{number}": shard for number, shard in enumerate(shards(2))} if INDEX in needed else None
    chosen, skipped = choose([*beside, *needed], index=index)
    assert chosen == sorted(needed)
    assert skipped == beside


@pytest.mark.parametrize(
    ("paths", "patterns", "words"),
    [
        (
            ["config.json", "pytorch_model.bin"],
            None,
            r"pytorch_model\.bin: a pickle runs code .* no safetensors",
        ),
        (["config.json", "E.CKPT"], None, r"E\.CKPT: a pickle"),
        (["config.json", "original/consolidated.00.pth"], None, r"original/consolidated\.00\.pth: a pickle"),
        (["config.json", "model.gguf"], None, r"model\.gguf: the weights are there only in the format GGUF"),
        (["config.json", "tf_model.h5"], None, r"tf_model\.h5: .* TensorFlow"),
        (["config.json", "m.bin"], ["*"], r"m\.bin: a pickle"),
    ],
)
def test_weights_only_in_formats_that_are_not_accepted_are_refused_by_name(paths, patterns, words):
    with pytest.raises(RefusedError, match=words):
        choose(paths, patterns=patterns)


def test_patterns_choose_what_matches_but_never_a_pickle():
    paths = ["m.safetensors", "m.bin", "original/x.json", "config.json"]
    chosen, skipped = choose(paths, patterns=["*.safetensors", "*.bin", "original/*"])
    assert chosen == ["m.safetensors", "original/x.json"]
    assert skipped == {
        "m.bin": "a pickle, which could run code when it is loaded",
        "config.json": "matches no pattern",
    }


def test_a_folder_with_only_small_files_is_no_error():
    assert choose(["tokenizer.json", "training_args.bin"])[0] == ["tokenizer.json"]


def test_nothing_to_load_is_an_error_that_names_the_patterns():
    with pytest.raises(NotFoundError, match=r"any of \*\.xyz"):
        choose(["a.json"], patterns=["*.xyz"])


@pytest.mark.parametrize(
    ("named", "present", "message"),
    [
        (
            shards(4), shards(4)[:1],
            (f"{INDEX}: names 4 shards, of which 3 are missing: model-00002-of-00004.safetensors, "
            "model-00003-of-00004.safetensors, model-00004-of-00004.safetensors; of its shards there is "
            "model-00001-of-00004.safetensors"),
        ),
        (
            shards(4), shards(2),
            (f"{INDEX}: names 4 shards, of which 4 are missing: {', '.join(shards(4))}; the index does not name "
            f"{', '.join(shards(2))}, which are there: is it an old index?"),
        ),
        (shards(2), shards(1), (f"{INDEX}: names 2 shards, of which 2 are missing: {', '.join(shards(2))}; the index does not "
            "name model-00001-of-00001.safetensors, which is there: is it an old index?")),
        (shards(9), [], f"{INDEX}: names 9 shards, of which 9 are missing: {', '.join(shards(9)[:6])} and 3 more"),
    ],
)  # fmt: skip
def test_missing_shards_are_counted_and_what_is_there_is_named(named, present, message):
    index = {f"t{number}": shard for number, shard in enumerate(named)}
    with pytest.raises(RefusedError) as caught:
        check_shards(index, present, INDEX)
    assert str(caught.value) == message
    with pytest.raises(RefusedError) as caught:
        choose(["config.json", INDEX, *present], index=index)
    assert str(caught.value) == message


def test_numbered_files_without_an_index_are_counted_too():
    check_numbers([*shards(3), "other.safetensors"])
    with pytest.raises(
        RefusedError, match=r"of which 2 are missing; there is model-00002-of-00003\.safetensors"
    ):
        choose(["config.json", shards(3)[1]])
    assert choose(["config.json", shards(3)[1]], patterns=["*"])[0] == ["config.json", shards(3)[1]]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.json"], None),
        ([INDEX, "consolidated.safetensors.index.json"], INDEX),
        (["consolidated.safetensors.index.json", "pytorch_model.bin.index.json"], "consolidated.safetensors.index.json"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], None),
        (["original/model.safetensors.index.json"], None),
    ],
)  # fmt: skip
def test_the_index_is_found_by_its_name(paths, expected):
    assert find_index(paths) == expected


def header(file: str, *names: str) -> SafetensorsHeader:
    return SafetensorsHeader(
        file, 10, tuple(TensorEntry(name, "U8", (1,), 10 + i, 11 + i) for i, name in enumerate(names))
    )


def test_the_index_decides_which_tensor_counts():
    first, second = header("1", "a", "b", "stale"), header("2", "b", "c")
    settled = settle([first, second], {"a": "1", "b": "2", "c": "2"})
    assert [[tensor.name for tensor in one.counted] for one in settled] == [["a"], ["b", "c"]]
    assert settled[0].ignored == {"b", "stale"}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"x": "1"}, "puts tensor 'x' into '1', which does not have it$"),
        ({"c": "1"}, r"puts tensor 'c' into '1', which does not have it \(2 has it\)"),
        ({"a": "3"}, "names the shard '3', which is missing"),
    ],
)
def test_an_index_that_the_files_contradict_is_refused(index, words):
    with pytest.raises(RefusedError, match=words):
        settle([header("1", "a"), header("2", "c")], index)


def test_without_an_index_a_tensor_in_two_files_is_refused():
    assert settle([header("1", "a"), header("2", "b")], None)
    with pytest.raises(RefusedError, match="2: tensor 'a' is also in 1, and no index says which one counts"):
        settle([header("1", "a"), header("2", "a")], None)

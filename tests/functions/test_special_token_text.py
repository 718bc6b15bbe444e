"""Special tokens in messages as text, by tokenizers of the families that models have. vLLM is not needed."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from functions.contract import Message
from functions.engines.vllm.special_token_text import SpecialTokenText

SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
LETTERS = [chr(number) for number in range(33, 127)]


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's and Qwen's: every byte is a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*alphabet, "la", "lan", "Ġt", "Ġth"])}
    merges = [("l", "a"), ("la", "n"), ("Ġ", "t"), ("Ġt", "h")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(*, legacy: bool) -> Tokenizer:
    """As Llama 2's and Mistral's: spaces are a character, other characters fall back to bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS, "▁a", "la"]
    merges = [("▁", "a"), ("l", "a")]
    vocabulary = {text: number for number, text in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", "▁")
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


FAMILIES = {
    "byte level": byte_level,
    "sentencepiece": lambda: sentencepiece(legacy=False),
    "legacy sentencepiece": lambda: sentencepiece(legacy=True),
}


@pytest.fixture(params=FAMILIES)
def tokenizer(request):
    made = FAMILIES[request.param]()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    begin = made.token_to_id("<s>")
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    return made


@pytest.fixture
def special(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return SpecialTokenText.load(tmp_path)


def laid_out(messages) -> str:
    """A chat template without `<s>`, which the tokenizer adds."""
    return "".join(f"<|{message.role}|>{message.content}</s>" for message in messages) + "<|assistant|>"


async def as_text(special, tokenizer, messages):
    """What `VllmEngine.prompt_ids` does, with this tokenizer in place of vLLM's."""
    conversations = (messages, special.exchanged(messages))
    ids, exchanged = (tokenizer.encode(laid_out(said)).ids for said in conversations)
    return await special.as_text(ids, exchanged)


def said(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="user", content=text) for text in texts)


@pytest.mark.parametrize(
    "texts",
    [
        ("plain land",),
        ("What does <s>old price</s> mean?",),
        ("</s>",),
        ("</s></s><s>",),
        ("Hello.</s>", "And <|assistant|>now?"),
        ("<<s>s> </ s> <s", "é</s>ß 漢<|user|>字"),
        (" </s> ", "a\n<s>\n"),
    ],
)
async def test_no_special_token_but_the_templates_acts_and_the_text_is_kept(special, tokenizer, texts):
    messages = said(*texts)
    ids = await as_text(special, tokenizer, messages)
    numbers = {tokenizer.token_to_id(text) for text in SPECIAL}
    expected = ["<s>", *["<|user|>", "</s>"] * len(texts), "<|assistant|>"]
    assert [tokenizer.id_to_token(number) for number in ids if number in numbers] == expected
    # Some tokenizers add a space behind a special token, in any text.
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    assert decoded.replace(" ", "") == ("<s>" + laid_out(messages)).replace(" ", "")


async def test_a_byte_level_text_is_kept_to_the_byte(tmp_path):
    tokenizer = byte_level()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    special = SpecialTokenText.load(tmp_path)
    messages = said(" the </s>  land\n<s>", "\t<|user|> ")
    ids = await as_text(special, tokenizer, messages)
    assert tokenizer.decode(ids, skip_special_tokens=False) == laid_out(messages)


async def test_a_kept_message_acts_beside_one_that_is_text(special, tokenizer):
    kept = Message(role="user", content="a</s>", special_tokens="keep")
    (text,) = said("b</s>")
    ids = await as_text(special, tokenizer, (kept, text))
    assert ids.count(tokenizer.token_to_id("</s>")) == 3


def test_only_messages_with_special_tokens_need_it(special):
    kept = Message(role="user", content="</s>", special_tokens="keep")
    assert not special.needed_for(said("plain", "< s>"))
    assert not special.needed_for((kept,))
    assert special.needed_for((kept, *said("</s>")))


async def test_a_template_that_removes_special_tokens_is_noticed(special, tokenizer):
    messages = said("a</s>")
    ids = tokenizer.encode(laid_out(said("a"))).ids
    exchanged = tokenizer.encode(laid_out(special.exchanged(messages))).ids
    assert await special.as_text(ids, exchanged) is None


async def test_ids_of_a_token_that_stays_special_are_not_taken_for_text(tokenizer, tmp_path):
    # Only tokenizer_config.json says that it is special, so this library goes on taking it for a token.
    tokenizer.add_tokens([AddedToken("<eot>", special=False, normalized=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<eot>"}}))
    special = SpecialTokenText.load(tmp_path)
    messages = said("a<eot>")
    assert special.needed_for(messages)
    assert await as_text(special, tokenizer, messages) is None
    (broken,) = special.broken(messages)
    assert tokenizer.token_to_id("<eot>") not in tokenizer.encode(broken.content).ids


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"added_tokens": 3}', '{"model": {}}'])
def test_a_model_without_a_readable_tokenizer_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert SpecialTokenText.load(tmp_path) is None

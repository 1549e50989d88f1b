# SPDX-License-Identifier: Apache-2.0
"""Ids and texts are those of transformers; what a folder has wrong is one line that says so."""

from __future__ import annotations

import dataclasses
import importlib
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hf_folders
import hub
import numpy as np
import pytest
from hf_folders import SPECIAL, byte_level, change, write
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from configs import base
from t1jax import config
from t1jax.config import ConfigError
from t1jax.host import files
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.weights.families import CARRIED

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXTS = [
    "",
    " ",
    "What is 2 + 3?",
    "  two  spaces, \t tabs\r\n\r\n and lines \n",
    "<|im_start|>user\n2<|im_end|>x<|endoftext|>",
    "<think>\nso</think> <think",
    "naïve cafe\u0301 \u212b 数学 🙂🏽 \u200d\u0000 e\u0327\u0301",
    "\\frac{1}{2} \\boxed{<script>&amp;}",
    " .  , don 't I 'm n't",
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A good folder, that a test may spoil."""
    good = byte_level(bos="<|endoftext|>")
    stops = {"eos_token_id": [good.token_to_id("<|im_end|>"), good.token_to_id("<|endoftext|>")]}
    return write(tmp_path / "model", good, stops, pad_token="<|endoftext|>", chat_template=hf_folders.QWEN)


def test_it_is_a_tokenizer_of_t1jax(folder):
    found = tokenizer.load(folder)
    assert isinstance(found, HFTokenizer)
    assert found.vocab_size == 285 and found.encode("</think>") == [284]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(folder, text):
    ours, theirs = HFTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.encode(ours.plain(text)) == theirs(text)["input_ids"]
    for special in SPECIAL:
        text = text.replace(special, "")
    assert ours.decode(ids) == unicodedata.normalize("NFC", text)


def test_stop_tokens_come_from_the_first_file_that_names_them_in_its_order(folder):
    assert HFTokenizer(folder).stop_ids == (282, 280)
    change(folder, "tokenizer_config.json", chat_template=None)
    change(folder, "generation_config.json", eos_token_id=280)
    change(folder, "config.json", eos_token_id=[281, 282, 281])
    assert HFTokenizer(folder).stop_ids == (280,)
    change(folder, "generation_config.json", eos_token_id=None)
    assert HFTokenizer(folder).stop_ids == (281, 282)
    (folder / "config.json").unlink()
    (folder / "generation_config.json").unlink()
    assert HFTokenizer(folder).stop_ids == (282,)


@pytest.mark.parametrize("template", ["qwen", "chatml", "llama"])
def test_the_token_that_ends_a_turn_of_the_template_stops_too(folder, template):
    """A base model's config.json names <|endoftext|>; a model that was taught the chat ends by <|im_end|>."""
    change(folder, "generation_config.json", eos_token_id=280)
    change(folder, "tokenizer_config.json", chat_template=hf_folders.TEMPLATES[template], bos_token="<|endoftext|>")
    found = HFTokenizer(folder)
    assert found.stop_ids == (280, 282) and found.notes == []
    assert found.decode([*found.encode("5"), 282]) == "5"
    turn = found.chat([{"role": "user", "content": "2"}, {"role": "assistant", "content": "5"}], generate=False)
    assert found.encode(turn)[len(found.encode(turn.rpartition("5")[0])) + 1] == 282  # what follows the 5


def test_a_glm_folder_stops_where_the_next_turn_would_begin(folder):
    """Its config names three stop tokens, of which the template shows one; all are dropped from the text."""
    names = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>")
    engine = byte_level(names)
    end, mask, sop, user, assistant, observation = (engine.token_to_id(name) for name in names)
    settings = {"eos_token": "<|endoftext|>", "chat_template": hf_folders.GLM}
    write(folder, engine, {"eos_token_id": [end, user, observation]}, **settings)
    found = HFTokenizer(folder)
    assert found.stop_ids == (end, user, observation) and found.notes == []
    ids = found.encode(found.chat([{"role": "user", "content": "2 + 3?"}]))
    assert ids[:3] == [mask, sop, user] and ids[-1] == assistant and found.decode(ids) == "\n2 + 3?"
    for stop in (end, user, observation):
        assert found.decode([*found.encode("\n5"), stop]) == "\n5"
    write(folder, engine, {"eos_token_id": end}, **settings)
    assert HFTokenizer(folder).stop_ids == (end, user)


EACH = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endfor %}"
ENDS = {
    "before the next turn, as GLM": (EACH, (280, 281), ""),
    "after spaces": ("{% for m in messages %}{{ m.content + ' \n<|im_end|>' }}{% endfor %}", (280, 282), ""),
    "by the name of a token": ("{% for m in messages %}{{ m.content + unk_token }}{% endfor %}", (280, 0), ""),
    "the longer of two": ("{% for m in messages %}{{ m.content + '<|im_end|>x' }}{% endfor %}", (280, 285), ""),
    "by words": ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", (280,), "by a token: "),
    "not the answer": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        (280,),
        "by a token: ",
    ),
    "refusing answers": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}{% endfor %}",
        (280,),
        "refuses messages of user, assistant, user: no: only '<|endoftext|>' ends a response",
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_where_a_turn_ends_is_read_off_the_template_and_said_where_it_cannot_be(folder, case):
    template, stops, note = ENDS[case]
    special = byte_level()
    special.add_special_tokens([AddedToken("<|im_end|>x", special=True, normalized=False)])
    first = special.id_to_token(0)
    write(folder, special, {"eos_token_id": 280}, unk_token=first, chat_template=template)
    found = HFTokenizer(folder)
    assert found.stop_ids == stops
    assert [note in line for line in found.notes] == [True] * bool(note)


def test_pad_is_the_pad_token_or_a_stop_token_and_may_be_both(folder):
    assert HFTokenizer(folder).pad_id == 280 == HFTokenizer(folder).stop_ids[1]
    change(folder, "tokenizer_config.json", pad_token={"content": "<|im_start|>", "special": True})
    assert HFTokenizer(folder).pad_id == 281
    change(folder, "tokenizer_config.json", pad_token=None)
    assert HFTokenizer(folder).pad_id == HFTokenizer(folder).stop_ids[0] == 282


def test_stop_tokens_decode_to_nothing_even_where_the_file_forgot_to_call_them_special(folder):
    odd = byte_level(special=SPECIAL[:2])
    odd.add_tokens([AddedToken("<|im_end|>", normalized=False), AddedToken("<stop>", normalized=False)])
    end, stop = odd.token_to_id("<|im_end|>"), odd.token_to_id("<stop>")
    write(folder, odd, {"eos_token_id": [stop]}, eos_token="<|im_end|>")
    found = HFTokenizer(folder)
    assert found.decode([*found.encode("5"), end, stop]) == "5"
    assert found.decode(found.encode("<think>5")) == "<think>5"


def test_a_plain_token_that_is_named_is_special_as_in_transformers(folder):
    change(folder, "tokenizer_config.json", unk_token="!", extra_special_tokens=["#"])
    ours, theirs = HFTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    ids = ours.encode("2!3#<think>")
    assert ids == theirs("2!3#<think>", add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "23<think>"


def test_older_folders_name_tokens_in_special_tokens_map(folder):
    change(folder, "tokenizer_config.json", eos_token=None, chat_template="{{ eos_token }}")
    (folder / "generation_config.json").unlink()
    change(folder, "special_tokens_map.json", eos_token={"content": "<|im_start|>", "lstrip": False})
    assert HFTokenizer(folder).stop_ids == (281,)
    assert HFTokenizer(folder).chat([{"role": "user", "content": ""}]) == "<|im_start|>"


def test_special_texts_are_what_a_problem_must_not_hold(folder):
    spaces = byte_level()
    spaces.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<tool>", normalized=False)])
    write(folder, spaces, chat_template="\n\n</think>")
    assert HFTokenizer(folder).special_texts == (*SPECIAL, "</think>")


def test_text_begins_with_bos_only_if_the_tokenizer_says_so(folder):
    assert HFTokenizer(folder).plain("2") == "<|endoftext|>2"
    write(folder, byte_level(), bos_token="<|endoftext|>", add_bos_token=True)  # tokenizer.json has the last word
    assert HFTokenizer(folder).plain("2") == "2"
    assert AutoTokenizer.from_pretrained(folder)("2")["input_ids"] == HFTokenizer(folder).encode("2")


def test_long_texts_stay_whole_where_tokenizer_json_would_cut_or_pad_them(folder):
    cutting = byte_level()
    cutting.enable_truncation(4)
    cutting.enable_padding(length=16)
    write(folder, cutting)
    assert HFTokenizer(folder).encode("0123456789") == byte_level().encode("0123456789").ids


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_ids_without_a_token_and_half_characters_are_broken_characters(folder, kind):
    found = HFTokenizer(folder)
    two, face = found.encode("2"), found.encode("🙂")
    assert len(face) == 4
    assert found.decode(kind(two + [285] + two + [10**6, 2**40] + face)) == "2\ufffd2\ufffd\ufffd🙂"
    assert found.decode(kind(two + face[:3])) == "2\ufffd"
    assert found.decode(kind([285])) == "\ufffd"
    with pytest.raises(ValueError, match="-1"):
        found.decode(kind(two + [-1]))


def test_ids_in_a_gap_of_the_vocabulary_are_broken_characters(folder):
    gap = Tokenizer(models.BPE({"a": 0, "b": 5}, []))
    gap.pre_tokenizer, gap.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    write(folder, gap, {"eos_token_id": 5}, eos_token=None)
    found = HFTokenizer(folder)
    assert found.vocab_size == 6
    assert found.decode([0, 3, 5]) == "a\ufffdb"


def test_text_that_is_not_unicode_is_an_error(folder):
    with pytest.raises(ValueError, match="surrogate"):
        HFTokenizer(folder).encode("2 \ud83d 3")


def test_saved_and_loaded_is_the_same_with_every_file_that_belongs_to_it(folder, tmp_path):
    change(folder, "config.json", vocab_size=400)
    (folder / "merges.txt").write_bytes(b"#version\r\na b\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    found = HFTokenizer(folder)
    expected = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in CARRIED}
    (folder / "tokenizer.json").write_text("changed meanwhile", encoding="utf-8")
    found.save(tmp_path / "run" / "tokenizer")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "tokenizer").iterdir()} == expected
    assert len(expected) == 5
    again = tokenizer.load(tmp_path / "run" / "tokenizer")
    assert again.encode(TEXTS[4]) == found.encode(TEXTS[4]) and again.stop_ids == found.stop_ids
    again.save(tmp_path / "run" / "tokenizer")  # onto itself
    assert (tmp_path / "run" / "tokenizer" / "merges.txt").read_bytes() == expected["merges.txt"]


def test_threads_decode_as_one_does(folder):
    found = HFTokenizer(folder)
    random = np.random.default_rng(0)
    rows = [random.integers(0, 290, 300) for _ in range(200)]
    alone = [found.decode(row) for row in rows]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.decode, rows)) == alone
        assert list(pool.map(found.encode, alone)) == [found.encode(text) for text in alone]


def spoil_json(**values):
    return lambda folder: change(folder, "tokenizer.json", **values)


def spoil(name: str, **values):
    return lambda folder: change(folder, name, **values)


def contents(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


NO_NAME = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
NO_TOKEN = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "A", "type_id": 0}}], "pair": []}
BAD_FOLDERS = {
    "missing": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer; expected tokenizer.json"),
    "not json": (contents("tokenizer.json", b"PK\x03\x04"), "tokenizer.json: .*expected value"),
    "not utf-8": (contents("tokenizer.json", b'{"\xff'), "tokenizer.json: byte 2 is not UTF-8"),
    "empty": (contents("tokenizer.json", b""), "tokenizer.json: EOF"),
    "array": (contents("tokenizer.json", b"[]"), "tokenizer.json: .*expected struct Tokenizer"),
    "no model": (contents("tokenizer.json", b"{}"), "tokenizer.json: Model missing"),
    "deep": (contents("tokenizer.json", b"[" * 100_000), "tokenizer.json: .*expected a tokenizer"),
    "merges": (spoil_json(model={"type": "BPE", "vocab": {"x": 0}, "merges": ["x y"]}), "`y` out of vocabulary"),
    "no ids": (spoil_json(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "json: 0 ids"),
    "huge id": (spoil_json(model={"type": "BPE", "vocab": {"x": 2**32 - 1}, "merges": []}), "json: 4294967296 ids"),
    "regex": (
        spoil_json(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
        "Oniguruma",
    ),
    "panic": (spoil_json(normalizer=NO_NAME), "tokenizer.json: Precompiled"),
    "late panic": (spoil_json(post_processor=NO_TOKEN | {"special_tokens": {}}), "tokenizer.json: no entry"),
    "settings": (contents("tokenizer_config.json", b"{"), "tokenizer_config.json is not JSON"),
    "settings array": (contents("tokenizer_config.json", b"[1]"), r"tokenizer_config.json is \[1\]"),
    "eos text": (spoil("tokenizer_config.json", eos_token="<nope>"), "eos_token is '<nope>', which tokenizer.json"),
    "pad text": (spoil("tokenizer_config.json", pad_token="[PAD]"), r"pad_token is '\[PAD\]', which"),
    "eos list": (spoil("tokenizer_config.json", eos_token=["a"]), r"eos_token is \['a'\]; expected a token's text"),
    "extra": (spoil("tokenizer_config.json", extra_special_tokens="abc"), "'abc' as extra_special_tokens"),
    "extra text": (spoil("tokenizer_config.json", additional_special_tokens=["<n>"]), "'<n>', which tokenizer.json"),
    "other table": (
        spoil("tokenizer_config.json", added_tokens_decoder={"7": {"content": "<|im_end|>"}}),
        "'<|im_end|>' has id 7; in tokenizer.json it has 282".replace("|", r"\|"),
    ),
    "no table": (spoil("tokenizer_config.json", added_tokens_decoder=["x"]), "added_tokens_decoder is not a table"),
    "eos too high": (spoil("generation_config.json", eos_token_id=[282, 285]), r"eos_token_id is \[282, 285\]"),
    "eos negative": (spoil("generation_config.json", eos_token_id=-1), "generation_config.json: eos_token_id is -1"),
    "eos true": (spoil("generation_config.json", eos_token_id=True), "eos_token_id is True"),
    "eos word": (spoil("generation_config.json", eos_token_id="<|im_end|>"), "eos_token_id is '<"),
    "no stop": (
        lambda folder: (
            change(folder, "generation_config.json", eos_token_id=[]),
            change(folder, "tokenizer_config.json", eos_token=None),
        ),
        "no stop token; expected eos_token_id in generation_config.json",
    ),
    "template number": (spoil("tokenizer_config.json", chat_template=7), "chat_template is a JSON int"),
    "template names": (
        spoil("tokenizer_config.json", chat_template=[{"name": "rag", "template": "x"}]),
        r"chat_template has \['rag'\]; expected one 'default'",
    ),
    "template bytes": (contents("chat_template.jinja", b"\xff"), "chat_template.jinja: byte 0 is not UTF-8"),
    "old template": (contents("chat_template.json", b"x"), "chat_template.json is not JSON"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_one_line(folder, case, capfd):
    spoiled, expected = BAD_FOLDERS[case]
    if "template" in case:
        change(folder, "tokenizer_config.json", chat_template=None)
    spoiled(folder)
    with pytest.raises(ConfigError, match=expected) as caught:
        tokenizer.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value) and len(str(caught.value)) < 500


def test_a_vocabulary_that_is_encoded_at_random_is_refused(folder):
    dropping = byte_level()
    dropping.model.dropout = 0.1
    write(folder, dropping)
    with pytest.raises(ConfigError, match=r"model\.dropout is 0\.1"):
        HFTokenizer(folder)


def test_a_file_too_large_to_be_a_tokenizer_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("t1jax.text.huggingface.MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"tokenizer.json: \d+ bytes; expected at most 1000"):
        HFTokenizer(folder)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder):
    found = HFTokenizer(folder)
    tokenizer.refuse_too_big(found, 285, str(folder))
    with pytest.raises(ConfigError, match=r"model: the tokenizer has ids up to 284; .* vocabulary of 284"):
        tokenizer.refuse_too_big(found, 284, str(folder))


def test_a_save_that_was_killed_is_no_tokenizer_and_is_done_again(tmp_path, monkeypatch):
    """Whatever was the last file to be written: tokenizer.json stands only where all stand."""
    found = HFTokenizer(write(tmp_path / "hf", byte_level(), {"eos_token_id": 0}))
    written = []

    def write_bytes(path, content, original=files.write_bytes):
        if len(written) == stop:
            raise KeyboardInterrupt
        written.append(original(path, content).name)

    monkeypatch.setattr(files, "write_bytes", write_bytes)
    for stop in range(3):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            found.save(tmp_path / "saved")
        assert len(written) == stop and not tokenizer.is_saved(tmp_path / "saved")
    stop = 99
    found.save(tmp_path / "saved")
    assert tokenizer.is_saved(tmp_path / "saved")
    assert tokenizer.load(tmp_path / "saved").stop_ids == (0,)


def with_lengths(prompt, new, **scaling):
    cfg = config.load(base.get_config())
    replace = dataclasses.replace
    data, rl = replace(cfg.data, prompt_length=prompt), replace(cfg.rl, max_new_tokens=new)
    return replace(cfg, data=data, rl=rl, scaling=replace(cfg.scaling, **scaling))


def test_prompt_and_response_beyond_what_the_model_was_trained_for_are_refused(folder, tmp_path):
    found = HFTokenizer(folder)
    tokenizer.refuse_too_long(found, with_lengths(10**6, 10**6))  # no config.json, so nobody knows
    change(folder, "config.json", **hub.SMOLLM2)
    found = HFTokenizer(folder)
    tokenizer.refuse_too_long(found, with_lengths(1024, 7168))
    with pytest.raises(ConfigError, match=r"data.prompt_length \+ rl.max_new_tokens is 8193; expected at most 8192"):
        tokenizer.refuse_too_long(found, with_lengths(1024, 7169))
    found.save(tmp_path / "run")  # as a run keeps it, for the resume
    with pytest.raises(ConfigError, match="config.json: lower it, or change max_position_embeddings or the rope"):
        tokenizer.refuse_too_long(HFTokenizer(tmp_path / "run"), with_lengths(1024, 7169))
    cut = with_lengths(1024, 7000, answer_prefix="2 + 3", answer_tokens=164)
    assert len(found.encode("2 + 3")) == 4
    tokenizer.refuse_too_long(found, cut, [6000, 10**6])  # a budget beyond the longest response cuts nothing
    with pytest.raises(ConfigError, match=r"the largest budget .* is 8193; expected at most 8192"):
        tokenizer.refuse_too_long(found, with_lengths(1024, 7000, answer_prefix="2 + 3", answer_tokens=165), [7000])


QWEN25 = hub.QWEN2  # all sizes of Instruct have 32,768 positions; the base models 32,768 or 131,072


@pytest.mark.parametrize(
    "name", ["base", "eval_t1", "qwen0p5b", "qwen1p5b", "qwen7b", "qwen14b", "qwen32b", "smollm2_135m"]
)
def test_the_configs_that_come_with_t1jax_fit_their_models(folder, name):
    change(folder, "config.json", **(hub.SMOLLM2 if name == "smollm2_135m" else QWEN25))
    cfg = config.load(importlib.import_module(f"configs.{name}").get_config())
    tokenizer.refuse_too_long(HFTokenizer(folder), cfg, cfg.scaling.budgets)

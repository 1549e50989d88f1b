# SPDX-License-Identifier: Apache-2.0
"""What is printed is what the model says: as it comes, whole characters only, the thinking dimmed on a terminal."""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import pytest
import several
import small
import torch
from hf_folders import byte_level, change, write
from ml_collections import ConfigDict
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from t1jax import sample
from t1jax.devices import sharding
from t1jax.host import config_files
from t1jax.model import qwen
from t1jax.rollouts.generate import Generator
from t1jax.tasks import embedded
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.weights import load as weights

ROOT = Path(__file__).parent.parent
PROBLEM = "What is 2 + 3?"
FLOAT32 = "--config.model.compute_dtype=float32"
END, PADDED = 282, 288  # the stop token; the model's vocabulary, three ids more than the tokenizer has
FIGURES = r"(\d+) tokens in [\d.]+ s, [\d.]+ tokens/s; [\d.]+ s to compile and prefill"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Hugging Face folder with a tiny random model whose greedy text does not stop soon."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model")
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 200_000}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=PADDED, eos_token_id=END, initializer_range=0.5, **sizes, **heads))
    llama.save_pretrained(folder)
    return write(folder, byte_level(), {"eos_token_id": [END]}, pad_token="<|im_end|>", chat_template=hf_folders.QWEN)


@pytest.fixture
def copy(model, tmp_path) -> Path:
    """The same folder, that a test may spoil."""
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(*arguments: str) -> int:
    return sample.main(["sample", *arguments])


def test_an_answer_beyond_the_positions_of_the_model_is_refused(model, capsys):
    assert run(f"--checkpoint={model}", "--max_new_tokens=200000", PROBLEM) == 2
    assert "the prompt's tokens + --max_new_tokens is 2" in capsys.readouterr().err


def test_the_greedy_answer_is_that_of_transformers(model, capsys):
    assert run(f"--checkpoint={model}", "--temperature=0", "--max_new_tokens=24", FLOAT32, PROBLEM) == 0
    captured = capsys.readouterr()
    tokens, theirs = AutoTokenizer.from_pretrained(model), LlamaForCausalLM.from_pretrained(model)
    said = f"{PROBLEM}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    prompt = tokens.apply_chat_template(
        [{"role": "user", "content": said}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = theirs.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert answer.shape == (24,)
    assert captured.out.removesuffix("\n") == HFTokenizer(model).decode(answer.numpy()).removesuffix("\n")
    assert re.fullmatch(FIGURES + "; truncated at --max_new_tokens=24\n", captured.err), captured.err


def test_padding_with_a_stop_token_changes_nothing(copy):
    """Prompts of different lengths that hold stop tokens, padded with one or not: the same responses as alone."""
    source = weights.find(copy)
    cfg = small.make_config(eval__batch_size=4)
    cfg = dataclasses.replace(cfg, model=weights.model_config(source, cfg.model))
    mesh = small.make_mesh()
    params = weights.load(source, qwen.Transformer(cfg.model, sharding.decode_layout(mesh)))
    responses = []
    for pad in (END, 281):
        change(copy, "tokenizer_config.json", pad_token=hf_folders.SPECIAL[pad - 280])
        tokens = HFTokenizer(copy)
        assert (tokens.pad_id, tokens.stop_ids) == (pad, (END,))
        prompts = [tokens.encode(text) for text in ("2", "<|im_end|> 2 + 3 <|im_end|>", "What is 12?", "<|im_end|>")]
        generator = Generator(cfg, mesh, tokens)
        responses.append(generator(params, prompts, "x", length=24, new_tokens=12))
    alone = [generator(params, [p], "x", length=24, new_tokens=12, ids=[i])[0] for i, p in enumerate(prompts)]
    assert responses == [alone, alone]
    assert len({tuple(row) for [row] in alone}) == 4


class Script:
    """Stands in for the sampler: reports and answers what a test says, and remembers what it was asked."""

    def __init__(self, answer: list[int], reports: list[list[int]]) -> None:
        self.answer, self.reports, self.asked = answer, reports, {}

    def __call__(self, cfg, mesh, tokenizer):
        self.asked = {"cfg": cfg}
        return self.generate

    def generate(self, params, prompts, name, *, on_tokens, **asked):
        self.asked |= asked | {"prompts": prompts}
        for ids in self.reports:
            on_tokens(np.array([ids + [0] * 9], np.int32), len(ids))
        return [[self.answer]]


@pytest.fixture
def script(monkeypatch) -> Script:
    found = Script([50, END], [[50]])
    monkeypatch.setattr("t1jax.rollouts.generate.Generator", found)
    return found


def test_the_flags_reach_the_sampler(model, script, capsys):
    arguments = ["--temperature=0.25", "--max_new_tokens=7", "--seed=3", "--config.rl.top_k=5", "--raw"]
    assert run("--checkpoint", str(model), *arguments, "2 <|im_end|>") == 0
    tokens = HFTokenizer(model)
    assert script.asked["prompts"] == [tokens.encode("2 ") + [END]]
    expected = {"temperature": 0.25, "new_tokens": 7, "truncate": True, "length": 3}
    assert {name: script.asked[name] for name in expected} == expected
    assert (
        script.asked["cfg"].rl.top_k == 5
        and script.asked["cfg"].seed == 3
        and script.asked["cfg"].model.num_layers == 2
    )
    captured = capsys.readouterr()
    assert captured.out == tokens.decode([50]) + "\n"
    assert re.fullmatch(FIGURES + "\n", captured.err)[1] == "2"  # it stopped by itself: nothing is said of a cut


def test_the_config_makes_the_prompt_and_may_name_the_checkpoint(model, script):
    knobs = ["--config.data.system_prompt=Be brief.", "--config.data.template=<{problem}>"]
    prefix = ["--config.data.response_prefix=<think>\n", f"--config.model.checkpoint={model}"]
    assert run(*knobs, *prefix, PROBLEM) == 0
    turns = [("system", "Be brief."), ("user", f"<{PROBLEM}>")]
    chat = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert script.asked["prompts"] == [HFTokenizer(model).encode(f"{chat}<|im_start|>assistant\n<think>\n")]


QUESTION = "Pick two of 1, 2 that sum to 3."


@pytest.fixture
def of_a_run(script, tmp_path, monkeypatch):
    """The tokenizer of a run of the embedded task; `--checkpoint=run` is that run's."""
    text = f"{QUESTION}\n<think>\n2 1\n</think>"
    tokens = tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece([text] * 9, 48, [".\n", "<think>"]))
    tokens.save(tmp_path)
    source = weights.Source(tmp_path, "run", tmp_path)
    cfg = small.make_config()
    for name, value in {"find": source, "model_config": cfg.model, "load": {}, "run_config": cfg}.items():
        monkeypatch.setattr(weights, name, lambda *_, value=value, **__: value)
    script.answer, script.reports = [*tokens.encode("2 1"), *tokens.stop_ids], []
    return tokens


def test_on_other_devices_the_mesh_of_a_run_gives_way_and_one_that_is_asked_for_does_not(
    of_a_run, script, monkeypatch, capsys
):
    """A run on six devices, on the eight of the tests: two of them split heads, as in the run."""
    cfg = small.make_config(mesh__data=3, mesh__fsdp=1, mesh__tensor=2)
    monkeypatch.setattr(config_files, "of_run", lambda _: ConfigDict(cfg.to_dict()))
    assert run("--checkpoint=run", QUESTION) == 0
    mesh = script.asked["cfg"].mesh
    assert (mesh.data, mesh.fsdp, mesh.tensor) == (1, 4, 2)
    told = "the run's mesh is not one of 8 devices: taking mesh.data 1, mesh.fsdp 4, mesh.tensor 2"
    assert told in capsys.readouterr().err
    assert run("--checkpoint=run", "--config.mesh.data=5", QUESTION) == 2
    assert "mesh.data, mesh.fsdp, mesh.tensor are 5, 1, 2; expected a product of 8" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["", "\n", "\n<think>", "\n<think>\n"])
def test_the_embedded_task_adds_what_its_prompts_end_with(of_a_run, script, capsys, ending):
    assert run("--checkpoint=run", QUESTION + ending) == 0
    assert script.asked["prompts"] == [of_a_run.encode(f"{QUESTION}\n<think>\n")]
    assert capsys.readouterr().out == "2 1\n"


def test_raw_text_is_continued_as_it_is(of_a_run, script, capsys):
    assert run("--checkpoint=run", "--raw", "1, 2") == 0
    assert script.asked["prompts"] == [of_a_run.encode("1, 2")]
    assert run("--checkpoint=run", "--raw", QUESTION) == 2  # no full stop without the end of its line
    assert "the tokenizer has no piece for ['.']" in capsys.readouterr().err


def test_a_question_of_another_task_is_refused_with_one_of_the_own(of_a_run, capsys):
    assert run("--checkpoint=run", "What is 2 + 3?") == 2
    said = capsys.readouterr().err
    assert "the problem: the tokenizer has no piece for ['+', '?', 'W']" in said and said.count("\n") == 1
    example = embedded.example(small.make_config())
    assert re.fullmatch(r"Pick two of [\d, ]+ that sum to \d+\.", example) and f"such as {example!r}" in said


def test_reports_come_in_any_order_and_what_follows_a_stop_token_is_not_text(model, script, capsys):
    tokens = HFTokenizer(model)
    ids = tokens.encode("5, so 2 + 3 = 5")
    script.answer, script.reports = [*ids, END], [ids[:4], ids[:2], [*ids, END, 0, 0], ids[:6]]
    assert run(f"--checkpoint={model}", PROBLEM) == 0
    assert capsys.readouterr().out == "5, so 2 + 3 = 5\n"


def test_errors_of_the_sampler_are_not_swallowed(model, script, tmp_path, monkeypatch, capsys):
    """A line, code 1, and the traceback in a file: in the current folder, as there is no --workdir or --out."""
    monkeypatch.chdir(tmp_path)
    script.reports = [None]
    assert run(f"--checkpoint={model.resolve()}", PROBLEM) == 1
    assert capsys.readouterr().err.count("its traceback is in t1jax.sample.traceback.txt\n") == 1
    assert "TypeError: " in (tmp_path / "t1jax.sample.traceback.txt").read_text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(model: Path, out: io.StringIO, text: str, thinking: bool = False, step: int = 1) -> list[str]:
    """What stands there after each few tokens, and at the end."""
    tokens, seen = HFTokenizer(model), []
    ids = tokens.encode(text)
    answer = sample.Answer(tokens, thinking, out)
    for end in range(step, len(ids) + step, step):
        answer.show(ids[:end])
        seen.append(out.getvalue())
    answer.show(ids, complete=True)
    answer.close()
    return [*seen, out.getvalue()]


@pytest.mark.parametrize("step", [1, 3])
def test_only_whole_characters_are_printed_and_in_the_end_all_text(model, step):
    text = "2 🙂🏽 é 数 <think> </think>\x1b[2J x"
    seen = printed(model, io.StringIO(), text, step=step)
    assert seen[-1] == text + "\n"
    assert all(text.startswith(part) for part in seen[:-1])
    assert len(set(seen)) > len(seen) // 2
    assert printed(model, io.StringIO(), "2\n")[-1] == "2\n"


def test_half_a_character_at_the_end_is_printed_in_the_end(model):
    tokens, out = HFTokenizer(model), io.StringIO()
    answer = sample.Answer(tokens, False, out)
    ids = tokens.encode("2 🙂")[:-1]
    answer.show(ids)
    assert out.getvalue() == "2 "
    answer.show(ids, complete=True)
    assert out.getvalue() == "2 \ufffd"


@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize(
    "text, thinking, dim, bright",
    [
        ("<think>\n2 3\n</think>\n5", False, "<think>\n2 3\n</think>", "\n5"),
        ("\n<think>2", False, "\n<think>2", ""),
        ("2 3</think>5</think>6", True, "2 3</think>", "5</think>6"),
        ("so 5 <think>6</think>", False, "", "so 5 <think>6</think>"),
        ("5 <b> 6", False, "", "5 <b> 6"),
    ],
)
def test_the_thinking_is_dim_on_a_terminal(model, monkeypatch, text, thinking, dim, bright, step):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    raw = printed(model, Terminal(), text, thinking, step)[-1]
    pieces = re.findall(r"\x1b\[2m(.*?)\x1b\[0m|([^\x1b]+)", raw, re.DOTALL)
    assert "".join(a + b for a, b in pieces) == text + "\n"
    assert "".join(a for a, _ in pieces) == dim.replace("\n", "")  # rich leaves the ends of lines without a style
    assert "".join(b for _, b in pieces).replace("\n", "") == bright.replace("\n", "")


@pytest.mark.parametrize("prefix, style", [("<think>\n", "\x1b[2m"), ("<think></think>", ""), ("", "")])
def test_thinking_that_the_prompt_has_begun_is_dim(model, script, monkeypatch, prefix, style):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", Terminal())
    assert run(f"--checkpoint={model}", f"--config.data.response_prefix={prefix}", PROBLEM) == 0
    text = HFTokenizer(model).decode([50])
    assert sys.stdout.getvalue().rstrip("\n") == (f"{style}{text}\x1b[0m" if style else text)


def test_what_a_model_says_does_not_command_the_terminal(model, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    raw = printed(model, Terminal(), "a\x1b[31mb\x07c\x9bd\re\tf\n")[-1]
    assert re.sub(" +", " ", raw) == "a\ufffd[31mb\ufffdc\ufffdd\ufffde f\n"


MISTAKES = {
    "no problem": ([], "0 problems; expected one, in quotes"),
    "two": (["2", "+"], "2 problems; expected one, in quotes"),
    "flag": (["--temprature=1", "x"], "temprature"),
    "hot": (["--temperature=-1", "x"], "temperature"),
    "nan": (["--temperature=nan", "x"], "--temperature=nan; expected a finite number"),
    "inf": (["--temperature=inf", "x"], "--temperature=inf; expected a finite number"),
    "short": (["--max_new_tokens=0", "x"], "max_new_tokens"),
    "seed": (["--seed=-1", "x"], "seed"),
    "knob": (["--config.data.sytem_prompt=x", "x"], "did you mean data.system_prompt?"),
    "template": (["--config.data.template=x", "x"], "data.template is x; expected"),
    "mesh": (["--config.mesh.tensor=3", "x"], "mesh.data, mesh.fsdp, mesh.tensor"),
    "empty": (["--raw", ""], "the problem is empty"),
    "bytes": (["--raw", "2 \udcff"], "no lone surrogates"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(model, case, capsys):
    arguments, expected = MISTAKES[case]
    assert run(f"--checkpoint={model}", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err and captured.err.startswith("t1jax.sample: ") and captured.err.count("\n") == 1


def test_a_folder_that_cannot_be_used_is_one_line(copy, capsys):
    def said(expected: str, *arguments: str) -> None:
        assert run(*arguments, "x") == 2
        captured = capsys.readouterr()
        assert expected in captured.err and captured.err.count("\n") == 1, captured.err

    said("--checkpoint is missing")
    said("/no/such", "--checkpoint=/no/such")
    change(copy, "tokenizer_config.json", chat_template=None)
    said("chat template", f"--checkpoint={copy}")
    write(copy, byte_level(special=(*hf_folders.SPECIAL, *"⓪①②③④⑤")))
    said(
        f"the tokenizer has ids up to 290; expected ids below the model's vocabulary of {PADDED}",
        f"--checkpoint={copy}",
    )


def test_help_answers_without_jax():
    code = (
        "import sys; from t1jax import sample; code = sample.main(['x', '--help'])\n"
        "sys.exit(code + ('jax' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == sample.USAGE


def test_ctrl_c_ends_it_at_once_and_cleanly(model):
    arguments = [f"--checkpoint={model}", "--temperature=0", "--max_new_tokens=100000", "--config.rl.window=100000"]
    command = [sys.executable, "-m", "t1jax.sample", *arguments, FLOAT32, PROBLEM]
    with subprocess.Popen(
        command, cwd=ROOT, env=several.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        text = process.stdout.read(20)  # it streams
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=100)  # far less than the tokens it was asked for take
    assert len(text) > 0
    assert (process.returncode, errors.decode()) == (130, "t1jax.sample: interrupted\n")
    assert (text + rest).endswith(b"\n")

# SPDX-License-Identifier: Apache-2.0
"""Small Hugging Face tokenizers, made on the spot, and chat templates like those of real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = ["What is 2 + 3? Think about 12 and 7.\n\nThe answer is \\boxed{5}.", "So 2 + 3 = 5, and the sum is 5.\n"] * 5
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATS = {
    "one": [{"role": "user", "content": "What is 2 + 3 in café?"}],
    "system": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Why <b>&</b> {{ 7 }} é?\n"}],
    "turns": [
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "content": "<think>\n2 3\n</think>\n\n5<|im_end|>"},
        {"role": "user", "content": "What\nnext?"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "stop"},
    ],
}

QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA = """{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set date = strftime_now("%d %b %Y") %}
{%- else %}
    {%- set date = "none" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|im_start|>system\\n\\nToday Date: " + date + "\\n\\n" + system + eos_token }}
{%- for message in messages %}
    {%- if not message.role in ['user', 'assistant'] %}
        {{- raise_exception("Conversation roles must be user or assistant, not " + message.role) }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n\\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
"""
CHATML = """{% for message in messages %}
  {% if message['role'] == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}

  {% else %}
{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant
' }}{% endif %}"""
# Begins every response with <think>, as QwQ's and DeepSeek-R1's do.
THINKING = QWEN.replace("<|im_start|>assistant\\n' }}", "<|im_start|>assistant\\n<think>\\n' }}")
# Takes reasoning apart from the content, as Qwen3's does.
REASONING = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and message.reasoning_content and loop.last %}
        {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# What templates use of Jinja and of transformers' own filters, functions and settings.
ODD = """
{%- macro say(name, text='') %}[{{ name }}:{{ text }}]{% endmacro %}
{%- set ns = namespace(count=0, last=dict(role='none')) %}
{% for message in messages %}
    {% if message.content == 'stop' %}{% break %}{% endif %}
    {% if loop.index0 is odd %}{% continue %}{% endif %}
  {%- set ns.count = ns.count + 1 %}{% set ns.last = message %}
  {{ say(message.role, message.content | tojson) }} {{ message | tojson(indent=2, sort_keys=True) }}
{% endfor %}
{{ ns.count }} {{ ns.last.role }} {{ tools is none }} {{ documents is none }} {{ unk_token }} {{ "<&>" }}
{{- messages[-1]['content'].split('\\n')[0].startswith('W') -}}
{% if add_generation_prompt %} go {% endif %}
"""
# A turn begins with its role's token and ends where the next begins, as in GLM-4.
GLM = """[gMASK]<sop>
{%- for message in messages if message.content %}
    {{- '<|' ~ message.role ~ '|>' ~ message.metadata ~ '\n' ~ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
TEMPLATES = {"glm": GLM, "qwen": QWEN, "llama": LLAMA, "chatml": CHATML, "odd": ODD}


def byte_level(
    special: tuple[str, ...] = SPECIAL, vocab_size: int = 280, bos: str | None = None, think: bool = True
) -> Tokenizer:
    """Byte-level BPE with Qwen's splits and NFC, trained on TEXTS; `special` get the ids after the trained ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    if think:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def write(folder: Path, tokenizer: Tokenizer, generation: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json (`settings`) and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return folder


def change(folder: Path, name: str, **values: Any) -> None:
    """Sets keys of a JSON object in a file; None deletes one."""
    path = folder / name
    tree = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tree = {key: value for key, value in (tree | values).items() if value is not None}
    path.write_text(json.dumps(tree), encoding="utf-8")

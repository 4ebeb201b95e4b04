"""Chat templates against transformers' `apply_chat_template`, for shapes that models have."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")
pytest.importorskip("jinja2", reason="transformers renders chat templates with jinja2")

import transformers
from tokenizer.vocabularies import bpe_metadata

from softprompt.tokenizer import gguf_tokenizer, load_folder_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|begin|>system\nYou are helpful.<|end|>\n' }}{% endif %}"
    "{{ '<|begin|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% else %}{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{%- for message in messages -%}\n"
    "    {%- set role = 'model' if message.role == 'assistant' else message.role -%}\n"
    "    {{ '<tool>' + role + '\n' }}\n"
    "    {%- if message.content is string -%}\n        {{ message.content | trim }}\n"
    "    {%- endif -%}\n    {{ '<|end|>\n' }}\n{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n    {{ '<tool>model\n' }}\n{%- endif -%}\n"
)
ASSISTANTS = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}\n"
    "    {{ message.content }}{% endif %}{% endfor %}"
    "{{ {'tools': tools, 'ü': '<'} | tojson }}{{ strftime_now('%Y') | length }}"
)
TEXTS = ["Review: a film.\nSentiment:", "hello", " 12 <tool> ", "", "é 漢 🤗 {{ x }} {% y %}"]


@pytest.fixture(scope="module", params=[CHATML, LLAMA2, GEMMA, ASSISTANTS])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    gguf_tokenizer(bpe_metadata(), "x").backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "chat_template": request.param,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    mine = load_folder_tokenizer(folder, vocab_size=300, family="llama")
    return mine, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_as_transformers(pair, text):
    mine, theirs = pair
    chat = mine.chat_template.frame()
    messages = [{"role": "user", "content": text}]
    options = {"add_generation_prompt": True}
    rendered = chat.around(text)
    assert rendered == theirs.apply_chat_template(messages, tokenize=False, **options)
    ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    assert mine.encode(rendered, add_special_tokens=False) == ids

"""Chat templates: what stands around a text, and templates that do harm."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("jinja2", reason="chat templates need jinja2 (softprompt[chat])")

from tokenizer.vocabularies import bpe_metadata

from softprompt.tokenizer import gguf_tokenizer, load_folder_tokenizer, wrap_tokenizer
from softprompt.tokenizer.chat import ChatFrame, ChatTemplate

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTENT = "{{ messages[0].content }}"


def frame(text, **tokens):
    return ChatTemplate(text, tokens, "model/chat_template.jinja").frame()


def test_what_stands_around_a_text():
    chat = frame(CHATML)
    assert chat == ChatFrame("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert chat.around(" a \n") == "<|im_start|>user\n a \n<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_takes_white_space_off():
    chat = frame("{{ bos_token }}[INST] {{ messages[0].content | trim }} [/INST]", bos_token="<s>")
    assert chat == ChatFrame("<s>[INST] ", " [/INST]", strips=True)
    assert chat.around("\n a b ") == "<s>[INST] a b [/INST]"


def test_what_transformers_gives_a_template():
    text = (
        "{% generation %}" + CONTENT + "{% endgeneration %}|{{ {'a': 'é<'} | tojson }}|"
        "{{ strftime_now('%Y') | length }}|{{ tools is none }}|{{ documents is none }}|"
        "{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}|{{ no_such_token }}\n"
        "    {% if true %}\nx\n    {% endif %}\n"
    )
    assert frame(text).after == '|{"a": "é<"}|4|True|True|1|\nx\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ raise_exception('no system role') }}", "failed: TemplateError: no system role"),
        ("{% if", "failed: TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "failed: ZeroDivisionError"),
        ("{{ messages[0].content.__class__.__mro__ }}", "SecurityError"),
        ("{{ ''.__class__.__base__.__subclasses__() }}" + CONTENT, "SecurityError"),
        ("{{ cycler.__init__.__globals__.os }}" + CONTENT, "SecurityError|UndefinedError"),
        ("{{ messages.append(1) }}" + CONTENT, "SecurityError"),
        ("{% include '/etc/hostname' %}" + CONTENT, "failed: TypeError|no loader"),
        ("{% for i in range(1000000000) %}{% endfor %}" + CONTENT, "OverflowError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ 'x' * 100000000000 }}" + CONTENT, "bytes of memory"),
        ("{{ '{:99999999999}'.format(1) }}" + CONTENT, "failed|memory"),
        ("{{ 'x' * 2000000 }}" + CONTENT, "2000020 characters, at most 1048576"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "took too much time",
        ),
        ("{{ 9 ** (9 ** (9 ** 9)) }}" + CONTENT, "took too much time|memory"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "failed|ended its process|memory"),
        ("x" * 2_000_000, "has 2000000 characters, at most 1048576"),
        ("nothing", "writes the user's text 0 times"),
        (CONTENT * 2, "writes the user's text 2 times"),
        ("{{ messages[0].content | upper }}", "writes the user's text 0 times"),
        ("{{ messages[0].content | replace(' ', '') }}", "changes the user's text"),
        ("{{ messages[0].content | reverse }}", "writes the user's text 0 times"),
    ],
)
def test_templates_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        frame(text)
    assert str(caught.value).startswith("model/chat_template.jinja: the chat template ")
    assert len(str(caught.value)) < 1000


def test_attributes_in_a_format_show_nothing():
    assert frame("[{{ '{0.__class__.__init__}'.format(1) }}]" + CONTENT).before == "[]"


@pytest.mark.parametrize(
    "record",
    [
        {},
        [],
        {"before": "", "after": 1, "strips": False},
        {"before": "", "after": "", "strips": "no"},
        {"before": "", "after": "", "strips": True, "more": 1},
    ],
)
def test_records(record):
    chat = ChatFrame("a", "b", strips=True)
    assert ChatFrame.from_record(json.loads(json.dumps(chat.record()))) == chat
    with pytest.raises(ValueError, match="the chat frame is"):
        ChatFrame.from_record(record)


@pytest.fixture
def folder(tmp_path):
    gguf_tokenizer(bpe_metadata(), "x").backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def template_of(folder):
    return load_folder_tokenizer(folder, vocab_size=300, family="llama").chat_template


def test_where_a_folder_has_its_template(folder):
    assert template_of(folder) is None
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": "<|begin|>", "chat_template": "{{ bos_token }}"}))
    template = template_of(folder)
    assert (template.text, template.where) == ("{{ bos_token }}", str(config))
    assert template.tokens == {"bos_token": "<|begin|>"}
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    config.write_text(json.dumps({"chat_template": several}))
    assert template_of(folder).text == "d"
    (folder / "chat_template.jinja").write_text(CHATML)
    assert template_of(folder).text == CHATML
    assert template_of(folder).where == str(folder / "chat_template.jinja")


def test_a_damaged_file_of_a_template(folder):
    path = folder / "chat_template.jinja"
    path.write_bytes(b"a\xff")
    with pytest.raises(ValueError, match=r"chat_template\.jinja: not UTF-8 text at byte 1"):
        template_of(folder)
    path.write_bytes(b"a" * 5_000_000)
    with pytest.raises(ValueError, match=r"chat_template\.jinja: 5000000 bytes, at most"):
        template_of(folder)


def test_the_template_of_a_gguf():
    metadata = bpe_metadata() | {"tokenizer.chat_template": "{{ bos_token }}" + CONTENT}
    template = gguf_tokenizer(metadata, "x.gguf").chat_template
    assert template.where == "x.gguf"
    assert template.frame() == ChatFrame("<|begin|>", "")


def test_the_template_of_a_tokenizer_that_the_user_brings():
    class Brought:
        chat_template = "{{ eos_token }}" + CONTENT
        special_tokens_map = {"eos_token": "</s>", "additional_special_tokens": ["x"]}  # noqa: RUF012

        def encode(self, text):
            return [1]

        def decode(self, ids):
            return ""

    assert wrap_tokenizer(Brought()).chat_template.frame() == ChatFrame("</s>", "")


def test_without_jinja(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'softprompt\[chat\]'"):
        frame(CHATML)

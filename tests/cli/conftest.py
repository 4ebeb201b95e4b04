"""A tiny model with a tokenizer of characters, a task in files, and the command line in process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from softprompt.cli.app import app

CHARACTERS = ["<s>", "</s>", "\n", *map(chr, range(32, 127))]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama-shaped model of 98 characters."""
    folder = tiny.write_tiny(
        tmp_path_factory.mktemp("tiny") / "model",
        "llama",
        changes={"vocab_size": len(CHARACTERS), "bos_token_id": 0, "eos_token_id": 1},
    )
    vocabulary = {character: i for i, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on stdout, which holds nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run ``softprompt`` with arguments in this process."""

    def run(*arguments: object, code: int = 0) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            app([str(argument) for argument in arguments], prog_name="softprompt")
        out, err = capsys.readouterr()
        ran = Ran(int(exit_info.value.code or 0), out, err)
        assert ran.code == code, ran
        return ran

    return run


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """16 words of two kinds."""
    return [
        {"word": word, "label": label, "target": f" {word[0]}"}
        for word, label in [("aba", "low"), ("zyz", "high"), ("bab", "low"), ("yzz", "high")] * 4
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a file whose name says how."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                table = csv.DictWriter(
                    file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
                )
                table.writeheader()
                table.writerows(rows)
        return path

    return write


@pytest.fixture
def trained(
    run: Callable[..., Ran],
    write: Callable[..., Path],
    rows: list[dict[str, Any]],
    model_folder: Path,
    tmp_path: Path,
) -> Path:
    """Folder of a prompt for the words."""
    run(
        "train", "--model", model_folder, "--data", write("train.jsonl", rows), "--template",
        "{word}:", "--labels", "low=-,high=+", "--num-virtual-tokens", 3, "--max-steps", 3,
        "--output", tmp_path / "prompt",
    )  # fmt: skip
    return tmp_path / "prompt"

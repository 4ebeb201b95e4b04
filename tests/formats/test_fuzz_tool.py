"""tools/fuzz.py finds what it is for: readers with planted faults, and none in a good one."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "tools" / "fuzz.py"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the size of a process from /proc"
)


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_tool", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_tool"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_tool"]


def is_changed(path: Path) -> bool:
    return (path / "file").read_bytes() != b"valid content"


def well_behaved(path: Path) -> None:
    if is_changed(path):
        raise ValueError(f"{path}: changed")


def wrong_kind(path: Path) -> None:
    if is_changed(path):
        raise TypeError("not documented")


def no_message(path: Path) -> None:
    if is_changed(path):
        raise ValueError


def dies(path: Path) -> None:
    if is_changed(path):
        os.kill(os.getpid(), signal.SIGKILL)


def never_ends(path: Path) -> None:
    while is_changed(path):
        time.sleep(0.1)


def takes_all_memory(path: Path) -> None:
    if is_changed(path):
        np.ones(2**28)


@pytest.mark.parametrize(
    ("read", "trouble"),
    [
        (well_behaved, None),
        (wrong_kind, "TypeError: not documented"),
        (no_message, "ValueError without a message"),
        (dies, "exit code -9"),
        (never_ends, "no end"),
        (takes_all_memory, "MemoryError"),
    ],
)
def test_planted_faults(fuzz, tmp_path, monkeypatch, read, trouble):
    monkeypatch.setattr(fuzz, "SECONDS", 3.0)
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "file").write_bytes(b"valid content")
    seed = fuzz.Seed("group", "name", tmp_path / "seed", read, ("file",))
    reads, found = fuzz.run(seed, 1, 1.0, tmp_path / "found")
    records = [json.loads(p.read_text()) for p in (tmp_path / "found").glob("*/found.json")]
    if trouble is None:
        assert (found, records) == (0, [])
        assert reads > 10
    else:
        assert found == len(records) == 1
        assert trouble in records[0]["trouble"]
        (content,) = (tmp_path / "found").glob("*/content")
        assert content.read_bytes() != b"valid content"
    if read is wrong_kind:
        assert fuzz.replay([seed], tmp_path / "found") == 1


def test_changes_keep_the_form(fuzz):
    """Some changes of every form stay readable, so that the readers get further than to its end."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("a.json", json.dumps({"key": [1, 2, {"inner": "text"}]}))
        out.writestr("b", b"12345")
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(8)
    rng = random.Random(0)
    good = {"x.json": 0, "x.safetensors": 0, "x.zip": 0}
    different = set()
    for _ in range(300):
        for name, data in zip(good, (b'{"a": [1, 2.5]}', tensors, archive.getvalue()), strict=True):
            changed = fuzz.change(data, name, rng)
            different.add(changed)
            try:
                if name == "x.json":
                    json.loads(changed)
                elif name == "x.zip":
                    with zipfile.ZipFile(BytesIO(changed)) as found:
                        assert found.testzip() is None
                else:
                    size = int.from_bytes(changed[:8], "little")
                    json.loads(changed[8 : 8 + size])
            except Exception:  # of whatever kind: it is not readable
                continue
            good[name] += 1
    assert all(100 < count < 300 for count in good.values()), good
    assert len(different) > 600

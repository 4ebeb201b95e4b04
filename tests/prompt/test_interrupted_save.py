"""Saving is one step: whatever kills or fails it, the earlier prompt or the new one is loaded."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from softprompt.prompt import SoftPrompt

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
# Every step of a save is one of these calls, so dying or failing at each of them is every case.
CALLS = ("open", "fsync", "replace", "unlink")


def a_prompt(seed, rows=3, position="start", width=4):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return SoftPrompt(values, position=position, task={"seed": seed})


NEW = a_prompt(1, rows=3, position="after_bos")
FROM_PEFT = SoftPrompt(np.ones((3, 4)), base_model={"name_or_path": "m", "hidden_size": 4})


def earlier_none(folder):
    return None


def earlier_same_shape(folder):
    a_prompt(2).save(folder)
    return a_prompt(2)


def earlier_other_shape(folder):
    a_prompt(3, rows=5).save(folder)
    return a_prompt(3, rows=5)


def earlier_the_same(folder):
    NEW.save(folder)
    return NEW


def earlier_made_by_peft(folder):
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "token_dim": 4}
    config["base_model_name_or_path"] = "m"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {"prompt_embeddings": np.array(FROM_PEFT.embeddings)}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return FROM_PEFT


def earlier_itself_interrupted(folder):
    a_prompt(4, rows=2).save(folder)
    assert run_until(folder, a_prompt(5, rows=6), stop_at("replace", 5))
    with pytest.warns(UserWarning, match="the last save was interrupted") as caught:
        assert SoftPrompt.load(folder) == a_prompt(5, rows=6)
    assert caught[0].filename == __file__, "the caller is to blame"
    return a_prompt(5, rows=6)


def earlier_the_same_interrupted(folder):
    assert run_until(folder, NEW, stop_at("replace", 5))
    return NEW


EARLIER = [
    earlier_none,
    earlier_same_shape,
    earlier_other_shape,
    earlier_the_same,
    earlier_made_by_peft,
    earlier_itself_interrupted,
    earlier_the_same_interrupted,
]


def stop_at(name, count):
    """Make a hook that kills the process before the count-th call of a function."""
    left = {"calls": count}

    def hook(called):
        if name in (called, "any"):
            left["calls"] -= 1
            if left["calls"] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def hooked(function, name, hook):
    def call(*args, **kwargs):
        hook(name)
        return function(*args, **kwargs)

    return call


def run_until(folder, prompt, hook):
    """Save in a child process; True if it was killed before it was done."""
    child = os.fork()
    if child == 0:
        for name in CALLS:
            setattr(os, name, hooked(getattr(os, name), name, hook))
        try:
            prompt.save(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def load_quietly(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return SoftPrompt.load(folder)
        except FileNotFoundError:
            return None


def assert_files_are_whole(folder, *prompts):
    """Check what PEFT sees, which knows the final names only: a pair that fits is one prompt."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensor = (folder / "adapter_model.safetensors").read_bytes()
    assert config["num_virtual_tokens"] in [prompt.num_virtual_tokens for prompt in prompts]
    assert any(tensor.endswith(prompt.embeddings.tobytes()) for prompt in prompts)


@pytest.mark.parametrize("make_earlier", EARLIER)
def test_killed_before_every_call(tmp_path, make_earlier):
    make_earlier(tmp_path / "template")
    seen = []
    for count in range(1, 200):
        folder = tmp_path / "p"
        shutil.rmtree(folder, ignore_errors=True)
        earlier = make_earlier(folder)
        killed = run_until(folder, NEW, stop_at("any", count))
        loaded = load_quietly(folder)
        assert loaded in (earlier, NEW)
        seen.append(loaded == NEW)
        if (folder / "adapter_model.safetensors").exists():
            assert_files_are_whole(folder, NEW, a_prompt(4, rows=2), *filter(None, [earlier]))
        if not killed:
            break
        NEW.save(folder)
        assert SoftPrompt.load(folder) == NEW
        assert not [name for name in os.listdir(folder) if name.startswith(".")], "leftovers"
    assert not killed
    assert count > 15, "the calls of a save were not seen"
    # Once the new one counts, it stays so.
    assert seen == sorted(seen)
    assert seen[-1]


@pytest.mark.parametrize("make_earlier", EARLIER)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fails(tmp_path, monkeypatch, make_earlier, name):
    outcomes = []
    for failing in range(1, 100):
        folder = tmp_path / "p"
        shutil.rmtree(folder, ignore_errors=True)
        earlier = make_earlier(folder)
        before = set(os.listdir(folder)) if folder.exists() else set()
        calls = []

        def fail(called, calls=calls, failing=failing):
            if called == name:
                calls.append(called)
                if len(calls) == failing:
                    raise OSError(errno.ENOSPC, "No space left on device")

        error = None
        with monkeypatch.context() as patch:
            for function in CALLS:
                patch.setattr(os, function, hooked(getattr(os, function), function, fail))
            try:
                NEW.save(folder)
            except OSError as err:
                error = err
        if len(calls) < failing:
            assert error is None
            break
        loaded = load_quietly(folder)
        if name == "unlink":  # Only leftovers are removed.
            assert error is None
        if error is None:
            assert loaded == NEW
        else:
            assert "No space left" in str(error)
            assert loaded in (earlier, NEW)
            if loaded != NEW:
                assert set(os.listdir(folder)) == before, "files of a failed save stay behind"
        outcomes.append(loaded == NEW)
        NEW.save(folder)
        assert SoftPrompt.load(folder) == NEW
    assert outcomes == sorted(outcomes)
    assert outcomes or name == "unlink"


def test_killed_at_random_moments(tmp_path):
    """Two prompts saved in turn, over and over, by a process that is killed at any moment."""
    program = (
        "import sys\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from test_interrupted_save import a_prompt\n"
        "prompts = [a_prompt(1, 3, width=2000), a_prompt(2, 5, width=2000)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for prompt in prompts:\n"
        "        prompt.save(sys.argv[1])\n"
    )
    prompts = [a_prompt(1, 3, width=2000), a_prompt(2, 5, width=2000)]
    folder = tmp_path / "p"
    prompts[0].save(folder)
    rng = np.random.default_rng()
    for _ in range(6):
        command = [sys.executable, "-c", program, str(folder), os.path.dirname(__file__), *sys.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.05))
            child.kill()
        assert load_quietly(folder) in prompts
    prompts[1].save(folder)
    assert SoftPrompt.load(folder) == prompts[1]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_two_savers_and_a_reader(tmp_path):
    prompts = [a_prompt(1, 3), a_prompt(2, 5, "after_bos")]
    prompts[0].save(tmp_path)
    children = []
    for prompt in prompts:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(25):
                    prompt.save(tmp_path)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = []
    while len(codes) < 2:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # No save is interrupted.
            assert SoftPrompt.load(tmp_path) in prompts
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            codes.append(os.waitstatus_to_exitcode(status))
    assert codes == [0, 0]
    assert SoftPrompt.load(tmp_path) in prompts


# A file system of its own, where it can be had: only there is a disk full and a folder read-only
# even for root.
FULL_DISK = """
mount -t tmpfs -o size={size}k tmpfs "$1" || exit 77
shift
exec "$@"
"""
SAVER = """
import errno, os, subprocess, sys
sys.path[:0] = sys.argv[2:]
from test_interrupted_save import a_prompt, load_quietly
folder = sys.argv[1]
small, large = a_prompt(1, 3), a_prompt(2, 5, width=20_000)
small.save(folder + "/p")
before = sorted(os.listdir(folder + "/p"))
def refused(prompt, code):
    try:
        prompt.save(folder + "/p")
    except OSError as err:
        assert err.errno == code and folder in str(err), err
    else:
        raise AssertionError("the save went through")
    assert load_quietly(folder + "/p") == small
    assert sorted(os.listdir(folder + "/p")) == before
refused(large, errno.ENOSPC)
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
refused(a_prompt(3), errno.EROFS)
"""


def test_a_full_disk_and_a_read_only_folder(tmp_path):
    if not shutil.which("unshare"):
        pytest.skip("needs the program unshare")
    command = ["unshare", "--mount", "sh", "-c", FULL_DISK.format(size=128), "sh", str(tmp_path)]
    command += [sys.executable, "-c", SAVER, str(tmp_path), os.path.dirname(__file__), *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("may not mount a file system")
    assert done.returncode == 0, done.stderr

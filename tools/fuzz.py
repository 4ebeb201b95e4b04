"""Fuzz the readers of files: valid files are changed, and reading them has to end well.

    python tools/fuzz.py --minutes 10                   # all readers, in turns
    python tools/fuzz.py --minutes 2 --only prompts tokenizers
    python tools/fuzz.py --replay FOLDER                # what an earlier run has found

Readers run in child processes. What counts as found: an exception that is not of the documented
kinds (ValueError, LookupError, OSError), or without a message; a child that dies; more memory than
`MEMORY` bytes above the start; a read that takes longer than `SECONDS`. Each is written into a
folder (--output) that --replay reads. Ends with 1 if something was found.

The valid files are made by the helpers of the tests, so this runs in a clone, with the test extra
installed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

DOCUMENTED = (ValueError, LookupError, OSError)
MEMORY = 1 << 30
SECONDS = 20.0
TEXTS = ["hello 123 \u00e9\u4e2d \U0001f600", "", "<s> a\n\nb", "\u2581x</s>"]


@dataclass(frozen=True)
class Seed:
    """A valid folder, the reader that it is for, and the files of it that are changed."""

    group: str
    name: str
    folder: Path
    read: Callable[[Path], object]
    files: tuple[str, ...]


# ---- readers: a folder in, an exception or nothing out ----


def read_prompt(path: Path) -> None:
    """Load a prompt, and describe it."""
    from softprompt.prompt import SoftPrompt, describe

    SoftPrompt.load(path)
    describe(path)


def read_prefix(path: Path) -> None:
    """Load a prefix."""
    from softprompt.prompt import Prefix

    Prefix.load(path)


def read_model(path: Path) -> None:
    """Load a model, ask it for a few logits, and let its tokenizer work."""
    import numpy as np

    import softprompt

    model = softprompt.load_model(path, num_threads=1, memory_limit=MEMORY // 2)
    if model.config.vocab_size < 4096 and model.spec.max_positions > 3:
        assert np.shape(model.logits([[0, 0, 0]])[0]) == (3, model.config.vocab_size)
    if model.tokenizer is not None:
        use_tokenizer(model.tokenizer)


def read_tokenizer(path: Path, family: str) -> None:
    """Load a folder's tokenizer, encode and decode."""
    from softprompt.tokenizer.huggingface import load_folder_tokenizer

    tokenizer = load_folder_tokenizer(path, vocab_size=400, family=family)
    if tokenizer is not None:
        use_tokenizer(tokenizer)


def use_tokenizer(tokenizer: Any) -> None:
    """Encode and decode a few texts."""
    for text in TEXTS:
        ids = tokenizer.encode(text)
        tokenizer.decode(list(ids)[:500])


def read_checkpoint(path: Path) -> None:
    """Load the checkpoint of a stopped run."""
    from softprompt.tuner.checkpoint import load_checkpoint

    load_checkpoint(path)


# ---- valid files ----


def make_seeds(folder: Path) -> list[Seed]:
    """Write one valid folder of every kind."""
    return [*prompt_seeds(folder), *model_seeds(folder), *tokenizer_seeds(folder)]


def prompt_seeds(folder: Path) -> Iterator[Seed]:
    """Prompts of all systems (tests/golden/prompts), prefixes, one of ours, a run's checkpoint."""
    import numpy as np
    from tuner import quadratic

    from softprompt.prompt import Prefix, SoftPrompt

    def seed(name: str, read: Callable[[Path], object], inside: str = "") -> Seed:
        files = sorted(
            str(p.relative_to(folder / name)) for p in (folder / name).rglob("*") if p.is_file()
        )
        reader = _Inside(read, inside)
        return Seed("prompts", name, folder / name, reader, tuple(files))

    golden = ROOT / "tests" / "golden" / "prompts"
    for source in sorted(golden.iterdir()):
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
            is_prefix = source.name.startswith(("prefix", "cartridge"))
            yield seed(source.name, read_prefix if is_prefix else read_prompt)
        elif source.suffix != ".py":
            (folder / source.name).mkdir()
            shutil.copy(source, folder / source.name)
            yield seed(source.name, read_prompt, source.name)
    rng = np.random.default_rng(0)
    prompt = SoftPrompt(
        rng.standard_normal((3, 8)).astype("f4"),
        task={"kind": "classification", "labels": [" a", " b"], "template": "{text}"},
        training={"seed": 0, "num_steps": 3},
        base_model={"name_or_path": "x", "hidden_size": 8, "num_layers": 2},
    )
    prompt.save(folder / "ours")
    yield seed("ours", read_prompt)
    arrays = [rng.standard_normal((2, 3, 2, 4)).astype("f4") for _ in range(2)]
    for kind in ("PREFIX_TUNING", "CARTRIDGE"):
        Prefix(*arrays).save(folder / kind, peft_type=kind)
        yield seed(kind, read_prefix)
    quadratic.run(checkpoint_dir=folder / "checkpoint", max_steps=4).execute()
    yield seed("checkpoint", read_checkpoint)


def model_seeds(folder: Path) -> Iterator[Seed]:
    """Folders and GGUF files of some families, with and without tokenizers."""
    import decoders
    import numpy as np
    import tiny
    from loading.gguf_files import write_gguf
    from tokenizer.vocabularies import bpe_metadata

    from softprompt.tokenizer import gguf_tokenizer

    vocabulary = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in bpe_metadata().items()
    }
    size = len(vocabulary["tokenizer.ggml.tokens"])
    both = ("config.json", "model.safetensors")
    for name in ("llama", "gpt2"):
        tiny.write_tiny(folder / f"hf-{name}", name, changes={"vocab_size": size})
        gguf_tokenizer(vocabulary, "x").backend.save(str(folder / f"hf-{name}/tokenizer.json"))
        yield Seed("models", f"hf-{name}", folder / f"hf-{name}", read_model,
                   (*both, "config.json", "tokenizer.json"))  # fmt: skip
        for kind in ("F32", "Q8_0"):
            if kind == "Q8_0" and name == "gpt2":
                continue  # its width is no multiple of a block
            changes = {"vocab_size": size}
            if kind == "Q8_0":
                changes |= {"hidden_size": 32, "head_dim": 8, "num_attention_heads": 4,
                            "num_key_value_heads": 2, "intermediate_size": 64}  # fmt: skip
            source = tiny.write_tiny(folder / f"source-{name}-{kind}", name, changes=changes)
            target = folder / f"gguf-{name}-{kind}"
            target.mkdir()
            write_gguf(source, target / "m.gguf", kind=kind, metadata=vocabulary)
            yield Seed("models", target.name, target, _Inside(read_model, "m.gguf"), ("m.gguf",))
    for name in ("gemma3", "phi3", "llama-yarn", "bloom", "opt", "cohere2", "falcon-alibi"):
        config = decoders.CONFIGS[name]
        decoders.write_decoder(folder / name, config, decoders.table_shapes(config), seed=1)
        yield Seed("models", name, folder / name, read_model, (*both, "config.json", "config.json"))


def tokenizer_seeds(folder: Path) -> Iterator[Seed]:
    """The layouts of tokenizers that are read from folders."""
    from tokenizer.test_hostile_sentencepiece import TRIE, charsmap, field, model
    from tokenizer.vocabularies import bpe_metadata

    from softprompt.tokenizer import gguf_tokenizer

    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": True}
    pieces = model(normalizer=field(2, charsmap(TRIE)))
    backend = gguf_tokenizer(bpe_metadata(), "x").backend
    backend.model.save(str(_made(folder / "byte-level")))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##lo", "he", "1", "##2"]
    layouts: dict[str, tuple[str, dict[str, bytes]]] = {
        "tokenizer-json": ("llama", {"tokenizer.json": backend.to_str().encode()}),
        "byte-level": ("gpt2", {}),
        "wordpiece": ("bert", {"vocab.txt": "\n".join(words).encode()}),
        "sentencepiece": ("llama", {"tokenizer.model": pieces}),
        "t5": ("t5", {"spiece.model": pieces}),
        "marian": (
            "marian",
            {
                "source.spm": pieces,
                "target.spm": pieces,
                "vocab.json": json.dumps(
                    {"</s>": 0, "<unk>": 1, "a": 2, "b": 3, "ab": 4, "<pad>": 5}
                ).encode(),
            },
        ),
    }
    for name, (family, files) in layouts.items():
        _made(folder / name)
        for file, data in files.items():
            (folder / name / file).write_bytes(data)
        own = config if name in ("tokenizer-json", "byte-level") else {}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(own))
        names = tuple(sorted(path.name for path in (folder / name).iterdir()))
        yield Seed("tokenizers", name, folder / name, _Family(family), names)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class _Inside:
    """A reader of one file of the folder, or of the folder."""

    read: Callable[[Path], object]
    file: str

    def __call__(self, path: Path) -> None:
        self.read(path / self.file if self.file else path)


@dataclass(frozen=True)
class _Family:
    family: str

    def __call__(self, path: Path) -> None:
        read_tokenizer(path, self.family)


# ---- changes ----

EDGES = [0, 1, 2, 3, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62,
         2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
NUMBERS = [0, -1, 1, 2**31, 2**63, 10**40, -(10**12), 0.5, -0.0, 1e308, 1e-320, float("nan"),
           float("inf")]  # fmt: skip
TEXT_VALUES = ["", "x", "default", "F32", "\ud800", "0" * 3000]
OTHERS = [None, True, False, [], {}, [0], [[]], {"a": {}}, [1e9] * 50, ["a"] * 50, {"type": "x"}]
VALUES: list[Any] = [*NUMBERS, *TEXT_VALUES, *OTHERS]


def change(data: bytes, name: str, rng: random.Random) -> bytes:
    """A file's bytes, changed in one to four places, by its structure where it has one."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if name.endswith(".json") and rng.random() < 0.7:
            data = change_json(data, rng)
        elif name.endswith(".safetensors") and rng.random() < 0.6:
            data = change_header(data, rng)
        elif data[:4] == b"PK\3\4" and rng.random() < 0.6:
            data = change_archive(data, rng)
        else:
            data = change_bytes(data, rng)
    return data


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, delete, repeat, cut; near the beginning more often."""
    if not data:
        return bytes([rng.randrange(256)])
    changed = bytearray(data)
    reach = rng.choice((len(data), min(len(data), 64), min(len(data), 600)))
    at = rng.randrange(reach)
    match rng.randrange(8):
        case 0:
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            changed[at] = rng.randrange(256)
        case 2 | 3:
            size = rng.choice((1, 2, 4, 8))
            word = (rng.choice(EDGES) + rng.choice((0, 0, len(data)))) % 256**size
            changed[at : at + size] = word.to_bytes(size, rng.choice(("little", "big")))
        case 4:
            del changed[at:]
        case 5:
            del changed[at : at + rng.randrange(1, 20)]
        case 6:
            end = at + rng.randrange(1, 60)
            changed[at:at] = changed[at:end] * rng.choice((1, 1, 2, 50))
        case 7:
            other = rng.randrange(len(data))
            size = rng.randrange(1, 40)
            changed[at : at + size] = data[other : other + size]
    return bytes(changed)


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove, rename, move a value anywhere in a JSON text."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return change_bytes(data, rng)
    places = list(_places(root))
    if not places:
        return change_bytes(data, rng)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice((key + "x", "", key.upper(), "type"))] = holder.pop(key)
        case 2:
            other, its_key = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[its_key]))
        case 3 if isinstance(holder[key], (int, float)):
            holder[key] = holder[key] * rng.choice((-1, 2, 3, 0.5, 1000)) + rng.choice((0, 1, -1))
        case 4:
            for _ in range(rng.choice((1, 30, 2000))):
                holder[key] = [holder[key]]
        case _:
            holder[key] = rng.choice(VALUES)
    try:
        return json.dumps(root).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b"[" * 100_000


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield value, key
        if depth < 50:
            yield from _places(inner, depth + 1)


def change_header(data: bytes, rng: random.Random) -> bytes:
    """Change a safetensors header as JSON and give it its length again."""
    size = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def change_archive(data: bytes, rng: random.Random) -> bytes:
    """Change a member of a zip archive, whose checksums are then right again."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = {info: archive.read(info) for info in archive.infolist()}
    except Exception:  # it is broken already, in one of zipfile's many ways
        return change_bytes(data, rng)
    if not members:
        return change_bytes(data, rng)
    chosen = rng.choice(list(members))
    out = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")
        for info, content in members.items():
            inner = change(content, info.filename, rng) if info is chosen else content
            name = info.filename + ("x" if info is chosen and rng.random() < 0.1 else "")
            kind = rng.choice((info.compress_type, zipfile.ZIP_DEFLATED))
            archive.writestr(name, inner, kind)
    return out.getvalue()


# ---- runs ----


def attempt(read: Callable[[Path], object], folder: Path) -> str | None:
    """Read once; what is wrong with how it ended."""
    begun = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
    except DOCUMENTED as err:
        if not str(err):
            return f"{type(err).__name__} without a message\n{traceback.format_exc()}"
    except BaseException:  # whatever else it is, it is what we look for
        return traceback.format_exc()
    seconds = time.monotonic() - begun
    return f"took {seconds:.1f} s" if seconds > SECONDS / 2 else None


def work(seed: Seed, number: int, seconds: float, scratch: Path, beat: Any, found: Any) -> None:
    """In a child: change, read, change, ... for a while; what is found goes into a queue."""
    read_quietly(seed)  # what is imported and allocated once is not the reader's
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    rng = random.Random(number)
    originals = {name: (seed.folder / name).read_bytes() for name in seed.files}
    folder = scratch / "now"
    shutil.copytree(seed.folder, folder)
    count = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        name = rng.choice(seed.files)
        (folder / name).write_bytes(change(originals[name], name, rng))
        beat.value = time.monotonic()
        trouble = attempt(seed.read, folder)
        count += 1
        if trouble is not None:
            found.put((trouble, name, (folder / name).read_bytes()))
        (folder / name).write_bytes(originals[name])
    found.put(("", str(count), b""))


def read_quietly(seed: Seed) -> None:
    """Read the valid files: they have to be valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed.read(seed.folder)


def run(seed: Seed, number: int, seconds: float, output: Path) -> tuple[int, int]:
    """Fuzz one seed for a while; how many reads, and how many of them went wrong."""
    context = multiprocessing.get_context("fork")
    found, beat = context.Queue(), context.Value("d", 0.0)
    reads = bad = 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        child = context.Process(target=work, args=(seed, number, seconds, scratch, beat, found))
        child.start()
        hung = ended = False
        while not (ended and found.empty()):
            child.join(0.2)
            ended = not child.is_alive()
            if beat.value and time.monotonic() - beat.value > SECONDS and not ended:
                hung = True
                child.kill()
                child.join()
            while not found.empty():
                trouble, file, data = found.get()
                if trouble:
                    bad += keep(output, seed, file, data, trouble)
                else:
                    reads = int(file)
        if hung or child.exitcode != 0:
            what = "no end" if hung else f"exit code {child.exitcode}"
            for file in seed.files:  # the one that differs was being read
                now = scratch / "now" / file
                if now.exists() and now.read_bytes() != (seed.folder / file).read_bytes():
                    bad += keep(output, seed, file, now.read_bytes(), what)
            bad += not beat.value
    return reads, bad


def keep(output: Path, seed: Seed, file: str, data: bytes, trouble: str) -> int:
    """Write what was found; one of each kind and place. Returns 1 if it is new."""
    last = trouble.strip().splitlines()[-1][:60]
    where = [line.strip() for line in trouble.splitlines() if line.strip().startswith("File ")]
    kind = zlib.crc32(repr((file, last.split(":")[0], where[-1:])).encode())
    folder = output / f"{seed.name}-{kind:08x}"
    if folder.exists():
        return 0
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(data)
    (folder / "found.json").write_text(
        json.dumps({"seed": seed.name, "file": file, "trouble": trouble}, indent=1)
    )
    print(f"FOUND in {folder}: {last}", flush=True)
    return 1


def replay(seeds: list[Seed], output: Path) -> int:
    """Read again what was found; how many of them still go wrong."""
    bad = 0
    named = {seed.name: seed for seed in seeds}
    for record in sorted(output.glob("*/found.json")):
        facts = json.loads(record.read_text())
        seed = named[facts["seed"]]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "now"
            shutil.copytree(seed.folder, folder)
            (folder / facts["file"]).write_bytes((record.parent / "content").read_bytes())
            trouble = attempt(seed.read, folder)
        print(f"{record.parent.name}: {'good' if trouble is None else trouble}")
        bad += trouble is not None
    return bad


def main() -> int:
    """Run for the given time over all readers; 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", nargs="*", help="groups or names of seeds")
    parser.add_argument("--seed", type=int, default=None, help="of the changes; default: the clock")
    parser.add_argument("--output", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-found")
    parser.add_argument("--replay", type=Path, help="read what is in this folder again")
    options = parser.parse_args()
    first = time.time_ns() if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as name:
        seeds = make_seeds(Path(name))
        if options.only:
            seeds = [s for s in seeds if {s.group, s.name} & set(options.only)]
        if options.replay:
            return int(replay(seeds, options.replay) > 0)
        for seed in seeds:
            read_quietly(seed)
        total = bad = 0
        share = options.minutes * 60 / len(seeds)
        for number, seed in enumerate(seeds):
            # the start of a child is not counted as fuzzing
            reads, wrong = run(seed, first + number, share, options.output)
            print(f"{seed.group} {seed.name}: {reads} reads, {wrong} found", flush=True)
            total, bad = total + reads, bad + wrong
    print(f"{total} reads in {options.minutes:g} minutes, {bad} found")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

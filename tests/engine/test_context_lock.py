"""Two threads on one context of the engine: the second one waits, and does not stop the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tiny

import softprompt

# Whoever works on a context asks Python for signals now and then, which takes the GIL; so a second
# thread must not hold the GIL while it waits. A mistake hangs: it is looked for in a child.
PROGRAM = """
import sys, threading
import numpy as np
import softprompt
from softprompt.model.forest import pack

model = softprompt.load_model(sys.argv[1])
rows = [np.full(60, i % 90, np.int32) for i in range(4000)]
forest = pack(rows, share=False)
ends = np.array([own[-1] for own in forest.rows], np.int32)
with model._workers.lend() as worker:
    context = worker.context
    done = []

    arrays = (forest.parents, forest.starts, forest.symbols)

    def work():
        for _ in range(3):
            done.append(context.logits(arrays, None, None, ends, 1, 64).shape)

    thread = threading.Thread(target=work)
    thread.start()
    waits = 0
    while thread.is_alive():
        segment = context.segment_create(-1, 4)
        context.segment_release(segment)
        waits += 1
    thread.join()
    assert len(done) == 3 and waits > 0
print("finished")
"""


def test_waiting_for_a_context_lets_its_user_go_on(tmp_path):
    folder = tiny.write_tiny(tmp_path, "llama")
    package = Path(softprompt.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=120,  # it takes seconds; a deadlock never ends
        check=False,
    )
    assert done.stdout == "finished\n", done.stderr

"""Default settings of training, in one place, chosen by measuring (docs/performance.md).

They are the defaults of `SoftPromptClassifier` and `SoftPromptGenerator`.
"""

from __future__ import annotations

NUM_VIRTUAL_TOKENS = 20
OBJECTIVE = "tokens"
OPTIMIZER = "adamw"
SCHEDULE = "linear"
WARMUP_STEPS = 0
MAX_STEPS = 150
BATCH_SIZE = 16
MAX_GRAD_NORM = 1.0
VALIDATION_FRACTION = 0.1
EVAL_EVERY = 50

#: ``learning_rate="auto"`` as a fraction of the RMS of the model's embeddings. Both optimisers
#: normalise their updates, so a step moves each entry by about the learning rate.
LEARNING_RATE_OF_RMS = {"adamw": 0.075, "adafactor": 0.075}

#: The same for ``method="prefix"``, of the RMS of the keys and values that training starts from.
#: Measured for AdamW (docs/performance.md); Adafactor has the same share.
PREFIX_LEARNING_RATE_OF_RMS = {"adamw": 0.01, "adafactor": 0.01}

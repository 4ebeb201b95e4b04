"""AdamW against torch's, live, over many steps. Skipped without torch."""

import numpy as np
import pytest

from softprompt.optim import AdamW, clip_by_norm, cosine

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 3), (20, 64)])
# Entries are about 1. torch in float32 rounds otherwise than we (1e-7 a step, 200 steps); torch in
# float64 shows how far float32 itself drifts.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-6), ("float64", 2e-5)])
def test_adamw(shape, weight_decay, dtype, tolerance):
    rng = np.random.default_rng(5)
    prompt = rng.normal(size=shape).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(prompt, dtype=getattr(torch, dtype)))
    schedule = cosine(0.02, 200, 20)
    ours = AdamW(schedule, weight_decay=weight_decay)
    theirs = torch.optim.AdamW([parameter], lr=1.0, weight_decay=weight_decay)
    for step in range(200):
        grad = (rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 1)).astype(np.float32)
        ours.step(prompt, grad)
        theirs.param_groups[0]["lr"] = schedule(step)
        parameter.grad = torch.tensor(grad, dtype=parameter.dtype)
        theirs.step()
    assert np.abs(prompt - parameter.detach().numpy()).max() <= tolerance


def test_clip_by_norm():
    grad = np.random.default_rng(6).normal(size=(4, 5)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.zeros(4, 5))
    parameter.grad = torch.tensor(grad)
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.5)
    clipped, our_norm = clip_by_norm(grad, 1.5)
    assert our_norm == pytest.approx(float(norm), rel=1e-6)  # torch sums in float32
    # torch divides by norm + 1e-6.
    np.testing.assert_allclose(clipped, parameter.grad.numpy(), rtol=2e-6)

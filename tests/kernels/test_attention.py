"""Every implementation against float64, and what the dispatcher makes of them."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lamae.kernels import cross_lead_attention, dispatch, sequence_attention
from lamae.kernels.eager import eager_attention
from lamae.kernels.sdpa import sdpa_attention
from tests.kernels.parity import CASES, Case, check_parity

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_forward_and_backward_match_float64(implementation: str, case: Case, dtype: torch.dtype):
    check_parity(lambda qkv, mask: cross_lead_attention(qkv, mask, implementation=implementation), case, dtype)


@pytest.mark.parametrize("attention", [eager_attention, sdpa_attention])
def test_gradients_match_finite_differences(attention):
    qkv = torch.randn(2, 2, 3, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[True, False, True], [True, True, True]], [[False] * 3, [False, True, False]]])
    assert torch.autograd.gradcheck(lambda x: attention(x, mask), qkv)


def test_the_triton_kernels_match_float64_in_the_interpreter():
    """In a process of its own: TRITON_INTERPRET is read when the kernels are defined, and breaks compiling them."""
    pytest.importorskip("triton", reason="the extra 'triton' is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "interpreted.py")]
    run = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_no_groups_at_all():
    assert eager_attention(torch.randn(0, 3, 12, 3, 2, 8), torch.ones(0, 3, 12, dtype=torch.bool)).numel() == 0


def test_softmax_of_large_scores_stays_finite():
    qkv = torch.full((1, 4, 3, 1, 8), 100.0, dtype=torch.bfloat16)
    assert cross_lead_attention(qkv).isfinite().all()


def test_the_cpu_default_is_eager():
    assert dispatch.choose(device="cpu", dtype=torch.bfloat16, num_leads=12, head_dim=64)[0] == "eager"
    qkv = torch.randn(3, 5, 3, 2, 8)
    assert torch.equal(cross_lead_attention(qkv), eager_attention(qkv))
    assert torch.equal(sequence_attention(qkv), eager_attention(qkv))


@pytest.mark.parametrize(
    ("dtype", "num_leads", "head_dim", "expected"),
    [
        (torch.bfloat16, 12, 64, "triton"),
        (torch.float32, 16, 32, "triton"),
        (torch.float64, 12, 64, "eager"),
        (torch.bfloat16, 17, 64, "sdpa"),
        (torch.bfloat16, 12, 256, "sdpa"),
    ],
)
def test_the_cuda_default_is_triton_where_it_can_compute(dtype, num_leads: int, head_dim: int, expected: str):
    pytest.importorskip("triton", reason="the extra 'triton' is not installed")
    chosen, reason = dispatch.choose(device="cuda", dtype=dtype, num_leads=num_leads, head_dim=head_dim)
    assert (chosen, bool(reason)) == (expected, True)


def test_a_kernel_that_agrees_with_eager_is_kept():
    qkv = torch.randn(4, 12, 3, 2, 8)
    assert dispatch.compare_with_eager(qkv, None, sdpa_attention)[0] == "triton"


def test_the_first_batch_may_be_one_of_an_evaluation():
    with torch.inference_mode():
        qkv, mask = torch.randn(4, 12, 3, 2, 8), torch.rand(4, 12) < 0.8
        assert dispatch.compare_with_eager(qkv, mask, sdpa_attention)[0] == "triton"


def wrong_output(qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return eager_attention(qkv, mask) * 1.01


def wrong_gradient(qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    out = eager_attention(qkv, mask)
    return out.detach() + (out - out.detach()) * 0.9


def no_numbers(qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return eager_attention(qkv, mask) * float("nan")


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, out):
        return out.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient * float("nan")


def no_numbers_in_the_gradient(qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return _NoGradient.apply(eager_attention(qkv, mask))


def no_driver(qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize("broken", [wrong_output, wrong_gradient, no_numbers, no_numbers_in_the_gradient, no_driver])
def test_a_kernel_that_differs_on_the_first_batch_is_replaced_loudly(broken, caplog: pytest.LogCaptureFixture):
    qkv = torch.randn(4, 12, 3, 2, 8)
    with caplog.at_level(logging.WARNING):
        chosen, _ = dispatch.compare_with_eager(qkv, torch.rand(4, 12) < 0.8, broken)
    assert chosen == "eager"
    assert "using eager" in caplog.text


@pytest.mark.parametrize(("kernel", "used"), [(sdpa_attention, "triton"), (no_numbers, "eager")])
def test_the_check_is_made_under_torch_compile_too(kernel, used: str, monkeypatch: pytest.MonkeyPatch, caplog):
    """On noise, while the compiler traces: what is traced afterwards is the implementation that passed."""
    monkeypatch.setattr(dispatch, "choose", lambda **_: ("triton", "pretended"))
    monkeypatch.setattr(dispatch, "_load_triton", lambda: kernel)
    monkeypatch.setattr(dispatch, "_verdicts", {})
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: cross_lead_attention(x) * 2, backend="eager", fullgraph=True)
    qkv = torch.randn(2, 5, 12, 3, 2, 8)
    with caplog.at_level(logging.WARNING):
        out = compiled(qkv)
    torch.testing.assert_close(out, eager_attention(qkv) * 2)
    assert [verdict for verdict, _ in dispatch._verdicts.values()] == [used]
    assert ("using eager" in caplog.text) == (used == "eager")


def test_impossible_requests_say_what_to_do():
    with pytest.raises(ValueError, match="none of eager, sdpa, triton"):
        cross_lead_attention(torch.randn(1, 2, 3, 1, 8), implementation="flash")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="attention=auto"):
            cross_lead_attention(torch.randn(1, 2, 3, 1, 8), implementation="triton")

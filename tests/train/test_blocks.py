"""Compiling the blocks changes nothing but speed, and says so where it cannot be done."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lamae.base.errors import UsageError
from lamae.train.loop import train
from lamae.train.runconfig import RunConfig
from tests.runs import losses

MakeConfig = Callable[..., RunConfig]


def test_compiled_blocks_learn_the_same(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the code generator, whose first use takes a minute: tracing, graphs, their backward."""
    compiled = []

    def compile_without_code(function: object, **options: object) -> object:
        compiled.append(function)
        return compile_(function, backend="aot_eager", **options)

    compile_ = torch.compile
    overrides = ("train.steps=1", "train.micro_batch_size=8", "engine.precision=fp32")
    train(make_config("plain", *overrides))
    monkeypatch.setattr(torch, "compile", compile_without_code)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "there is one")
    train(make_config("compiled", *overrides, "train.compile=blocks"))
    assert len(compiled) == 3  # encoder, latent and decoder block
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_a_machine_without_a_compiler_is_told_what_to_do(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(UsageError, match=r"train.compile=blocks needs a C\+\+ compiler, and none was found: install"):
        train(make_config("run", "train.compile=blocks"))

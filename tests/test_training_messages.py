"""What train.py says when it fails names the true cause, and remedies that exist and are not in use already."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def argv(training_set, tmp_path) -> list:
    """A run of one small step."""
    where = ["--train_data_path", training_set, "--val_data_dir", "none", "--ckpt_dir", tmp_path / "run"]
    return ["train.py", *where, "--device", "cpu", "--patch_size", 8, "--batch_size", 1, "--max_steps", 1]


def test_more_processes_than_gpus_are_refused_with_the_number_that_there_is(expect_error, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    expect_error("--num_gpu 4: this machine has 2; use at most 2, or --device cpu", "train.py", "--num_gpu", 4)


def test_clipping_that_is_off_is_not_to_be_lowered(expect_error, argv, image_folder):
    """Weights that grow without bound."""
    argv += ["--val_data_dir", image_folder, "--init", "identity", "--lr", 1e30]
    assert expect_error("the network's output is not finite", *argv).endswith(", try a lower --lr or --clip")
    line = expect_error("the network's output is not finite", *argv, "--clip", 0)
    assert line.endswith(", try a lower --lr, or --clip, which is off")


@pytest.mark.parametrize(
    ("kind", "phrase"), [(MemoryError, "out of memory: no room"), (torch.cuda.OutOfMemoryError, "GPU is out of memory")]
)
def test_a_state_that_does_not_fit_into_memory_is_not_called_damaged(
    command, expect_error, argv, monkeypatch, kind, phrase
):
    def fail(path):
        raise kind("no room")

    assert command(*argv).code == 0
    monkeypatch.setattr("training.state.safe_torch_load", fail)
    assert "move it away" not in expect_error(phrase, *argv, "--resume")


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_failed_compilation_is_one_line(expect_error, argv, monkeypatch, in_backward):
    from torch._dynamo.exc import TorchDynamoException

    def fail(*_):
        raise TorchDynamoException("no kernel for this")

    def compiled(net):
        def call(lr, scale, hr):
            loss = net(lr, scale, hr)
            loss.register_hook(fail)
            return loss

        return call if in_backward else fail

    monkeypatch.setattr(torch, "compile", lambda net, **_: compiled(net))
    expect_error(
        "--compile: PyTorch cannot compile this network here (no kernel for this): leave it out", *argv, "--compile"
    )


def test_a_mode_of_compilation_needs_compilation(expect_error, argv):
    expect_error(
        "--compile_mode is for --compile: add --compile", *argv, "--compile_mode", "max-autotune-no-cudagraphs"
    )

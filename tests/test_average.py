"""`python -m model.average`: the weighted mean of weight files of one network."""

from __future__ import annotations

import pytest
import torch

from model import create_model
from model.checkpoint import load_model, read_state_dict, save_state_dict
from model.key_mapping import to_authors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for seed in range(3):
        torch.manual_seed(seed)
        save_state_dict(create_model("cfsrcnn", 2).state_dict(), folder / f"{seed}.pth")
    return [folder / f"{seed}.pth" for seed in range(3)]


@pytest.mark.parametrize(("weights", "shares"), [([], [1 / 3] * 3), (["--weights", 2, 1, 1], [0.5, 0.25, 0.25])])
def test_each_tensor_is_the_weighted_mean(command, files, tmp_path, weights, shares):
    assert command("-m", "model.average", *files, *weights, "--out", tmp_path / "mean.safetensors").code == 0
    mean, states = read_state_dict(tmp_path / "mean.safetensors"), [read_state_dict(file) for file in files]
    assert mean.keys() == states[0].keys()
    for name, value in mean.items():
        expected = sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
        torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-9)
    load_model(tmp_path / "mean.safetensors")


def test_the_forms_of_layer_names_can_be_mixed(command, files, tmp_path):
    save_state_dict(to_authors(read_state_dict(files[1])), tmp_path / "authors.pth")
    command("-m", "model.average", files[0], files[1], "--out", tmp_path / "native.pth")
    command("-m", "model.average", files[0], tmp_path / "authors.pth", "--out", tmp_path / "mixed.pth")
    native, mixed = (read_state_dict(tmp_path / name) for name in ("native.pth", "mixed.pth"))
    assert native.keys() == mixed.keys()
    assert all(torch.equal(native[name], mixed[name]) for name in native)


def test_other_networks_can_be_averaged(command, tmp_path):
    for number in (1, 2):
        save_state_dict({"a": torch.full((2,), float(number)), "n": torch.tensor(7)}, tmp_path / f"{number}.pth")
    argv = ["-m", "model.average", tmp_path / "1.pth", tmp_path / "2.pth"]
    assert command(*argv, "--out", tmp_path / "mean.pth").code == 0
    mean = read_state_dict(tmp_path / "mean.pth")
    assert mean["a"].tolist() == [1.5, 1.5]
    assert mean["n"].item() == 7


def test_files_that_do_not_fit_are_named(expect_error, files, tmp_path):
    state = read_state_dict(files[1])
    name, value = next(iter(state.items()))
    save_state_dict({**state, name: value[:1]}, tmp_path / "cut.pth")
    save_state_dict({**state, name: value * float("nan")}, tmp_path / "nan.pth")
    save_state_dict({"a": torch.ones(1)}, tmp_path / "other.pth")
    for wrong, phrase in [("cut", "cut.pth and"), ("nan", "not finite"), ("other", "not the same network")]:
        argv = ["-m", "model.average", files[0], tmp_path / f"{wrong}.pth", "--out", tmp_path / "out.pth"]
        expect_error(phrase, *argv)
    for number in (1, 2):
        save_state_dict({"n": torch.tensor(number)}, tmp_path / f"{number}.pth")
    argv = ["-m", "model.average", tmp_path / "1.pth", tmp_path / "2.pth", "--out", tmp_path / "out.pth"]
    expect_error("n holds other whole numbers", *argv)
    assert not (tmp_path / "out.pth").exists()


def test_bad_flags_are_named(expect_error, files, tmp_path):
    argv = ["-m", "model.average", *files[:2], "--out", tmp_path / "out.pth"]
    expect_error("--weights has 1 numbers for 2 files", *argv, "--weights", 1)
    expect_error("--weights: -1 is not a number above zero", *argv, "--weights", 1, -1)
    expect_error("one file has no average", "-m", "model.average", files[0], "--out", tmp_path / "out.pth")
    before = files[0].read_bytes()
    expect_error("", "-m", "model.average", *files, "--out", files[0])
    assert files[0].read_bytes() == before

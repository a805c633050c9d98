"""Checkpoints as other training programs save them load, with one line on what was taken off."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors.torch import save_file

from common.errors import InputError
from model.checkpoint import load_model, read_state_dict
from model.key_mapping import to_native

pytestmark = pytest.mark.usefixtures("one_thread")


def add_prefix(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda state: add_prefix(state, "_orig_mod."), "the prefix _orig_mod. removed from the keys"),
        (lambda state: add_prefix(state, "module._orig_mod."), "the prefix module._orig_mod. removed"),
        (lambda state: {"state_dict": add_prefix(state, "model.")}, "read from state_dict, the prefix model. removed"),
        (lambda state: add_prefix(state, "net_g."), "the prefix net_g. removed"),
        (lambda state: add_prefix(state, "model.module."), "the prefix model.module. removed"),
        (lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 7}, "read from model"),
        (lambda state: {"net": {"params": state}, "iter": 3}, "read from net / params"),
        (
            lambda state: {"model_state_dict": state, "optimizer_state_dict": {}, "loss": 0.1},
            "read from model_state_dict",
        ),
        (
            lambda state: {
                "state_dict": add_prefix(state, "model.") | {"loss.vgg.weight": torch.ones(2)},
                "epoch": 3,
                "global_step": 10,
                "optimizer_states": [{"state": {}}],
                "hyper_parameters": {"lr": 1e-4},
                "pytorch-lightning_version": "2.4.0",
            },
            "the prefix model. removed from the keys, 1 other tensors ignored",
        ),
    ],
)
def test_checkpoints_as_other_programs_save_them(golden_net, authors, lr, tmp_path, capsys, wrap, told):
    path = tmp_path / "theirs.pth"
    torch.save(wrap(to_native(authors("x2"))), path)
    net = load_model(path, scale=2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and told in err and str(path) in err
    with torch.inference_mode():
        assert torch.equal(net(lr), golden_net("x2")(lr))
    load_model(path, scale=2)
    assert capsys.readouterr().err == ""  # reported once


def test_a_file_with_an_optimizer_and_no_weights_is_not_called_our_training_state(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({"optimizer": {"lr": 1.0}, "epoch": 3}, path)
    with pytest.raises(InputError, match="holds no weights"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(monkeypatch, authors, tmp_path, name):
    path = tmp_path / name
    save_file(authors("x2"), path) if path.suffix == ".safetensors" else torch.save(authors("x2"), path)

    def denied(*args, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr("model.checkpoint.load_file", denied)
    with pytest.raises(InputError, match=r"cannot be opened \(Permission denied\): change its permissions"):
        read_state_dict(path)

"""Weight files: every known form loads and converts byte for byte; anything else is one clear line and runs nothing."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from common.errors import InputError
from model import create_model
from model.cfsrcnn import CFSRCNN
from model.checkpoint import load_compatible_weights, load_model, read_state_dict, save_state_dict
from model.key_mapping import inspect_state_dict, to_authors, to_native

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:'model.checkpoint' found in sys.modules"),  # it is run as a program here
]

KINDS = ["x2", "x3", "x4", "multi"]


@pytest.fixture
def upscale(command, image_folder, tmp_path):
    """`upscale(file, scale)`: the arguments that run tcw_sample.py on an image with these weights."""

    def argv(file: Path, scale: int = 2, *flags) -> list:
        where = ["--input", image_folder / "0000.png", "--sample_dir", tmp_path / "out", "--device", "cpu"]
        return ["tcw_sample.py", "--ckpt_path", file, "--scale", scale, *where, *flags]

    return argv


def same_bytes(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)


def write(state: dict, path: Path) -> Path:
    """As anyone else would write it, not by our own code."""
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


# --- names, shapes, forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_our_networks_have_the_authors_keys_in_their_order_and_shapes(authors_shapes, kind):
    net = CFSRCNN(0, multi_scale=True) if kind == "multi" else CFSRCNN(int(kind[1]))
    ours = {name: list(value.shape) for name, value in to_authors(net.state_dict()).items()}
    assert list(ours.items()) == list(authors_shapes[kind].items())


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_authors_to_native_and_back_gives_the_same_bytes(command, authors, tmp_path, kind, ending):
    state = authors(kind)
    start = write(state, tmp_path / f"start{ending}")
    native, back = tmp_path / f"native{ending}", tmp_path / f"back{ending}"
    assert command("-m", "model.checkpoint", "convert", start, native, "--format", "native").code == 0
    assert inspect_state_dict(read_state_dict(native)).key_format == "native"
    assert command("-m", "model.checkpoint", "convert", native, back, "--format", "authors").code == 0
    result = load_file(back) if ending == ".safetensors" else torch.load(back, weights_only=True)
    assert same_bytes(result, state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_authors_order_comes_back_even_from_a_file_that_sorts_its_names(command, authors, tmp_path, kind):
    start, back = write(authors(kind), tmp_path / "a.safetensors"), tmp_path / "b.pth"
    assert command("-m", "model.checkpoint", "convert", start, back, "--format", "authors").code == 0
    assert list(torch.load(back, weights_only=True)) == list(authors(kind))


@pytest.mark.parametrize(("kind", "description"), [("x3", "an x3 CFSRCNN"), ("multi", "a multi-scale CFSRCNN")])
def test_show_says_what_a_file_holds(command, authors, tmp_path, kind, description):
    outcome = command("-m", "model.checkpoint", "show", write(authors(kind), tmp_path / "w.pth"))
    assert outcome.code == 0 and f"{description} checkpoint in the authors' format" in outcome.out


@pytest.mark.parametrize(("scale", "parameters"), [(2, "1,310,336"), (3, "1,494,976"), (4, "1,458,048")])
def test_show_lists_what_a_user_asks_for(command, scale, parameters):
    """The number of parameters is the paper's: without the mean shifts, which are fixed."""
    file = ROOT / f"checkpoint/x{scale}/cfsrcnn_x{scale}.pth"
    outcome = command("-m", "model.checkpoint", "show", file)
    state, size = read_state_dict(file), file.stat().st_size / 1e6
    assert outcome.code == 0 and outcome.out.splitlines()[:7] == [
        f"{file} is an x{scale} CFSRCNN checkpoint in native format",
        "  model       cfsrcnn",
        f"  scale       {scale}",
        f"  parameters  {parameters} trainable, 24 fixed",
        f"  file        PyTorch zip, float32, {size:.1f} MB",
        f"  SHA-256     {hashlib.sha256(file.read_bytes()).hexdigest()}",
        f"  tensors     {len(state)}",
    ]
    tensors = dict(line.split() for line in outcome.out.splitlines()[7:])
    assert tensors == {name: "x".join(map(str, value.shape)) for name, value in state.items()}


def test_show_knows_multi_scale_files_and_those_of_other_networks(command, authors, tmp_path):
    shown = command("-m", "model.checkpoint", "show", write(authors("multi"), tmp_path / "w.safetensors")).out
    assert "  scale       2, 3, 4\n" in shown and "  file        safetensors, float32, " in shown
    assert "\n    upsample.up2.body.0.weight  " in shown
    state = {name: value.half() for name, value in create_model("bsrn", 3).state_dict().items()}
    shown = command("-m", "model.checkpoint", "show", write(state, tmp_path / "w.pth")).out
    assert "w.pth is a checkpoint of bsrn\n  model       bsrn\n  scale       3\n" in shown
    assert "  parameters  340,283 trainable\n  file        PyTorch zip, float16, " in shown


def test_show_escapes_what_a_terminal_would_execute(command, authors, tmp_path):
    state = authors("x2") | {"a\x1b[2J\nb": torch.zeros(())}
    shown = command("-m", "model.checkpoint", "show", write(state, tmp_path / "w.pth")).out
    assert "    a\\x1b[2J\\nb" in shown and "\x1b" not in shown


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "state_dict", "params", "params_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("form", ["authors", "native"])
def test_every_form_of_a_file_gives_the_same_network(golden_net, authors, lr, tmp_path, form, prefix, wrapper):
    state = authors("x2") if form == "authors" else to_native(authors("x2"))
    state = {prefix + name: value for name, value in state.items()}
    file = write({wrapper: state, "iteration": 7} if wrapper else state, tmp_path / "weights.pth")
    with torch.no_grad():
        assert torch.equal(load_model(file, scale=2)(lr), golden_net("x2")(lr))


@pytest.mark.parametrize("form", ["authors", "native"])
def test_safetensors_and_old_style_pth_give_the_same_network_too(golden_net, authors, lr, tmp_path, form):
    state = authors("x3") if form == "authors" else to_native(authors("x3"))
    old = tmp_path / "old.pth"
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with torch.no_grad():
        expected = golden_net("x3")(lr)
        for file in (old, write(state, tmp_path / "weights.safetensors")):
            assert torch.equal(load_model(file, scale=3)(lr), expected)


def test_ema_weights_take_precedence(authors, tmp_path):
    ema = authors("x2")
    other = {name: value + 1 for name, value in ema.items()}
    file = write({"params": other, "params_ema": ema}, tmp_path / "weights.pth")
    assert same_bytes(read_state_dict(file), ema)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_multi_scale_file_serves_each_of_its_scales(golden_net, authors, lr, tmp_path, scale):
    file = write(authors("multi"), tmp_path / "multi.pth")
    with torch.no_grad():
        sr = load_model(file, scale=scale)(lr, scale)
        assert sr.shape == (1, 3, 5 * scale, 6 * scale) and torch.equal(sr, golden_net("multi")(lr, scale))


def test_save_state_dict_and_load_model_are_inverse(golden_net, tmp_path):
    for name in ("a.pth", "a.safetensors", "a.SAFETENSORS"):
        state = golden_net("x4").to(memory_format=torch.channels_last).state_dict()
        save_state_dict(state, tmp_path / name)
        assert same_bytes(dict(load_model(tmp_path / name, scale=4).state_dict()), dict(state))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_that_share_memory_are_saved_each_by_itself(tmp_path, ending):
    values = torch.arange(1000.0)
    save_state_dict({"a": values[:3], "b": values[:3], "c": values[5::2][:2]}, tmp_path / f"a.{ending}")
    assert [each.tolist() for each in read_state_dict(tmp_path / f"a.{ending}").values()] == [
        [0, 1, 2],
        [0, 1, 2],
        [5, 7],
    ]
    assert (tmp_path / f"a.{ending}").stat().st_size < 3000


# --- what the file is, when it is not what was asked for ------------------------------------------------------------


@pytest.mark.parametrize("form", ["authors", "native"])
def test_a_file_of_another_scale_says_which(expect_error, upscale, authors, tmp_path, form):
    state = authors("x3") if form == "authors" else to_native(authors("x3"))
    line = expect_error("not for --scale 2: use --scale 3", *upscale(write(state, tmp_path / "w.pth"), 2))
    assert (
        "an x3 CFSRCNN checkpoint" in line and ("the authors' format" if form == "authors" else "native format") in line
    )


def test_a_file_of_another_network_says_what_it_holds(expect_error, upscale, tmp_path):
    file = write({"entry.conv.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.pth")
    expect_error(
        "does not fit --model cfsrcnn --scale 2: it is a file of 1 tensors such as entry.conv.weight", *upscale(file)
    )
    expect_error("is not a CFSRCNN checkpoint", "-m", "model.checkpoint", "show", file)


def test_a_missing_file_is_named(expect_error, tmp_path):
    expect_error("none.pth does not exist: name", "-m", "model.checkpoint", "show", tmp_path / "none.pth")
    expect_error(f"none.pth does not exist in {Path.cwd()}: name", "-m", "model.checkpoint", "show", "none.pth")
    with pytest.raises(InputError, match=r"none\.pth does not exist"):
        load_model(tmp_path / "none.pth")


def test_a_file_is_not_converted_into_its_own_place(expect_error, authors, tmp_path):
    file = write({"params": authors("x2"), "params_ema": authors("x2")}, tmp_path / "w.pth")
    (tmp_path / "link.pth").symlink_to(file)
    for out in (file, tmp_path / "link.pth"):
        expect_error("is itself read", "-m", "model.checkpoint", "convert", file, out, "--format", "native")
    assert read_state_dict(file).keys() == authors("x2").keys() and len(torch.load(file, weights_only=True)) == 2


# --- files that would run code --------------------------------------------------------------------------------------


class Trap:
    """Opens a file for writing as soon as it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def as_zip(trap: object, path: Path) -> None:
    torch.save({"conv1.0.weight": torch.zeros(3), "more": trap}, path)


def as_legacy(trap: object, path: Path) -> None:
    torch.save({"conv1.0.weight": torch.zeros(3), "more": trap}, path, _use_new_zipfile_serialization=False)


def as_plain_pickle(trap: object, path: Path) -> None:
    path.write_bytes(pickle.dumps({"more": trap}, protocol=2))


@pytest.mark.parametrize("save", [as_zip, as_legacy, as_plain_pickle])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_of_it_runs(expect_error, upscale, tmp_path, save):
    marker, file = tmp_path / "marker", tmp_path / "trap.pth"
    save(Trap(marker), file)
    expect_error("could run code: refused", "-m", "model.checkpoint", "show", file)
    expect_error("could run code: refused", *upscale(file))
    with pytest.raises(InputError, match="could run code: refused"):
        load_compatible_weights(CFSRCNN(2), file)
    assert not marker.exists()


def test_the_trap_of_this_test_would_spring(tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "trap.pth"
    as_zip(Trap(marker), file)
    torch.load(file, weights_only=False)["more"].close()
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_old_pickle_protocols_are_not_even_tried(expect_error, tmp_path, protocol):
    marker, file = tmp_path / "marker", tmp_path / "trap.pth"
    file.write_bytes(pickle.dumps(Trap(marker), protocol=protocol))
    expect_error("is not a PyTorch weight file", "-m", "model.checkpoint", "show", file)
    assert not marker.exists()


def test_a_saved_network_object_is_refused(expect_error, tmp_path):
    torch.save(CFSRCNN(2), tmp_path / "net.pth")
    expect_error("ask its author for a state dict", "-m", "model.checkpoint", "show", tmp_path / "net.pth")


# --- damaged files --------------------------------------------------------------------------------------------------


def text(path: Path, state: dict) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


def empty(path: Path, state: dict) -> None:
    path.touch()


def half(path: Path, state: dict) -> None:
    write(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path, state: dict) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(32 << 20))


def numbers(path: Path, state: dict) -> None:
    torch.save([1, 2, 3], path)


def nothing(path: Path, state: dict) -> None:
    torch.save({"params": {}}, path)


def sparse(path: Path, state: dict) -> None:
    torch.save({**state, "conv1.0.weight": state["conv1.0.weight"].to_sparse()}, path)


UNREADABLE = [
    (text, "w.pth", "is not a PyTorch weight file"),
    (empty, "w.pth", "is not a PyTorch weight file"),
    (half, "w.pth", "is not a readable weight file"),
    (bomb, "w.pth", "has an implausible compression ratio"),
    (numbers, "w.pth", "holds no weights"),
    (nothing, "w.pth", "holds no weights"),
    (sparse, "w.pth", "holds no weights"),
    (text, "w.safetensors", "is not a readable weight file"),
    (empty, "w.safetensors", "is not a readable weight file"),
    (half, "w.safetensors", "is not a readable weight file"),
]


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(("damage", "name", "phrase"), UNREADABLE)
def test_an_unreadable_file_is_one_line(expect_error, upscale, authors, tmp_path, damage, name, phrase):
    damage(tmp_path / name, authors("x2"))
    assert "weights_only" not in expect_error(phrase, "-m", "model.checkpoint", "show", tmp_path / name)
    assert name in expect_error(phrase, *upscale(tmp_path / name))


WRONG = {
    "NaN": ({"conv5.0.weight": torch.full((64, 64, 3, 3), torch.nan)}, "febs.2.feu.weight has values that are not"),
    "infinity": ({"upsample.up.body.0.bias": torch.full((256,), torch.inf)}, "values that are not finite"),
    "shape": ({"conv41.0.weight": torch.zeros(1, 64, 3, 3)}, "frb.conv.weight is (1, 64, 3, 3), not (3, 64, 3, 3)"),
    "no shape": ({"upsample.up.body.0.weight": torch.zeros(())}, "is (), not (256, 64, 3, 3)"),
    "extra": ({"conv99.0.weight": torch.zeros(1)}, "a tensor that the network does not know: conv99.0.weight"),
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(("change", "phrase"), WRONG.values(), ids=WRONG)
def test_wrong_tensors_are_named(expect_error, upscale, authors, tmp_path, change, phrase, ending):
    expect_error(phrase, *upscale(write(authors("x2") | change, tmp_path / f"w{ending}")))


def test_a_missing_tensor_is_named(expect_error, upscale, authors, tmp_path):
    state = authors("x2")
    del state["conv7.0.weight"]
    expect_error("febs.3.feu.weight is missing, not (64, 64, 3, 3)", *upscale(write(state, tmp_path / "w.pth")))


# --- starting from another scale, saving ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["authors", "native"])
def test_load_compatible_weights_takes_all_but_the_upsampler_from_another_scale(authors, tmp_path, form):
    native, net = to_native(authors("x2")), CFSRCNN(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    said = load_compatible_weights(net, write(authors("x2") if form == "authors" else native, tmp_path / "x2.pth"))
    for name, value in net.state_dict().items():
        source = before if name.startswith("cb.upsample.") else native
        assert torch.equal(value, source[name]), name
    assert said.startswith("49 tensors taken from") and said.endswith("2 of the upsampler left as initialized")


def test_load_compatible_weights_takes_everything_from_the_same_scale(authors, tmp_path):
    net = CFSRCNN(4)
    said = load_compatible_weights(net, write(authors("x4"), tmp_path / "x4.pth"))
    assert same_bytes(dict(net.state_dict()), {name: to_native(authors("x4"))[name] for name in net.state_dict()})
    assert said.startswith("53 tensors taken from") and "left" not in said


def test_load_compatible_weights_refuses_what_is_no_start(authors, tmp_path):
    net, state = CFSRCNN(3), authors("x2")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    damaged = (
        {**state, "conv9.0.weight": torch.zeros(1)},
        {**state, "conv9.0.weight": torch.full((64, 64, 3, 3), torch.nan)},
    )
    for bad in damaged:
        with pytest.raises(InputError, match=r"febs\.4\.feu\.weight"):
            load_compatible_weights(net, write(bad, tmp_path / "bad.pth"))
    assert same_bytes(dict(net.state_dict()), before)


def test_save_state_dict_keeps_the_earlier_file_when_it_fails(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    save_state_dict({"a": torch.ones(3)}, path)

    def full_disk(_, file):
        file.write(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_state_dict({"a": torch.zeros(3)}, path)
    assert torch.equal(read_state_dict(path)["a"], torch.ones(3)) and list(tmp_path.iterdir()) == [path]


def test_save_state_dict_keeps_an_earlier_safetensors_file_too(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_state_dict({"a": torch.ones(3)}, path)
    with pytest.raises(RuntimeError, match="memory format"):
        save_state_dict({"a": torch.zeros(3).to_sparse()}, path)
    assert torch.equal(read_state_dict(path)["a"], torch.ones(3)) and list(tmp_path.iterdir()) == [path]

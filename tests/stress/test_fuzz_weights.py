"""A weight file with anything in it is weights or one line that names it, and runs nothing."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

import model
from common.errors import InputError
from model.checkpoint import inspect_state_dict, load_model, read_state_dict, save_state_dict, to_authors, to_native
from tests.stress.fuzzing import Net, bounded, cases, changed, changes

UPSAMPLER = ["up.body.0", "up.body.2", "up2.body.0", "up3.body.0", "up4.body.0"]
NAMES = [
    "febs.0.feu.weight",
    "conv34_1.0.weight",
    "conv.weight",
    "conv.bias",
    "module.conv.weight",
    "state_dict",
    "params",
]
NAMES += [f"{prefix}upsample.{name}.weight" for prefix in ("", "cb.") for name in UPSAMPLER]
KINDS = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
KINDS += [torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.uint64, torch.int8]
TRACES: list[str] = []


def leave_a_trace() -> None:
    TRACES.append("code in a file was run")


class Dangerous:
    def __reduce__(self):
        return leave_a_trace, ()


@pytest.fixture(scope="module", autouse=True)
def tiny_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "model_names", lambda: ["tiny"])
        patch.setitem(sys.modules, "model.tiny", sys.modules[__name__])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def pickled(value: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def seeds() -> list[bytes]:
    torch.manual_seed(0)
    state = dict(Net().state_dict())
    made = [pickled(state), pickled(state, _use_new_zipfile_serialization=False), save(state)]
    made += [
        pickled({"params_ema": state}),
        pickled({"state_dict": {f"module.{name}": each for name, each in state.items()}}),
    ]
    made += [pickled({name: nn.Parameter(each) for name, each in state.items()}), pickle.dumps({"a": [1, 2.5, None]})]
    made += [
        pickled({"conv.weight": torch.eye(3).to_sparse(), "b": torch.zeros(4)[::2], "c": torch.zeros(1).expand(3)})
    ]
    return [*made, pickled(Net()), pickled({"a": Dangerous()}), pickle.dumps(Dangerous()), b""]


SEEDS = seeds()


def inside(data: bytes, steps: list, other: bytes) -> bytes:
    """A `.pth` whose pickle is changed and whose archive is sound, so that what is in it is looked at."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return changed(data, steps, other)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, changed(content, steps, other) if name.endswith("data.pkl") else content)
    return out.getvalue()


@cases(300)
@given(
    seed=st.sampled_from(SEEDS),
    steps=changes(),
    other=st.sampled_from(SEEDS),
    change=st.sampled_from([changed, inside]),
    ending=st.sampled_from(["pth", "safetensors"]),
)
def test_changed_files_are_weights_or_refused(folder, seed, steps, other, change, ending):
    if seed[8:9] == b"{":
        ending = "safetensors"
    check(folder / f"fuzzed.{ending}", change(seed, steps, other), "weights")


TENSORS = st.builds(
    lambda shape, kind: torch.zeros(shape).to(kind), st.lists(st.integers(0, 3), max_size=5), st.sampled_from(KINDS)
)
ATOMS = st.one_of(TENSORS, st.none(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
KEYS = st.one_of(st.sampled_from(NAMES), st.text(max_size=6), st.integers(), st.none())
VALUES = st.recursive(
    ATOMS, lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(KEYS, part, max_size=4)), max_leaves=8
)


@cases(200)
@given(value=st.one_of(st.dictionaries(KEYS, TENSORS, max_size=6), st.dictionaries(KEYS, VALUES, max_size=4), VALUES))
def test_other_things_are_weights_or_refused(folder, value):
    check(folder / "fuzzed.pth", pickled(value), "other things")


NUMBERS = st.one_of(st.integers(-2, 40), st.sampled_from([1 << 31, 1 << 62, 1 << 64, -(1 << 63)]))
HEADERS = st.dictionaries(
    st.sampled_from([*NAMES, "__metadata__", "a\nb"]),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "x", ""]),
            "shape": st.lists(NUMBERS, max_size=4),
            "data_offsets": st.one_of(
                st.lists(NUMBERS, max_size=3), st.integers(0, 9).map(lambda n: [4 * n, 4 * n + 4])
            ),
        }
    ),
    max_size=3,
)


@cases(100)
@given(header=HEADERS, length=st.one_of(st.none(), NUMBERS), data=st.binary(max_size=48))
def test_headers_of_safetensors_are_weights_or_refused(folder, header, length, data):
    text = json.dumps(header).encode()
    size = (len(text) if length is None else length) % (1 << 64)
    check(folder / "fuzzed.safetensors", size.to_bytes(8, "little") + text + data, "headers")


def check(path, data: bytes, name: str) -> None:
    """Reading, naming, writing and loading: each works or is one line that names the file."""
    path.write_bytes(data)
    with bounded(name):
        for use in (convert, load):
            try:
                use(path)
            except InputError as error:
                assert path.name in str(error), error
    assert not TRACES


def convert(path) -> None:
    state = read_state_dict(path)
    assert state and all(isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in state.items())
    sum(each.numel() for each in state.values())
    inspect_state_dict(state)
    for ending in ("pth", "safetensors"):
        out = path.with_name(f"again.{ending}")
        save_state_dict(to_native(to_authors(state)), out)
        again = read_state_dict(out)
        assert {name: (each.shape, each.dtype) for name, each in again.items()} == {
            name: (each.shape, each.dtype) for name, each in to_native(to_authors(state)).items()
        }


def load(path) -> None:
    net = load_model(path, "tiny", 2)
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 2, 2), 2).shape == (1, 3, 4, 4)
    assert all(each.isfinite().all() for each in net.state_dict().values())


def test_what_is_not_changed_is_loaded(folder):
    expected = load_values(SEEDS[0], folder / "a.pth")
    for number in range(1, 6):
        ending = "safetensors" if number == 2 else "pth"
        assert torch.equal(load_values(SEEDS[number], folder / f"a.{ending}"), expected)


def load_values(data: bytes, path) -> torch.Tensor:
    path.write_bytes(data)
    return torch.cat([each.flatten() for each in load_model(path, "tiny", 2).state_dict().values()])

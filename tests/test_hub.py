"""`torch.hub.load` gives the network with pretrained weights, from a folder, without a download."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import hubconf
from common.errors import InputError
from model.cfsrcnn import CFSRCNN
from model.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


def load(**options) -> torch.nn.Module:
    return torch.hub.load(str(ROOT), "cfsrcnn", source="local", **options)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_is_the_pretrained_network(scale):
    net, lr = load(scale=scale), torch.rand(1, 3, 8, 9)
    expected = load_model(ROOT / f"checkpoint/x{scale}/cfsrcnn_x{scale}.pth", scale=scale)
    with torch.inference_mode():
        assert not net.training and torch.equal(net(lr), expected(lr))


def test_without_weights_it_is_random():
    net = load(scale=3, pretrained=False)
    assert isinstance(net, CFSRCNN) and not net.training
    assert net.state_dict().keys() == load(scale=3).state_dict().keys()
    assert not torch.equal(net.frb.conv.weight, load(scale=3).frb.conv.weight)
    assert load(scale=0, pretrained=False)(torch.rand(1, 3, 4, 4), 4).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("scale", [0, 5])
def test_a_scale_without_weights_is_named(scale):
    with pytest.raises(InputError, match=f"no weights for scale {scale} .*: use 2, 3 or 4"):
        load(scale=scale)


def test_nothing_else_is_taken_for_a_network():
    found = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert found == {"cfsrcnn"}


def test_threads_load_and_pickle_at_once_and_leave_no_modules(tmp_path):
    script = f"""
import io, sys, threading, torch
sys.setswitchinterval(1e-5)
done, start = [], threading.Barrier(8)
def work(number):
    start.wait()
    net = torch.hub.load({str(ROOT)!r}, "cfsrcnn", source="local", scale=2 + number % 3)
    torch.save(net, file := io.BytesIO())
    file.seek(0)
    again, lr = torch.load(file, weights_only=False), torch.ones(1, 3, 4, 4)
    with torch.inference_mode():
        done.append(torch.equal(net(lr), again(lr)))
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for each in threads: each.start()
for each in threads: each.join()
assert done == [True] * 8, done
left = [name for name in sys.modules if name.partition(".")[0] in ("common", "dataset", "model")]
assert not left and {str(ROOT)!r} not in sys.path, left"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_users_own_modules_of_our_names_stay_theirs(tmp_path):
    (tmp_path / "model.py").write_text("mine = 1")
    script = (
        f"import torch, model; net = torch.hub.load({str(ROOT)!r}, 'cfsrcnn', scale=2, source='local'); "
        "import model as again; from model import mine; "
        "assert again is model and net(torch.rand(1, 3, 4, 4)).shape[-1] == 8; "
        f"assert torch.hub.load({str(ROOT)!r}, 'cfsrcnn', scale=4, source='local')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_user_may_import_modules_of_our_names_later(tmp_path):
    (tmp_path / "model.py").write_text("mine = 1")
    script = (
        f"import sys, torch; net = torch.hub.load({str(ROOT)!r}, 'cfsrcnn', scale=2, source='local'); "
        "from model import mine; assert net(torch.rand(1, 3, 4, 4)).shape[-1] == 8; "
        "assert not {'common', 'dataset'} & {name.partition('.')[0] for name in sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_network_can_be_copied_and_saved_where_its_modules_cannot_be_imported(tmp_path):
    """Also within another module, and with what its owner changed; to be read by another process."""
    (tmp_path / "model.py").write_text("mine = 1")
    (tmp_path / "save.py").write_text(
        "import copy, torch\n"
        f"net = torch.hub.load({str(ROOT)!r}, 'cfsrcnn', scale=2, source='local').double()\n"
        "net.frb.conv.requires_grad_(False)\n"
        "net.frb.feus[1] = net.frb.feus[0]\n"
        "lr = torch.rand(1, 3, 4, 5, dtype=torch.float64)\n"
        "copied = copy.deepcopy(net)\n"
        "assert type(copied) is type(net) and copied.frb.conv.weight is not net.frb.conv.weight\n"
        "assert torch.equal(copied(lr), net(lr))\n"
        f"import sys; sys.modules.pop('model', None); sys.path.insert(0, {str(ROOT)!r}); import model.ops\n"
        "torch.save([torch.nn.Sequential(copied, torch.nn.Sigmoid()), lr, net(lr).sigmoid()], 'net.pt')\n"
    )
    (tmp_path / "load.py").write_text(
        "import io, pickle, torch\n"
        "net, lr, expected = torch.load('net.pt', weights_only=False)\n"
        "from model import mine\n"
        "for net in net, pickle.loads(pickle.dumps(net)):\n"
        "    assert torch.allclose(net(lr), expected) and not net[0].training\n"
        "    frb = net[0].frb\n"
        "    assert not frb.conv.weight.requires_grad and frb.feus[0].weight.requires_grad\n"
        "    assert frb.feus[0] is frb.feus[1]\n"
    )
    for script in ("save.py", "load.py"):
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

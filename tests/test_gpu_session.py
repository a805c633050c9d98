"""`benchmarks.gpu_session`, dry on the CPU: the sections run, one that fails does not end the session, results are copied."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_session
from benchmarks.gpu_session import Session
from benchmarks.subprocesses import PythonProcess, SectionError


def test_a_dry_run_trains_and_reports_a_section_that_fails(command, image_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_session, "SETTINGS", {"fp32": ["--precision", "fp32"]})
    (tmp_path / "teachers").mkdir()
    argv = ["x", "--images", image_folder, "--minutes", 4, "--out", tmp_path / "out", "--work", tmp_path / "work"]
    argv += ["--device", "cpu", "--skip", "tests", "benchmarks", "--scales", 2, "--teachers", tmp_path / "teachers"]
    argv += ["--batch", 2, "--patch", 8, "--probe_steps", 2, "--print_interval", 2, "--validation", "none"]
    monkeypatch.setattr("sys.argv", [str(each) for each in argv])

    def call(session, *argv, limit, meanwhile=None):  # in this process; test_a_section_that_hangs covers the other
        outcome = command(*argv)
        if outcome.code:
            raise SectionError(outcome.err)
        return outcome.out

    monkeypatch.setattr(gpu_session.Session, "call", call)
    steps = []
    train = gpu_session.Session.train

    def short(session, scale, folder, data, *flags, limit, **_):
        steps.append(flags[flags.index("--max_steps") + 1])
        train(session, scale, folder, data, *flags, "--max_steps", 4, "--warmup", 0, limit=200)

    monkeypatch.setattr(gpu_session.Session, "train", short)
    with pytest.raises(SystemExit) as leaving:
        gpu_session.main()
    assert leaving.value.code == 1
    found = json.loads((tmp_path / "out/session.json").read_text())
    assert list(found["outcomes"]) == ["card", "teachers x2", "speed", "x2"]
    failed = {name for name, outcome in found["outcomes"].items() if outcome != "done"}
    assert failed == {"teachers x2"} and "rlfn_x2.pth" in found["outcomes"]["teachers x2"]
    assert found["results"]["x2"]["setting"] == "fp32" and found["results"]["speed"]["fp32"]["rate"] > 0
    assert steps == [6, gpu_session.MAX_STEPS] and 0 < found["results"]["x2"]["minutes"] < 4
    assert (tmp_path / "out/x2/cfsrcnn_x2_4.pth").stat().st_size > 5e6 and (tmp_path / "out/x2/log.jsonl").exists()
    assert found["results"]["x2"]["record"]["starts"][0]["flags"]["val_data_dir"] == "none"
    copied = ["cfsrcnn_x2_4.pth", "log.jsonl", "session.json", "session.md"]
    assert sorted(file.name for file in (tmp_path / "out").rglob("*.*")) == copied
    assert "GPU session" in (tmp_path / "out/session.md").read_text()


def test_a_section_that_fails_or_hangs_is_reported_and_the_rest_goes_on(tmp_path, capsys):
    session = Session(SimpleNamespace(out=tmp_path / "out", work=tmp_path / "work", minutes=1))
    codes = {"good": "print('fine')", "bad": "raise SystemExit('it is broken')", "slow": "import time; time.sleep(60)"}
    session.run(
        {name: partial(session.call, "-c", code, limit=1 if name == "slow" else 30) for name, code in codes.items()}
    )
    outcomes = json.loads((tmp_path / "out/session.json").read_text())["outcomes"]
    assert outcomes["good"] == "done" and session.results["good"] == "fine\n" and session.failed() == 2
    assert outcomes["bad"] == "failed: exit code 1: it is broken" and "stopped after 1 s" in outcomes["slow"]
    assert "slow failed" in capsys.readouterr().err


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session of ten minutes that has tried three settings and trains nothing: `session.trained` lists what it would."""
    monkeypatch.setattr(gpu_session, "time", SimpleNamespace(monotonic=lambda: 0.0))  # however busy the machine is
    args = {"minutes": 10, "device": "cpu", "warmup": 0, "print_interval": 10}
    found = Session(SimpleNamespace(out=tmp_path / "out", work=tmp_path / "work", **args))
    found.has_photographs, found.trained = True, []
    found.results["speed"] = {
        gpu_session.GRAPH: {"rate": 120.0, "startup": 5.0},
        gpu_session.COMPILED: {"rate": 150.0, "startup": 60.0},
        f"{gpu_session.COMPILED}, CUDA graph": {"rate": 160.0, "startup": 20.0},  # found compiled
    }

    def train(scale, folder, data, *flags, limit, **_):
        asked = list(flags[: flags.index("--max_minutes")])
        setting = next(name for name, each in gpu_session.SETTINGS.items() if each == asked)
        found.trained.append((setting, float(flags[flags.index("--max_minutes") + 1])))
        if setting != gpu_session.GRAPH:
            raise SectionError("it does not compile")
        (folder / "log.jsonl").parent.mkdir(exist_ok=True)
        (folder / "log.jsonl").write_text('{"step": 1}\n')
        (folder / f"cfsrcnn_x{scale}.json").write_text("{}")

    found.train = train
    return found


def test_the_setting_is_the_one_with_the_most_steps_in_its_time(session):
    assert session._best_setting(100) == gpu_session.GRAPH
    assert session._best_setting(600) == f"{gpu_session.COMPILED}, CUDA graph"


@pytest.mark.parametrize(("capability", "setting"), [((9, 0), gpu_session.FASTEST), ((7, 5), "fp32"), (None, "fp32")])
def test_without_measured_speeds_the_setting_is_one_that_the_device_has(session, monkeypatch, capability, setting):
    del session.results["speed"]
    if capability:
        monkeypatch.setattr(gpu_session, "pick_device", lambda name: torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert session._best_setting(600) == setting


def test_where_the_best_setting_fails_the_rest_of_the_time_is_trained_with_another(session, capsys):
    result = session.train_scale(2, 1)
    settings, minutes = zip(*session.trained, strict=True)
    assert settings == (f"{gpu_session.COMPILED}, CUDA graph", gpu_session.GRAPH)
    assert all(9.4 < each < 9.6 for each in minutes)
    assert result["setting"] == gpu_session.GRAPH and "failed: it does not compile" in capsys.readouterr().err


# --- processes ------------------------------------------------------------------------------------------------------


def test_output_is_shown_while_it_comes_and_returned(tmp_path, capsys):
    """The process ends only when its first line, half a character with it, has been shown."""
    code = "import os, pathlib, time; print('first'); os.write(1, b'caf\\xc3')\n"
    code += "while not pathlib.Path('go').exists(): time.sleep(0.01)\nos.write(1, b'\\xa9'); print(' open')"
    shown = []

    def look():
        shown.append(capsys.readouterr().out)
        if "first\ncaf" in "".join(shown):
            (tmp_path / "go").touch()

    process = PythonProcess(["-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"], tmp_path / "log.txt")
    process.show(0.01)  # ends before it
    assert process.running()
    assert process.finish(30, look) == "first\ncafé open\n" == "".join(shown)
    process.stop()  # it is over


def test_close_stops_what_still_runs(tmp_path):
    session = Session(SimpleNamespace(out=tmp_path / "out", work=tmp_path / "work", minutes=1))
    processes = [session.begin(["-c", code], tmp_path / "log.txt") for code in ("", "import time; time.sleep(60)")]
    processes[0].finish(30)
    session.close()
    assert not any(process.running() for process in processes)


def test_close_asks_all_to_end_before_it_waits_for_one_and_only_once(tmp_path):
    """Each waits for the other's file, which that writes when it is asked to end."""
    session = Session(SimpleNamespace(out=tmp_path / "out", work=tmp_path / "work", minutes=1))
    code = f"""
import pathlib, signal, sys, time
own, other = (pathlib.Path({str(tmp_path)!r}, name) for name in sys.argv[1:])
def leave(*_):
    own.write_text(own.read_text() + "asked ")
    while "asked" not in other.read_text():
        time.sleep(0.01)
    sys.exit()
signal.signal(signal.SIGTERM, leave)
own.write_text("ready ")
while True:
    time.sleep(0.01)
"""
    names = ("a", "b")
    processes = [session.begin(["-c", code, *order], tmp_path / f"{order[0]}.txt") for order in (names, names[::-1])]
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in names):
        assert all(process.running() for process in processes)
    session.close()
    assert [(tmp_path / name).read_text() for name in names] == ["ready asked "] * 2
    assert [process._process.returncode for process in processes] == [0, 0]  # not killed


# --- teachers and training --------------------------------------------------------------------------------------------


class Recorder:
    """Stands in for `PythonProcess`: what is started with which words; its files appear once it is waited for."""

    def __init__(self, monkeypatch):
        self.started: list[list[str]] = []
        self.finished: list[list[str]] = []
        self.stopped: list[list[str]] = []
        monkeypatch.setattr(gpu_session, "PythonProcess", self.start)

    def start(self, argv, log, niceness=0):
        words = [str(each) for each in argv]
        self.started.append(words)

        def finish(limit, meanwhile=lambda: None):
            if "training.distillation" in words:
                Path(value(words, "--out")).write_text("targets")
            meanwhile()  # before the first scores, after them, and once more
            if words[0] == "train.py":
                folder = Path(value(words, "--ckpt_dir"))
                folder.mkdir()
                (folder / "log.jsonl").write_text('{"step": 1}\n')
                (folder / f"{value(words, '--ckpt_name')}.json").write_text("{}")
            meanwhile()
            meanwhile()
            self.finished.append(words)
            return ""

        stops = {"terminate": lambda: None, "stop": lambda: self.stopped.append(words)}
        return SimpleNamespace(show=lambda limit: None, finish=finish, **stops)


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


@pytest.fixture
def teaching(tmp_path, recorder):
    """`teaching()`: a session with teachers for x2 (two), x3 (one) and x4 (one), always with the same folders."""
    for name in ("images/part", "teachers/x2"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("images/a.png", "images/part/b.png", "teachers/RLFN_x2.pth", "teachers/bsrn_x2.pth"):
        (tmp_path / name).write_text("short")
    for name in ("bsrn_x3.pth", "rlfn_x4.pth", "other_x4.pth"):
        (tmp_path / "teachers" / name).write_text("weights")
    folders = {name: tmp_path / name for name in ("images", "teachers", "out", "work")}
    size = {"scales": [2, 3, 4], "batch": 44, "patch": 48, "lr": "2e-3", "warmup": 300, "print_interval": 5000}
    return lambda: Session(SimpleNamespace(**folders, **size, minutes=10, device="cpu", validation=None))


def test_the_teachers_of_all_scales_start_together(teaching, recorder):
    session = teaching()
    assert session.distill(2) == "distilled_x2.h5"
    assert [value(words, "--scale") for words in recorder.started] == ["2", "3", "4"]
    assert [words.count("--teacher") for words in recorder.started] == [2, 1, 1]
    assert ["--self_ensemble" in words for words in recorder.started] == [False, True, True]
    session.distill(3)
    session.distill(4)
    assert len(recorder.started) == 3 and recorder.finished == recorder.started


@pytest.mark.parametrize("change", ["nothing", "image", "teacher", "settings", "unfinished", "none"])
def test_finished_targets_are_used_again_only_for_the_same(teaching, recorder, tmp_path, monkeypatch, change):
    teaching().distill(2)
    targets = tmp_path / "work/distilled_x2.h5"
    if change == "image":
        (tmp_path / "images/part/b.png").write_text("longer than before")
    elif change == "teacher":
        (tmp_path / "teachers/bsrn_x2.pth").write_text("other")  # as long as it was
    elif change == "settings":
        monkeypatch.setattr(gpu_session, "SHRINK", ("0.5",))
    elif change == "unfinished":
        targets.unlink()  # it is renamed into place when it is complete
    elif change == "none":
        for file in (tmp_path / "teachers").glob("*_x2.pth"):
            file.unlink()
    session, before = teaching(), len(recorder.started)
    if change == "none":
        with pytest.raises(SectionError, match=r"no file such as rlfn_x2\.pth"):
            session.distill(2)
        assert session._training_set(2) == session.training_set
        return
    session.distill(2)
    again = "training.distillation" in recorder.started[before]
    assert again == (change != "nothing") and targets.read_text() == "targets"


def test_the_photographs_of_another_session_are_not_taken(teaching, recorder):
    session = teaching()
    session.training_set.write_text("of another session")
    (session.work / "distilled_x2.h5").write_text("of another session")
    assert session._training_set(2) == session.training_set == session._training_set(3)
    assert [words[0] for words in recorder.started] == ["div2h5.py"]


def test_a_scale_starts_from_its_weights_and_has_its_own_batch(teaching, recorder, tmp_path):
    for scale in (2, 3, 4):
        teaching().train(scale, tmp_path / f"x{scale}", "images.h5", limit=1)
    assert [value(words, "--batch_size") for words in recorder.started] == ["44", "37", "24"]
    starts = [value(words, "--pretrained") for words in recorder.started]
    assert [start.rpartition("checkpoint")[2] for start in starts] == [f"/x{n}/cfsrcnn_x{n}.pth" for n in (2, 3, 4)]
    session = teaching()
    session.args.batch = 1
    session.train(4, tmp_path / "one", "images.h5", limit=1)
    assert value(recorder.started[-1], "--batch_size") == "1"


@pytest.mark.parametrize(
    ("minutes", "capability", "precision"), [(60, (9, 0), "bf16"), (60, (7, 5), "fp32"), (120, (7, 5), None)]
)
def test_the_training_benchmark_has_fewer_rows_in_a_session_too_short_for_all(
    teaching, recorder, monkeypatch, minutes, capability, precision
):
    monkeypatch.setattr(gpu_session, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    session = teaching()
    session.args.minutes = minutes
    (session.out / "training.json").write_text("{}")
    assert session.benchmark("training") == {}
    assert ("--optimizers" in recorder.started[0]) == (precision is not None)
    assert not precision or value(recorder.started[0], "--precisions") == precision


@pytest.mark.parametrize("ends", ["complete", "stopped", "at once"])
def test_what_a_benchmark_has_measured_is_kept_where_it_is_stopped(teaching, monkeypatch, ends):
    def call(session, *argv, limit):
        if ends != "at once":
            Path(argv[argv.index("--out") + 1]).write_text('{"steps": 1}')
        if ends == "complete":
            return "loading\n**Training**\n\n| a |\n"
        raise SectionError("stopped after 5 s")

    monkeypatch.setattr(Session, "call", call)
    session = teaching()
    session.run({"training benchmark": lambda: session.benchmark("training")})
    found = json.loads((session.out / "session.json").read_text())
    assert found["results"] == ({} if ends == "at once" else {"training benchmark": {"steps": 1}})
    assert session.failed() == (ends != "complete")
    assert ("**Training**\n\n| a |\n" in (session.out / "session.md").read_text()) == (ends == "complete")


@pytest.fixture
def compiling(teaching, recorder, monkeypatch):
    """A session that compiles on four cores, before x2 is trained; only the targets of x4 are not there yet."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(Session, "_best_setting", lambda *_: gpu_session.FASTEST)
    session = teaching()
    session.distill(2)
    session.distill(3)
    recorder.started.clear()
    return session


def test_while_a_scale_is_trained_the_next_compiles(compiling, recorder):
    compiling.train_scale(2, 3)
    run, ahead = recorder.started  # once, after the first scores
    assert Path(value(ahead, "--ckpt_dir")) == compiling.work / "prepare_x3" and value(ahead, "--max_steps") == "5"
    assert recorder.stopped == [ahead]
    compiling.train_scale(3, 2)
    run = recorder.started[2]
    assert len(recorder.started) == 3  # x4 has no targets, so that nothing compiles for it
    same = ("--scale", "--batch_size", "--patch_size", "--train_data_path", "--precision", "--optimizer", "--ema")
    assert [value(run, flag) for flag in same] == [value(ahead, flag) for flag in same]
    assert all({"--compile", "--cuda_graph"} < set(each) for each in (run, ahead))


@pytest.mark.parametrize("reason", ["cores", "setting", "memory", "error", "last scale"])
def test_the_next_scale_does_not_compile_ahead(compiling, recorder, monkeypatch, capsys, reason):
    if reason == "cores":
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
    elif reason == "setting":
        monkeypatch.setattr(Session, "_best_setting", lambda *_: gpu_session.GRAPH)
    elif reason in ("memory", "error"):
        memory = {"memory": lambda: (4, 8), "error": lambda: (_ for _ in ()).throw(RuntimeError("no context"))}
        monkeypatch.setattr(gpu_session, "pick_device", lambda name: SimpleNamespace(type="cuda"))
        monkeypatch.setattr(gpu_session.torch.cuda, "mem_get_info", memory[reason])
    else:
        compiling.args.scales = [3, 2]
    compiling.train_scale(2, 3)
    assert [Path(value(words, "--ckpt_dir")).name for words in recorder.started] == ["x2"]
    assert ("x3 is not compiled ahead: no context" in capsys.readouterr().err) == (reason == "error")


def test_sections_can_be_skipped(image_folder, recorder, monkeypatch, tmp_path):
    argv = ["-m", "benchmarks.gpu_session", "--images", image_folder, "--minutes", 1, "--out", tmp_path / "out"]
    argv += ["--device", "cpu", "--work", tmp_path / "work", "--skip", "tests", "benchmarks", "speed", "training"]
    monkeypatch.setattr("sys.argv", [str(each) for each in argv[1:]])
    gpu_session.main()
    assert list(json.loads((tmp_path / "out/session.json").read_text())["outcomes"]) == ["card", "data"]


def test_a_session_does_not_go_on_with_the_runs_of_an_earlier_one(image_folder, recorder, monkeypatch, tmp_path):
    argv = ["-m", "benchmarks.gpu_session", "--images", image_folder, "--minutes", 1, "--out", tmp_path / "out"]
    argv += ["--device", "cpu", "--work", tmp_path / "work", "--skip", "tests", "benchmarks", "speed", "training"]
    monkeypatch.setattr("sys.argv", [str(each) for each in argv[1:]])
    for number in range(3):
        gpu_session.main()
        state = tmp_path / "work/results/x2/cfsrcnn_x2_latest.train.pt"
        assert not state.exists()
        state.parent.mkdir()
        state.write_text(f"of session {number}")
    kept = [tmp_path / f"work/results{end}/x2/cfsrcnn_x2_latest.train.pt" for end in ("_1", "_2", "")]
    assert [file.read_text() for file in kept] == [f"of session {number}" for number in range(3)]


def test_a_missing_package_is_named_at_once(expect_error, monkeypatch, tmp_path):
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "h5py" else whole(name, *args))
    argv = ["-m", "benchmarks.gpu_session", "--images", tmp_path, "--minutes", 1]
    expect_error("packages are missing: h5py", *argv)


def test_bad_flags_are_refused(expect_error, test_set, tmp_path):
    argv = ["-m", "benchmarks.gpu_session", "--device", "cpu", "--images"]
    expect_error("is not a folder", *argv, tmp_path / "none", "--minutes", 1)
    expect_error("--validation nowhere is not a folder", *argv, tmp_path, "--minutes", 1, "--validation", "nowhere")
    expect_error("--minutes: 0 is not a number of minutes above zero", *argv, tmp_path, "--minutes", 0)
    shutil.copytree(test_set / "x2", tmp_path / "part/x2")
    expect_error("part has x2 but no x3", *argv, tmp_path, "--minutes", 1, "--validation", tmp_path / "part")

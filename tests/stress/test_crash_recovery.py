"""A run that is killed again and again ends with the weights and the log of an uninterrupted one."""

from torch.utils.tensorboard import SummaryWriter

from tests.stress.crash_recovery import board_of, differences, kill_and_compare, log_of, names, readable


def test_a_killed_run_goes_on_as_if_never_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tally = kill_and_compare(kills=4, seed=1, folder=tmp_path, longest=2.0)
    assert tally.kills == 4 and tally.finished >= 1 and not tally.wrong, str(tally)


def test_it_would_be_noticed(tmp_path):
    for name in ("alone", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text('{"step": 1, "loss": 2, "seconds": 3}\n')
    assert differences(tmp_path / "run", tmp_path / "alone") == []
    (tmp_path / "run/log.jsonl").write_text('{"step": 1, "loss": 4, "seconds": 3}\n')
    assert differences(tmp_path / "run", tmp_path / "alone") == ["log.jsonl differs"]
    assert log_of(tmp_path / "run") == [{"step": 1, "loss": 4}] and names(tmp_path / "run") == ["log.jsonl"]
    (tmp_path / "run/log.jsonl").write_bytes((tmp_path / "alone/log.jsonl").read_bytes())
    for name, steps in {"alone": (1, 2), "run": (1, 2, 2)}.items():
        with SummaryWriter(str(tmp_path / name / "run_tensorboard")) as board:
            for step in steps:
                board.add_scalar("loss", 0.5, step)
                board.add_scalar("seconds", len(steps), step)
    assert board_of(tmp_path / "run") == {"loss": [(1, 0.5), (2, 0.5), (2, 0.5)]}
    assert differences(tmp_path / "run", tmp_path / "alone") == ["TensorBoard differs"]
    (tmp_path / "run/.unfinished_1.pth").touch()
    assert differences(tmp_path / "run", tmp_path / "alone")[0] == ".unfinished_1.pth is left over"
    for name in ("a.pth", "a.train.pt", "log.jsonl"):
        (tmp_path / name).write_bytes(b"half")
        assert not readable(tmp_path / name)

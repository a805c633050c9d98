"""The progress bar in a log file: whole lines, between which those of the command stand alone."""

from __future__ import annotations

from common.progress import print_above, progress


def test_each_state_is_a_line_where_there_is_no_terminal(capsys):
    with progress(total=3, desc="steps") as bar:
        for number in range(3):
            bar.update()
            bar.refresh()
            print_above(f"step {number}")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("step ")] == ["step 0", "step 1", "step 2"]
    states = [line for line in lines if not line.startswith("step ")]
    assert len(states) >= 4 and all(line.startswith("steps: ") and "\r" not in line for line in states)
    assert "3/3" in states[-1]

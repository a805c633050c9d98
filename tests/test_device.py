"""How much memory is free: what the machine has, less what a container or a job scheduler allows."""

from __future__ import annotations

import pytest

from common import device
from common.device import available_memory

GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(cgroup_of_self, {file: text})`: 8 GiB free, and control groups with these files; half a GiB is of files."""

    def make(own: str, files: dict[str, str]) -> None:
        files_pages = "anon 7", *(f"{each}active_file {GIB // 4}" for each in ("", "in", "total_", "total_in"))
        stat = "\n".join(files_pages)
        for name, text in {"meminfo": f"MemAvailable: {8 * GIB // 1024} kB", "own": own, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
            (tmp_path / name).with_name("memory.stat").write_text(stat)
        monkeypatch.setattr(device, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(device, "CGROUP_OF_SELF", tmp_path / "own")
        monkeypatch.setattr(device, "CGROUPS", tmp_path / "groups")

    return make


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/", {}, 8),  # no limits
        ("0::/job/step", {"job/step/memory.max": "max\n", "job/step/memory.current": "5\n"}, 8),
        ("0::/", {"memory.max": f"{3 * GIB}\n", "memory.current": f"{GIB}\n"}, 2.5),  # as in a container
        ("0::/job/step", {"job/memory.max": f"{4 * GIB}", "job/memory.current": f"{GIB}"}, 3.5),  # of a group above
        ("0::/job", {"job/memory.max": f"{GIB}", "job/memory.current": f"{2 * GIB}"}, 0),
        (
            "9:pids:/x\n4:memory:/a:b",
            {"memory/a:b/memory.limit_in_bytes": f"{4 * GIB}", "memory/a:b/memory.usage_in_bytes": f"{3 * GIB}"},
            1.5,
        ),
        ("0::/job", {"job/memory.max": f"{90 * GIB}", "job/memory.current": "0"}, 8),  # more than the machine has
    ],
)
def test_what_is_free_is_what_the_control_groups_leave(machine, own, files, free):
    machine(own, {f"groups/{name}": text for name, text in files.items()})
    assert available_memory() == free * GIB

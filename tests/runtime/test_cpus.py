"""Threads are counted from what the system grants, not from what the machine has."""

import os

import pytest

from mapsto.runtime.cpus import available_cpus, cpu_quota, memory_bytes

V2 = "28 1 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "30 1 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def _tree(root, groups, mounts, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    "groups, mounts, files, expected",
    [
        ("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
        # the parent's limit holds too
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2.0),
        # in a container the path is the host's, and only the mount point is there
        ("0::/../x/y\n", V2, {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            "4:cpu,cpuacct:/a\n1:name=systemd:/z\n",
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            "4:cpu,cpuacct:/a\n",
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ("nonsense", "nonsense", {}, None),
        ("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "many few"}, None),
    ],
)
def test_the_quota_of_control_groups(tmp_path, groups, mounts, files, expected):
    assert cpu_quota(_tree(tmp_path, groups, mounts, files)) == expected


def test_no_control_groups_at_all(tmp_path):
    assert cpu_quota(tmp_path) is None


def test_affinity_limits_the_count():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= available_cpus() <= len(allowed)


def test_a_fraction_of_a_processor_is_one_thread(monkeypatch):
    from mapsto.runtime import cpus

    monkeypatch.setattr(cpus, "cpu_quota", lambda: 0.3)
    assert available_cpus() == 1


def test_memory_is_plausible():
    assert memory_bytes() > 1 << 28

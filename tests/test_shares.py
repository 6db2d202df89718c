"""A process with a share of a machine: its cores by affinity, quota and allocation, and the memory of its threads."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from blurcli.base import parallel, threads
from blurcli.base.threads import available_cores
from blurcli.config import DataConfig
from blurcli.data import images
from blurcli.data.archives import ImageFiles, open_images
from blurcli.data.decoder import Decoder
from blurcli.data.inspection import inspect_images
from blurcli.data.stream import open_stream

V1 = "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"
V2 = "0::/job/step\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores, none of them out of bounds."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(threads, "_affinity", lambda: 64)


def root(folder: Path, cgroup: str, **quotas: str) -> Path:
    """A root folder with the files of cgroups, by the path below /sys/fs/cgroup."""
    for name, content in {
        "proc/self/cgroup": cgroup,
        **{f"sys/fs/cgroup/{name}": text for name, text in quotas.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n", encoding="ascii")
    return folder


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("cgroup", "quotas", "cores"),
    [
        (V2, {"job/step/cpu.max": "200000 100000"}, 2),
        (V2, {"job/step/cpu.max": "max 100000", "job/cpu.max": "400000 100000", "cpu.max": "800000 100000"}, 4),
        (V2, {"cpu.max": "150000 100000"}, 2),
        (V2, {"cpu.max": "20000 100000"}, 1),
        (V2, {"unified/job/step/cpu.max": "300000 100000"}, 3),
        ("0::/../../other\n", {"cpu.max": "300000 100000"}, 3),
        (V2, {"other/cpu.max": "100000 100000", "job/cpu.max": "max 100000"}, 64),
        (V2, {"cpu.max": "nonsense"}, 64),
        (V2, {"cpu.max": "100000 0"}, 64),
        (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu,cpuacct/docker/cpu.cfs_quota_us": "50000", "cpu,cpuacct/docker/cpu.cfs_period_us": "10000"}, 5),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 64),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_cores_by_the_quota_of_cgroups(tmp_path: Path, cgroup: str, quotas: dict[str, str], cores: int) -> None:
    assert available_cores(root(tmp_path, cgroup, **quotas), {}) == cores


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({}, 64),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "16"}, 4),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_NTASKS": "4"}, 16),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_STEP_TASKS_PER_NODE": "4(x2),1"}, 4),
        ({"SLURM_CPUS_ON_NODE": "2", "SLURM_STEP_TASKS_PER_NODE": "4"}, 1),
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x2),2"}, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "16", "SLURM_STEP_TASKS_PER_NODE": "4"}, 4),
        ({"SLURM_JOB_CPUS_PER_NODE": "16", "SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}, 4),
        ({"SLURM_CPUS_PER_TASK": "128"}, 64),
        *[({"SLURM_CPUS_PER_TASK": text}, 64) for text in ("", "0", "-3", "many", "\N{SUPERSCRIPT TWO}")],
        ({"NCPUS": "2"}, 64),
        ({"NCPUS": "2", "PBS_JOBID": "7.host"}, 2),
    ],
)
def test_cores_by_the_allocation_of_a_job(tmp_path: Path, variables: dict[str, str], cores: int) -> None:
    assert available_cores(tmp_path, variables) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a settable affinity")
def test_cores_by_affinity() -> None:
    """As `taskset -c N` starts it on a busy machine of 64 cores."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.cpu_count = lambda: 64\n"
        "from blurcli.base import threads; threads.busy_threads = lambda: 20\n"
        "chosen = {}; threads.choose_threads(chosen); print(chosen['OMP_NUM_THREADS'], threads.available_cores(), threads.note)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 1 using 1 thread: its CPU affinity gives this process 1 of 64 cores"


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "4", "TORCHINDUCTOR_COMPILE_THREADS": "4"}),
        ({"OMP_NUM_THREADS": "9", "TORCHINDUCTOR_COMPILE_THREADS": "9"}, {}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_NUM_THREADS": "4", "TORCHINDUCTOR_COMPILE_THREADS": "4"}),
    ],
)
def test_a_share_is_used_whole(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]) -> None:
    """Other work on the machine takes nothing from it."""
    monkeypatch.setattr(threads, "busy_threads", lambda: 62)
    environment = {"SLURM_CPUS_PER_TASK": "4", **given}
    threads.choose_threads(environment)
    assert environment == {"SLURM_CPUS_PER_TASK": "4", **given, **expected}
    note = "using 4 threads: Slurm's allocation (SLURM_CPUS_PER_TASK) gives this process 4 of 64 cores"
    assert threads.note == (note if "OMP_NUM_THREADS" in expected else None)


@pytest.mark.usefixtures("machine")
def test_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for local, cores in (("4", 16), ("100", 1), ("", 64)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert threads.own_cores() == min(cores, available_cores())


def tracked(files: ImageFiles, size: int) -> tuple[ImageFiles, list[str]]:
    """Files of `size` bytes each, by their own account, and the names of those that were opened, in order."""
    read: list[str] = []

    def opened(name: str) -> io.BufferedReader:
        read.append(name)
        return files.open(name)  # type: ignore[return-value]

    return ImageFiles(files.place, files.names, opened, lambda name: size, files.stamp), read


@pytest.mark.parametrize(("size", "ahead"), [(0, 31), (64 << 20, 4), (200 << 20, 1)])
def test_files_that_wait_are_bounded_by_their_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, ahead: int
) -> None:
    """However many cores there are; with one file at least."""
    for number in range(31):
        Image.new("L", (2, 2), number).save(tmp_path / f"{number:02}.png")
    monkeypatch.setattr("blurcli.data.decoder.available_cores", lambda: 64)
    monkeypatch.setattr(parallel, "own_cores", lambda: 64)
    with open_images(tmp_path) as files:
        measured, read = tracked(files, size)
        decoded = iter(Decoder(measured, (1, 2, 2), None, 0, lambda done, total: None))
        for number, image in enumerate(decoded, start=1):
            assert image.max() == number - 1
            assert len(read) <= number - 1 + ahead
            if size == 0:
                break
        decoded.close()  # type: ignore[attr-defined]
        most = 0

        def progress(done: int, total: int) -> None:
            nonlocal most
            most = max(most, len(read) - done)

        measured, read = tracked(files, size)
        config = DataConfig(source=str(tmp_path), image_size=(4, 4), channels=1)
        assert inspect_images(measured, config, progress).images == 31
        assert size == 0 or most < ahead


def test_a_stream_reads_files_in_order_and_by_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(7):
        Image.new("L", (2, 2), number).save(tmp_path / f"{number}.png")
    monkeypatch.setattr("blurcli.data.stream._CHUNK", 3)
    parts = list(open_stream(tmp_path, 1).batches(7))
    assert [part[:, 0, 0, 0].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def test_pixels_that_are_decoded_at_a_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files can hold many pixels; an image larger than all that is allowed is decoded alone."""
    begins: list[bool] = []
    monkeypatch.setattr(images._pixels._changed, "wait_for", lambda ready: begins.append(ready()))
    buffer = io.BytesIO()
    Image.new("L", (20, 20)).save(buffer, "PNG")
    for limit, elsewhere, at_once in ((1000, 600, True), (1000, 601, False), (None, 1, False), (None, 0, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        monkeypatch.setattr(images, "_UNLIMITED_PIXELS", 300)
        with images._pixels.held(elsewhere, 1000):
            images.decode(buffer.getvalue(), "x", 2, 2, 1)
        assert begins[-1] is at_once
    assert images._pixels._used == 0


def test_work_ahead_ends_with_its_first_error() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(parallel.ahead(make, range(1000), workers=2))
    assert len(made) < 1000

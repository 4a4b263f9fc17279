"""Forked, spawned and threaded callers get the serial results and never hang; Ctrl-C; numbers of threads."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import process_work
import pytest
from process_work import CALLS, X, work

import dither

PATIENCE = 60
"""Seconds after which a process counts as hung."""


@pytest.fixture(autouse=True)
def default_threads():
    yield
    dither.set_num_threads(None)


@pytest.fixture(scope="module")
def serial() -> list[bytes]:
    return work(threads=1)


def in_process(method: str) -> list[bytes]:
    """The results of `work` in a process of that start method."""
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(  # pyright: ignore[reportAttributeAccessIssue]
        target=process_work.report, args=(2, sender)
    )
    process.start()
    sender.close()
    try:
        assert receiver.poll(PATIENCE), f"the {method} process hangs"
        return receiver.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_started_after_the_parent_computed(method, serial):
    assert work(threads=2) == serial
    assert in_process(method) == serial
    assert work(threads=2) == serial


def exit_code_of_fork(child) -> int:
    """Fork, call `child` there; its exit code, or -9 if it had to be killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if child() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_of_a_fork(serial):
    assert work(threads=2) == serial

    def child() -> bool:
        return work(2) == serial and exit_code_of_fork(lambda: work(2) == serial) == 0

    assert exit_code_of_fork(child) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forks_while_other_threads_compute(serial):
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            dither.fake_quant(X, "mxfp8_e4m3")

    dither.set_num_threads(2)
    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert [exit_code_of_fork(lambda: work(2) == serial) for _ in range(8)] == [0] * 8
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("same", [True, False])
def test_python_threads_at_once(same, serial):
    """Many threads with one quantizer, or each with its own, changing the number of threads meanwhile."""
    expected = dict(zip(CALLS, serial, strict=False))
    wrong: list[str] = []

    def check(i: int) -> None:
        q = CALLS[0] if same else CALLS[i % len(CALLS)]
        for turn in range(6):
            dither.set_num_threads(1 + (i + turn) % 3)
            if dither.fake_quant(X, q, seed=5, stream=2).tobytes() != expected[q]:
                wrong.append(q)

    threads = [threading.Thread(target=check, args=(i,)) for i in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not wrong


class Rounded:
    """A data set whose items are quantized where they are loaded."""

    def __init__(self, torch, threads: int | None) -> None:
        self.torch, self.threads = torch, threads

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int):
        if self.threads is not None:
            dither.set_num_threads(self.threads)
        x = self.torch.from_numpy(X) + i
        return dither.fake_quant(x, "mxfp8_e4m3")


@pytest.mark.parametrize("threads", [None, 2])
def test_a_dataloader_with_workers(threads):
    """Workers forked after the parent used its pool; `timeout` turns a hang into an error."""
    torch = pytest.importorskip("torch")
    work(threads=2)
    data = Rounded(torch, threads)
    expected = [dither.fake_quant(torch.from_numpy(X) + i, "mxfp8_e4m3") for i in range(len(data))]
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, timeout=PATIENCE, multiprocessing_context="fork"
    )
    for _ in range(2):
        got = list(loader)
        assert len(got) == len(expected) and all(map(torch.equal, got, expected))


@pytest.fixture
def alarm():
    """Sets a handler that runs in the main thread after the given seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(seconds: float, handler) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupt(signum, frame):
    raise KeyboardInterrupt


LONG = dither.Quantizer("int4_g32", scale_rule="mse")
"""The best of 81 scales: some 20 ns an element."""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_ctrl_c_ends_a_long_call_soon(threads, library, alarm):
    """docs/numbers.md: the call ends within a tenth of a second, and the next one is right."""
    x = np.tile(X, (512, 1))  # several seconds
    if library == "torch":
        x = pytest.importorskip("torch").from_numpy(x)
    dither.set_num_threads(threads)
    expected = dither.fake_quant(X, LONG).tobytes()
    dither.fake_quant(x[:1], LONG)  # torch's side is imported by its first call: that is not interrupted here
    start = time.process_time()
    with pytest.raises(KeyboardInterrupt):
        alarm(0.2, interrupt)
        dither.fake_quant(x, LONG)
    assert time.process_time() - start < 1.0 * threads
    assert dither.fake_quant(X, LONG).tobytes() == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_that_returns_changes_nothing(threads, alarm):
    """The handler may call dither itself while the interrupted call waits."""
    x = np.tile(X, (8, 1))
    dither.set_num_threads(threads)
    expected = np.tile(dither.fake_quant(X, LONG), (8, 1))
    seen = []
    alarm(0.01, lambda signum, frame: seen.append(work(threads)))
    got = dither.fake_quant(x, LONG)
    alarm(0, signal.SIG_IGN)
    assert (got == expected).all()
    assert seen == [work(1)]


@pytest.mark.parametrize("n", [1, 2, np.int64(3), np.int32(2), np.uint8(1), 2**31, 2**64, 2**70])
def test_numbers_of_threads_that_are_taken(n):
    dither.set_num_threads(n)
    assert dither.get_num_threads() == min(int(n), 256)
    assert (dither.fake_quant(X[:8], "int4_g128") == dither.fake_quant(X, "int4_g128")[:8]).all()


@pytest.mark.parametrize("n", [0, -1, True, np.True_, 1.0, "2", np.array([1, 2])])
def test_numbers_of_threads_that_are_not(n):
    with pytest.raises(dither.UserError, match="positive integer"):
        dither.set_num_threads(n)


@pytest.mark.parametrize("block", [np.int64(32), np.uint8(32), np.array(32)])
def test_a_block_may_be_an_integer_of_numpy(block):
    assert dither.Quantizer("mxfp4", block=block) == dither.Quantizer("mxfp4")
    assert str(dither.Quantizer("mxfp4", block=block * 2)) == "format=e2m1,block=64,scale_format=e8m0"


def test_without_threads_to_be_had_the_caller_does_the_work():
    code = (
        "import os, resource, process_work as w\n"
        "serial = w.work(1)\n"
        "if os.getuid() == 0: os.setuid(65534)  # root has no limit\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "assert w.work(7) == serial\n"
        "assert len(os.listdir('/proc/self/task')) == before\n"
    )
    if not os.path.exists("/proc/self/task"):
        pytest.skip("threads are counted in /proc")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr

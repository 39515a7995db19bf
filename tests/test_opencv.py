"""OpenCV's threads: forked workers never wait for threads that did not come along."""

import subprocess
import sys
import threading
from pathlib import Path

import cv2
import pytest
import threadpoolctl

from facealign_lite.opencv import one_thread

# what a notebook does: look at a photo with OpenCV's threads, then work in processes that are forked from here
BUSY = """
import multiprocessing, os
import cv2, numpy as np
from facealign_lite.data import Crops, crop, save_packed
from facealign_lite.synthetic import SyntheticFaces
def face(i):
    return SyntheticFaces(4, 64)[i].image.sum()
if __name__ == "__main__":
    cv2.setNumThreads(4)
    photo = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)
    def use():
        for _ in range(3):
            cv2.GaussianBlur(photo, (0, 0), 5)
            cv2.resize(photo, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    use()
"""
WORK = {
    "loader": "from torch.utils.data import DataLoader\n"
              "    assert len(list(DataLoader(Crops(SyntheticFaces(4, 64), 64), 1, num_workers=2))) == 4",
    "pack": "import tempfile\n"
            "    with tempfile.TemporaryDirectory() as place:\n"
            "        assert len(save_packed(place + '/pack', SyntheticFaces(4, 48), workers=2)) == 4",
    "pool": "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "        assert pool.map(face, range(4)) == [face(i) for i in range(4)]",
    "set": "if (pid := os.fork()) == 0:\n"
           "        use(); cv2.setNumThreads(0); use(); cv2.setNumThreads(3); use(); os._exit(7)\n"
           "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7",
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start processes afresh")
@pytest.mark.parametrize("kind", WORK)
def test_a_fork_after_threaded_use_does_not_hang(kind, tmp_path):
    """The time limit only guards: a hang never ends."""
    script = tmp_path / "script.py"
    script.write_text(f"{BUSY}    {WORK[kind]}\n    use()\n    print('threads', cv2.getNumThreads())\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300,
                          env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["threads", "4"]                     # the parent has its own back


def test_threads_that_overlap_put_back_what_the_first_found():
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        inside, leave = threading.Barrier(3), threading.Event()

        def work():
            with one_thread():
                inside.wait()
                leave.wait()
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        inside.wait()
        assert cv2.getNumThreads() == 1
        with one_thread():
            pass
        assert cv2.getNumThreads() == 1                                # two are still inside
        leave.set()
        for worker in workers:
            worker.join()
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_an_error_inside_puts_them_back_too():
    before = cv2.getNumThreads()
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / 0  # noqa: B018
    assert cv2.getNumThreads() == before


def test_numpys_products_have_one_thread_inside_and_theirs_back_after():
    def counts():
        return [library["num_threads"] for library in threadpoolctl.threadpool_info()
                if library["internal_api"] == "openblas"]
    if not counts():
        pytest.skip("this NumPy brings no OpenBLAS")
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert set(counts()) == {2}
        with one_thread():
            assert set(counts()) == {1}
            with one_thread():
                pass
            assert set(counts()) == {1}
        assert set(counts()) == {2}

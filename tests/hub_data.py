"""A results store to be sent to the Hub, how it is sent, and what is there then."""

from store_data import add, digest, record

from tractbench.results.provenance import environment
from tractbench.results.store import STUDENT, Store

REPO = "someone/digits"


def files(hub, kind="dataset", name=REPO):
    return hub.repos[kind, name].files


def weights(seed):
    return f"students/{digest(f'student {seed}')}/{STUDENT}"


def push(tractbench, *more):
    return tractbench("push", "store", REPO, "--yes", "-q", *more)


def one_line(done):
    """The only line that a command printed on standard error, after its name."""
    (line,) = done.err.strip().splitlines()
    assert line.startswith("tractbench: ")
    return line


def three_runs(tmp_path):
    """Three runs with students and pictures, one that failed, and what must not be sent."""
    store = Store(tmp_path / "runs", create=True)
    for seed, name in enumerate("abc"):
        one = record(name, seed=seed, scores=(1.0 + seed, 2.0, 3.0), environment=environment("cpu"))
        add(store, one)
        (store.root / one.folder / "samples.png").write_bytes(b"picture of " + name.encode())
    store.write(record("d", "failed", seed=3, reason=f"cannot read {tmp_path}/x.npz: no such file"))
    (store.root / "cache").mkdir()
    (store.root / "cache" / "big.npy").write_bytes(b"0")
    return store

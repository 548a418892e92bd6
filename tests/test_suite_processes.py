"""Suites in real processes, killed on the way, and on a cluster that is a few scripts."""

import json
import os
import signal
from pathlib import Path

from forked import until
from suite_data import choice, tiny_folder

from tractbench.pipeline.suite_cells import wanted_cells
from tractbench.pipeline.suite_engine import SlurmEngine, SlurmSettings, read_slurm
from tractbench.pipeline.suite_job import Batch, Item
from tractbench.pipeline.suite_progress import read_report
from tractbench.results.store import Store

LONG = """
title = "Tiny"
dataset = "digits"
tier = "smoke"
protocol = "raw"
metric = "fd_pixel"
training_seeds = "0"
settings = { samples = 20, sampling_seeds = "0", chunk = 10, grid_steps = 16 }
[[row]]
id = "tract"
label = "TRACT"
settings = { method = "tract", budget = "64K" }
cell = [{ nfe = 1 }]
[[row]]
id = "ddim"
label = "DDIM"
settings = { method = "ddim" }
cell = [{ nfe = 1 }]
"""


def training(folder):
    """The report of the job that is training, None if none is."""
    reports = [read_report(path) for path in sorted(Path(folder).glob("suite/*/job-*.json"))]
    return next((r for r in reversed(reports) if r.current and r.current.stage == "training" and not r.finished), None)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_suite_that_is_killed_and_interrupted_ends_with_the_same_numbers(tractbench, forked):
    tiny_folder(LONG)
    command = ("suite", "--table", "tiny", "--tables", "tables", "--runs", "killed", "--json", "--jobs")

    suite = forked(*command, "2")
    job = until(lambda: training("killed"))
    suite.send_signal(signal.SIGKILL)
    suite.wait()
    until(lambda: gone(job.pid))  # it saves and stops when nobody is there any more
    assert list(Path("killed").glob("students/*/checkpoint-*.safetensors"))

    suite = forked(*command, "1")
    until(lambda: (job := training("killed")) and not gone(job.pid) and job)
    os.killpg(suite.pid, signal.SIGINT)  # as a terminal does: the suite's own process group, its jobs included
    suite.wait()
    summary = json.loads(suite.out.splitlines()[-1])
    assert (suite.code, summary["exit"], summary["failed"]) == (75, 75, [])
    assert summary["counts"]["waiting"] >= 1

    assert forked(*command, "1").wait() == 0
    for one in wanted_cells(choice(LONG))[0]:
        config = one.cell.config
        words = ["--method", config.method, "--dataset", "digits", "--tier", "smoke", "--nfe", "1", "--samples", "20"]
        words += ["--sampling-seeds", "0", "--set", "chunk=10", "--set", "grid_steps=16", "--runs", "whole", "--json"]
        words += [] if config.method == "ddim" else ["--budget", "64K"]
        never = tractbench("run", *words).json
        assert never["identity"] == one.id
        found = Store(Path("killed")).find(one.id, config)
        assert {name: metric.model_dump(mode="json") for name, metric in found.metrics.items()} == never["metrics"]


SLURM = {
    "sbatch": """
id=$(( $(cat $D/next 2> /dev/null || echo 100) + 1 )); echo $id > $D/next; cp $1 $D/$id.sh
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' $1)
for task in $(seq 0 ${last:-0}); do
  if [ -n "$last" ]; then export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task; key=${id}_$task; else key=$id; fi
  echo RUNNING > $D/state-$key
  SLURM_JOB_ID=$id KEY=$key nohup bash -c 'while :; do
    bash $D/$SLURM_JOB_ID.sh && end=COMPLETED || end=FAILED
    if [ -e $D/requeue-$KEY ]; then mv $D/requeue-$KEY $D/requeued-$KEY; else break; fi
  done; echo $end > $D/state-$KEY' > $D/out-$key 2>&1 &
done
echo "Submitted batch job $id"
""",
    "srun": """
while [ "${1#--}" != "$1" ]; do [ "$1" = --unbuffered ] && shift || shift 2; done
SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 exec "$@"
""",
    "sacct": """
echo 'JobID|State|NodeList'
for file in $D/state-*; do echo "${file##*/state-}|$(cat $file)|here"; done
""",
    "scancel": "echo $1 > $D/cancelled",
    "scontrol": "touch $D/requeue-$2",
}
"""A cluster of this machine, as far as a suite asks: jobs run at once, and again if that is asked before they end."""


def cluster(monkeypatch, tmp_path):
    """Put the cluster on the PATH, and return the folder where it keeps its jobs."""
    folder, programs = tmp_path / "slurm", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(f"#!/bin/bash\nD={folder}\nexport D\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return folder


def test_an_array_of_jobs_is_queued_with_what_the_settings_say(monkeypatch, tmp_path):
    folder = cluster(monkeypatch, tmp_path)
    Path("cluster.toml").write_text(
        '[slurm]\npartition = "gpu"\naccount = "lab"\ngpus = 4\nnodes = 2\nconstraint = "h100"\ntime = 90\nwarn = 60\n'
        'setup = ["module load cuda"]\nmore = { reservation = "friday" }\n'
    )
    settings = read_slurm(Path("cluster.toml"), {"partition": "long", "account": None})
    engine = SlurmEngine(tmp_path / "jobs", 2, settings)
    monkeypatch.setenv("PYTHONPATH", "")
    nothing = [Batch((), str(tmp_path / "runs"), str(tmp_path / f"job-{n}.json"), 1.0) for n in range(3)]
    jobs = engine.submit(nothing)
    assert [job.name for job in jobs] == ["101_0", "101_1", "101_2"]
    script = (folder / "101.sh").read_text()
    for line in ("partition=long", "account=lab", "gpus-per-node=4", "nodes=2", "constraint=h100", "time=90",
                 "ntasks-per-node=4", "signal=USR2@60", "array=0-2%2", "reservation=friday"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert script.index("module load cuda") < script.index("srun")
    until(lambda: all(job.done() for job in jobs))
    assert all(read_report(tmp_path / f"job-{n}.json").finished for n in range(3))
    jobs[1].stop()  # it has ended: nothing is cancelled
    assert not (folder / "cancelled").exists()


def test_a_job_that_is_preempted_is_queued_again_and_goes_on(monkeypatch, tmp_path):
    folder = cluster(monkeypatch, tmp_path)
    one = next(w.cell for w in wanted_cells(choice(LONG))[0] if w.cell.method.trains)
    engine, report = SlurmEngine(tmp_path / "jobs", 1, SlurmSettings()), tmp_path / "runs/suite/a/job-1.json"
    report.parent.mkdir(parents=True)
    store = Store(tmp_path / "store", create=True)
    items = (Item(one.id, one.student, one.config.model_dump_json()),)
    (job,) = engine.submit([Batch(items, str(store.root), str(report), 60.0)])
    first = until(lambda: training(tmp_path / "runs"))
    os.kill(first.pid, signal.SIGUSR2)  # as Slurm does some time before the end
    until(lambda: (folder / "requeued-101").exists())
    until(job.done)
    assert read_report(report).pid != first.pid
    assert read_report(report).ended[one.id].status == "done"
    assert store.find(one.id, one.config)
    log = next(store.root.glob("cells/*/log.txt")).read_text()
    assert log.count("started: ") == 2
    assert "resuming at step" in "".join(path.read_text() for path in (folder).glob("out-*"))

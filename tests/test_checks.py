"""Every component passes the contract test, and wrong ones are caught by the check that is for their mistake."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_new import installed, written

from tractbench import plugins
from tractbench.checks import check, kinds_of
from tractbench.checks.case import method_case
from tractbench.checks.exact import ExactStudent, solution, teacher, uniforms
from tractbench.checks.finding import examine
from tractbench.checks.methods import CHECKS
from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError
from tractbench.methods.ect import ECT
from tractbench.registry import load_method
from tractbench.seeds import generator

ROOT = Path(__file__).parent.parent
REGISTERED = [(kind, name) for kind in plugins.WORDS for name in plugins.names(kind)]


def failures(findings):
    return {one.check: f"{one.detail}; {one.remedy}" for one in findings if one.status == "failed"}


@pytest.mark.parametrize(("kind", "name"), REGISTERED, ids=[f"{kind}-{name}" for kind, name in REGISTERED])
def test_every_registered_component_passes(kind, name):
    findings = list(check(kind, name))
    assert failures(findings) == {}
    if [one.check for one in findings] != ["weights"]:  # which are fetched, and not here: nothing else can be tried
        assert any(one.status == "passed" for one in findings)


def test_all_kinds_are_registered_but_workloads_of_others():
    assert {kind for kind, _ in REGISTERED} >= set(plugins.WORDS) - {"workloads"}


@pytest.mark.parametrize("process", [VP(), VE(64)])
def test_the_exact_student_solves_the_ode_in_any_number_of_steps(process):
    x = process.prior_std * torch.randn((6, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    one, zero = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for steps in (1, 2, 4):
        found = sample_ode(ExactStudent(process, steps), process, x, Sampler.equal(steps), clip=False)
        torch.testing.assert_close(found, solution(process, x, one, zero), rtol=0, atol=1e-8)
    many = sample_ode(teacher(process), process, x, Sampler.equal(500), clip=False)
    torch.testing.assert_close(solution(process, x, one, zero), many, rtol=0, atol=2e-2)


def test_the_uniforms_are_evenly_spread():
    u = uniforms(64, 2)
    for axis in range(2):
        assert torch.bincount((u[:, axis] * 8).long(), minlength=8).tolist() == pytest.approx([8] * 8, abs=2)


BASE = """
    from typing import ClassVar
    import torch
    from pydantic import Field
    from torch import nn
    from tractbench.diffusion.sampler import Sampler
    from tractbench.diffusion.processes import per_sample
    from tractbench.diffusion.solvers import ddim_inverse, ddim_step
    from tractbench.method import Batch, Method, Nets, Phase, Target, Times, group_times, loss_weight

    class Mutant(Method):
        name: ClassVar[str] = "mutant"
        summary: ClassVar[str] = "a wrong method"
        self_teacher: ClassVar[bool] = True

        def default_schedule(self, nfe):
            return (1024, nfe)

        def target(self, batch, phase, progress, nets):
            process, x_t, times, labels = batch.process, batch.x_t, batch.times, batch.labels
            weight = loss_weight(process, times.t, "truncated_snr")
            x0 = nets.teacher(x_t, times.t, labels)
            if phase.group == 1:
                return Target(x0, weight)
            x_next = ddim_step(process, x_t, x0, times.t, times.t_next)
            x0_next = nets.self_teacher(x_next, times.t_next, labels)
            x_jump = ddim_step(process, x_next, x0_next, times.t_next, times.t_end)
            x_end = torch.where(per_sample(times.t_next == times.t_end, x_t), x_next, x_jump)
            x0_target = ddim_inverse(process, x_t, x_end, times.t, times.t_end)
            return Target(x0_target, weight)
"""
"""A right method, which each mutation makes wrong by replacing some text, or by more methods."""


MORE = {
    "negative loss": "def objective(self, *a):\n return -Method.objective(self, *a)",
    "mean over the batch": "def distance(self, p, t):\n d = super().distance(p, t)\n return d / d.mean()",
    "one number a batch": "def objective(self, *a):\n return super().objective(*a).mean()",
    "student in the target": "def objective(self, b, p, g, n, student):\n"
    " target = student(b.x_t, b.times.t, b.labels).detach()\n"
    " return (student(b.x_t, b.times.t, b.labels) - 0.5 * target).square().flatten(1).sum(1)",
    "told without two_times": "def objective(self, b, p, g, n, student):\n"
    " t = self.target(b, p, g, n)\n"
    " x0 = student(b.x_t, b.times.t, b.labels, b.times.t_end)\n"
    " return (t.weight * (x0 - t.x0).square().flatten(1).sum(1))",
    "end of the group above": "def times(self, u, phase, progress, process):\n x = group_times(u, phase)\n"
    " return Times(x.t, x.t_next, (x.t_end - 1 / phase.end).clamp(min=0))",
    "time above 1": "def times(self, u, phase, progress, process):\n x = group_times(u, phase)\n"
    " return Times(x.t + 0.5, x.t_next, x.t_end)",
    "next time above": "def times(self, u, phase, progress, process):\n x = group_times(u, phase)\n"
    " return Times(x.t_next.clamp(min=1e-3), x.t, x.t_end)",
    "float32 times": "def times(self, u, phase, progress, process):\n return group_times(u.float(), phase)",
    "too many evaluations": "def sampler(self, nfe, process):\n return Sampler.equal(nfe + 1)",
    "solver of another process": "def sampler(self, nfe, process):\n return Sampler.equal(nfe, 'heun')",
    "steps where no jump ends": "def sampler(self, nfe, process):\n"
    " return Sampler(times=tuple(1 - (i / nfe) ** 2 for i in range(nfe + 1)))",
    "phases with a gap": "def phases(self, schedule):\n return super().phases(schedule)[1:]",
    "schedule that ends elsewhere": "def default_schedule(self, nfe):\n return (1024, 1)",
    "option undescribed": "strength: float = 0.5",
    "option of a run's name": "lr: float = Field(0.5, description='rate')",
    "option that JSON changes": "ends: set[int] | list[int] = Field({1}, description='ends')\n"
    "def model_post_init(self, context):\n assert isinstance(self.ends, set)",
    "default of no setting": "defaults: ClassVar[dict] = {'learning_rate': 1.0}",
    "gradient in the target": "def modules(self, shape):\n"
    " return {'scale': nn.ParameterDict({'s': nn.Parameter(torch.ones(1))})}",
    "state in an attribute": "def parameterise(self, network, process):\n return Counting(network)\n\n"
    "class Counting(nn.Module):\n def __init__(self, net):\n  super().__init__()\n  self.net, self.calls = net, 0\n"
    " def forward(self, *a):\n  self.calls += 1\n  return self.net(*a) * (1 + 0.01 * self.calls)",
}
"""What a mutant defines beside, or instead of, what the right method does."""

REPLACED = {
    "sign of a term": ("Target(x0_target, weight)", "Target(2 * x0 - x0_target, weight)"),
    "teacher as self-teacher": ("nets.self_teacher(x_next", "nets.teacher(x_next"),
    "teacher asked at the next time": ("x_t, times.t, labels", "x_t, times.t_next, labels"),
    "label dropped": ("(x_next, times.t_next, labels)", "(x_next, times.t_next)"),
    "random numbers": ("x0_target, weight)", "x0_target, weight * torch.rand(len(x_t)))"),
    "not finite at the start": ("x0_target, weight)", "x0_target, weight / (1 - times.t))"),
    "no self-teacher declared": ("self_teacher: ClassVar[bool] = True", ""),
    "weight of a pixel": ("x0_target, weight)", "x0_target, weight[:, None])"),
    "gradient in the target": ("Target(x0_target,", "Target(x0_target * nets.modules['scale']['s'].double(),"),
}
"""Text of the right method and what a mutant has in its place."""

CAUGHT = {
    "right": None,
    "sign of a term": ("fixed point", "trained away"),
    "teacher as self-teacher": ("fixed point", "trained away"),
    "teacher asked at the next time": ("repeated steps", "phase.group == 1"),
    "label dropped": ("labels", "self_teacher is called without labels"),
    "random numbers": ("bits", "global random generator"),
    "not finite at the start": ("target", "weight is not finite at t = 1"),
    "no self-teacher declared": ("target", "set self_teacher = True"),
    "weight of a pixel": ("target", "weight has shape"),
    "gradient in the target": ("target", "carries a gradient"),
    "negative loss": ("pull", "pushed further away"),
    "mean over the batch": ("bits", "depends on the others"),
    "one number a batch": ("loss", "one number for each example"),
    "student in the target": ("student", "called 2 times"),
    "told without two_times": ("student", "set two_times = True"),
    "end of the group above": ("times", "lower end of its group"),
    "time above 1": ("times", "t is 1.5"),
    "next time above": ("times", "t_next is above t"),
    "float32 times": ("times", "return float64"),
    "too many evaluations": ("sampler", "spends 2 evaluations"),
    "solver of another process": ("a run is set up", "not for process 'vp'"),
    "steps where no jump ends": ("samples", "sampled in 2 evaluations"),
    "phases with a gap": ("phases", "start the first at the first entry"),
    "schedule that ends elsewhere": ("phases", "ends at 1; end it at 2"),
    "option undescribed": ("options", "'strength' has no description"),
    "option of a run's name": ("options", "rename it"),
    "option that JSON changes": ("options", ""),
    "default of no setting": ("declaration", "'learning_rate' is no run setting"),
    "state in an attribute": ("resume", "parameters and buffers"),
}
"""The first check that fails, and words that say what to do."""


def first_failure(site, kind, name, source):
    file = site / "mutant.py"
    file.write_text(source)
    plugins.use_files([file])
    return next((found for found in check(kind, name) if found.status == "failed"), None)


def mutant(name):
    before, after = REPLACED.get(name, ("", ""))
    source = textwrap.dedent(BASE)
    assert before in source
    return source.replace(before, after) + textwrap.indent(MORE.get(name, ""), "    ").replace("    class ", "class ")


@pytest.mark.parametrize("name", CAUGHT)
def test_a_wrong_method_is_caught_by_the_check_that_is_for_it(site, name):
    found = first_failure(site, "methods", "mutant", mutant(name))
    if CAUGHT[name] is None:
        assert found is None
        return
    named, words = CAUGHT[name]
    assert found is not None
    assert found.check == named
    assert words in f"{found.detail}; {found.remedy}"
    assert found.remedy


@pytest.mark.parametrize(("kind", "found"), [("fresh noise", ""), ("none", "sampled in 2 evaluations"),
                                             ("too little", "sampled in 2 evaluations")])  # fmt: skip
def test_samples_of_a_consistency_model_need_the_noise_of_its_levels(kind, found):
    class Sampled(ECT):
        def sampler(self, nfe, process):
            right = super().sampler(nfe, process)
            landing = {"fresh noise": right.noise, "none": (), "too little": tuple(t / 2 for t in right.times[1:-1])}
            return Sampler(times=right.times, noise=landing[kind])

    case = replace(method_case(ECT, "ve"), method=Sampled())
    (said,) = examine("method", "sampled", case, [one for one in CHECKS if one.name == "samples"])
    assert said.status == ("failed" if found else "passed")
    assert found in said.detail


def test_a_wrong_time_shows_in_the_order(site):
    orders = []
    for text in ("(x_next, times.t_next, labels)", "(x_next, times.t, labels)"):
        plugins.forget()
        (site / "mutant.py").write_text(mutant("right").replace("(x_next, times.t_next, labels)", text))
        plugins.use_files([site / "mutant.py"])
        method = load_method("mutant")
        table = [one for one in CHECKS if one.name == "fixed point"]
        (found,) = examine("method", "mutant", method_case(method, "vp"), table)
        orders.append(float(found.detail.split("order ")[1].split()[0]))
    assert orders[0] == pytest.approx(2, abs=0.2)
    assert orders[1] < 1.5


DATASET = """
    from typing import ClassVar
    from functools import cached_property
    import torch
    from tractbench.datasets.base import Dataset
    from tractbench.datasets.workload import WORKLOADS

    class Mutant(Dataset):
        name: ClassVar[str] = "mutant"
        summary: ClassVar[str] = "noise"
        shape: ClassVar[tuple] = (1, 8, 8)
        levels: ClassVar[int] = 17
        classes: ClassVar[int] = 4
        workload_file = WORKLOADS / "mixture.toml"

        @cached_property
        def train(self):
            return torch.randint(17, (64, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)

        @cached_property
        def held_out(self):
            return torch.randint(17, (32, 1, 8, 8), generator=torch.Generator().manual_seed(2)).to(torch.uint8)

        @property
        def train_labels(self):
            return torch.arange(64) % 4
"""


@pytest.mark.parametrize(
    ("before", "after", "named", "words"),
    [("(64, 1, 8, 8)", "(64, 1, 8, 4)", "images", "[N, 1, 8, 8]"),
     ("levels: ClassVar[int] = 17", "levels: ClassVar[int] = 16", "images", "grey level 16"),
     ("classes: ClassVar[int] = 4", "classes: ClassVar[int] = 3", "labels", "from 0 to 3 of 3 classes"),
     ("classes: ClassVar[int] = 4", "classes: ClassVar[int] = 0", "labels", "set classes"),
     ("manual_seed(2)", "manual_seed(torch.seed())", "fingerprint", "differs"),
     ("(32, 1, 8, 8), generator=torch.Generator().manual_seed(2)",
      "(64, 1, 8, 8), generator=torch.Generator().manual_seed(1)", "disjoint", "100.0% of the held-out"),
     ("classes: ClassVar[int] = 4", "def decode(self, g):\n        return 1.5 * super().decode(g)\n    classes = 4",
      "levels", "reach 1.5")],
)  # fmt: skip
def test_a_wrong_data_set_is_caught(site, before, after, named, words):
    source = textwrap.dedent(DATASET)
    assert before in source
    found = first_failure(site, "datasets", "mutant", source.replace(before, after))
    assert found is not None
    assert found.check == named
    assert words in f"{found.detail}; {found.remedy}"


EXTRACTOR = """
    import torch
    from tractbench.evaluation.extractors.base import Extractor

    class Mutant(Extractor):
        name = "mutant"
        hash = "rows"

        def __call__(self, grey):
            x = self.dataset.decode(grey).double().mean(-1).flatten(1)
            return CHANGE
"""


@pytest.mark.parametrize(
    ("change", "named"),
    [("x", None), ("x - x.mean(0)", "batches"), ("x + torch.rand(1)", "shape"), ("x[0]", "shape"), ("x * 0", "shape")],
)
def test_a_wrong_extractor_is_caught(site, change, named):
    found = first_failure(site, "extractors", "mutant", textwrap.dedent(EXTRACTOR).replace("CHANGE", change))
    assert (found and found.check) == named


NETWORK = """
    import torch
    from torch import nn

    class Mutant(nn.Module):
        name = "mutant"

        def __init__(self, channels, size, width, classes=0):
            super().__init__()
            pixels = channels * size * size
            self.inner, self.outer = nn.Linear(pixels + 1, width), nn.Linear(width, pixels)
            self.label = nn.Embedding(classes, width) if classes else None

        def initialise(self, generator):
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.1, generator=generator)

        def forward(self, x, noise_level, labels=None):
            h = self.inner(torch.cat([x.flatten(1), noise_level[:, None]], 1))
            if self.label is not None:
                h = h + self.label(labels)
            return self.outer(torch.tanh(h)).reshape(x.shape)
"""


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [("super().__init__()", "super().__init__()", None),
     ("for parameter in self.parameters()", "for parameter in [*self.parameters()][1:]", "build"),
     ("generator=generator", "generator=None", "build"),
     ("reshape(x.shape)", "reshape(x.shape).float()", "output"),
     ("torch.tanh(h)", "torch.tanh(h - h.mean(0))", "output"),
     ("torch.tanh(h)", "torch.tanh(h).detach()", "gradients"),
     ("h + self.label(labels)", "h + 0 * self.label(labels)", "gradients"),
     ("h + self.label(labels)", "h + self.label(0 * labels)", "inputs"),
     ("noise_level[:, None]", "0 * noise_level[:, None]", "inputs"),
     ("x.flatten(1), noise_level", "x.flatten(1), noise_level.detach()", "forward mode")],
)  # fmt: skip
def test_a_wrong_network_is_caught(site, before, after, named):
    source = textwrap.dedent(NETWORK)
    assert before in source
    found = first_failure(site, "networks", "mutant", source.replace(before, after))
    assert (found and found.check) == named, found


PROCESS = """
    from typing import ClassVar
    from dataclasses import dataclass
    import torch
    from tractbench.diffusion.processes import VP, Scales

    @dataclass(frozen=True, kw_only=True)
    class Mutant(VP):
        name: ClassVar[str] = "mutant"
        log_snr_max: float = 16.0
        CHANGE
"""


@pytest.mark.parametrize(
    ("change", "named"),
    [("", None), ("def sigma(self, t):\n  return super().sigma(t).float()", "float64"),
     ("def alpha(self, t):\n  return super().alpha(1 - t)", "monotone"),
     ("prior_std = 2.0", "ends"), ("sigma_max = 80.0", "ends"),
     ("def time(self, ratio):\n  return super().time(ratio * 1.01)", "time"),
     ("def log_snr(self, t):\n  return super().log_snr(t) / 2", "scales"),
     ("def scales(self, t, s):\n  x = super().scales(t, s)\n  return Scales(*x[:2], -x.cross)", "scales")],
)  # fmt: skip
def test_a_wrong_process_is_caught(site, change, named):
    source = textwrap.dedent(PROCESS).replace("    CHANGE", textwrap.indent(change, "    "))
    found = first_failure(site, "processes", "mutant", source)
    assert (found and found.check) == named, found


@pytest.mark.parametrize("what", ["method", "dataset", "extractor"])
def test_what_new_writes_passes_before_anything_is_changed(site, tmp_path, tractbench, what):
    installed(written(tractbench, what, "fresh", tmp_path / "made"), site)
    assert kinds_of("fresh") == (f"{what}s",)
    assert failures(check(f"{what}s", "fresh")) == {}


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [("methods", "meanflow", "fixed point"), ("datasets", "iris", "run"), ("extractors", "spectrum", "batches")],
)
def test_the_examples_pass(site, kind, name, what):
    installed(ROOT / "examples" / f"tractbench-{name}", site)
    findings = list(check(kind, name))
    assert failures(findings) == {}
    assert {one.check: one.status for one in findings}[what] == "passed"


def test_the_command_line_shows_findings_and_says_by_its_exit_status(tractbench, site, tmp_path):
    right = tractbench("check", "pixel")
    assert right.code == 0
    assert "3 passed, 0 failed" in right.out
    wrong = tmp_path / "wrong.py"
    wrong.write_text(textwrap.dedent(EXTRACTOR).replace("CHANGE", "x[0]"))
    failed = tractbench("check", "--plugin", wrong, "--json")
    assert failed.code == 1
    assert not failed.json["passed"]
    assert {"kind": "feature extractor", "component": "mutant", "check": "shape", "status": "failed"}.items() <= (
        failed.json["findings"][0].items()
    )
    assert json.loads(tractbench("check", "vp", "--kind", "process", "--json").out)["passed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("tract_edn",), "did you mean 'tract_edm'?"), ((), "give a NAME"), (("vp", "--kind", "method"), "leave --kind"),
     (("vp", "--kind", "methd"), "did you mean 'method'?"), (("x", "--plugin", "none.py"), "cannot read plugin")],
)  # fmt: skip
def test_what_is_not_there_ends_with_two(tractbench, arguments, words):
    refused = tractbench("check", *arguments)
    assert refused.code == 2
    assert words in refused.err


def test_what_cannot_be_loaded_is_a_finding(site):
    found = first_failure(site, "datasets", "mutant", textwrap.dedent(DATASET).replace("(1, 8, 8)", "(1, 8, 8)")
                          + "\n    def __init__(self):\n        raise KeyError('secret')\n")  # fmt: skip
    assert found is not None
    assert found.check == "load"
    assert "KeyError" in found.detail


def test_nothing_to_check_is_no_component():
    with pytest.raises(ConfigError, match="no component 'nonsense-zzz'"):
        kinds_of("nonsense-zzz")

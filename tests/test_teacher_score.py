"""A teacher's own samples beside what is reported of it."""

import math
import shutil
import statistics

import numpy as np
import pytest
import torch
from scipy.stats import norm
from scipy.stats import t as student_t

from tractbench.config.resolve import resolve
from tractbench.diffusion.processes import load_process
from tractbench.evaluation.protocols import load_protocol
from tractbench.pipeline.teacher_score import scoring_settings
from tractbench.registry import load_dataset
from tractbench.reports.verdicts.teachers import MARGIN, judge_teacher
from tractbench.results.record import Metric, Record, RecordedConfig
from tractbench.results.statistics import minimum_std
from tractbench.teachers.card import TeacherCard, read_card, to_toml
from tractbench.teachers.load import teacher_hash
from tractbench.teachers.published import published_teachers, reported_figures
from tractbench.teachers.reported import Reported

EDM = published_teachers()["edm-cifar10-uncond-ve"]
GOOGLE = published_teachers()["google-cifar10"]


def card_of(published):
    """A card as an import of the published teacher writes it, as far as sampling asks."""
    return TeacherCard.model_validate(
        {**{name: getattr(published, name) for name in ("name", "summary", "network", "arguments", "licence")},
         **{name: getattr(published, name) for name in ("dataset", "process", "parameterisation", "parameters")},
         "file": "w", "sha256": "s", "command": "c",
         "origin": {"file": "f", "sha256": "s", "format": published.format, "published": published.name}}
    )  # fmt: skip


def run_of(settings, scores, metric="fid", **changes):
    config, _, _ = resolve(settings)
    return Record.model_validate(
        {"identity": "i", "student": "s", "training_version": 1, "scoring_version": 1, "status": "done", "folder": "f",
         "created": "2026-01-01T00:00:00+00:00", "config": RecordedConfig.of(config),
         "metrics": {metric: Metric.of(scores)}, **changes}
    )  # fmt: skip


def edm_run(scores, **settings):
    return run_of(scoring_settings("edm-cifar10-uncond-ve", card_of(EDM), EDM.figures[0]) | settings, scores)


@pytest.mark.parametrize("name", [name for name, one in published_teachers().items() if one.figures])
def test_a_card_says_how_its_figure_was_made(name):
    published = published_teachers()[name]
    for figure in published.figures:
        protocol = load_protocol(figure.protocol)
        assert (figure.metric, figure.samples) == (protocol.metrics[0], protocol.samples)
        if figure.aggregation == "minimum":
            assert (protocol.reported, protocol.seeds) == ("minimum", figure.runs)
        data = load_dataset(figure.dataset or published.dataset)
        assert bool(data.classes) == bool(published.arguments.get("classes"))
        if not figure.cannot:
            config, method, _ = resolve(scoring_settings(name, card_of(published), figure))
            assert method.sampler(config.nfe, None).evaluations == figure.nfe == config.nfe


def test_edm_is_sampled_on_its_own_noise_levels():
    """t_i of Karras et al. 2022, eq. 5: N = 18, rho = 7, 0.002 to 80, then 0; Heun's method but for the last step."""
    config, method, _ = resolve(scoring_settings("edm-cifar10-uncond-ve", card_of(EDM), EDM.figures[0]))
    process = load_process(config.process, config.grid_steps)
    sampler = method.sampler(config.nfe, process)
    index = np.arange(18)
    levels = (80 ** (1 / 7) + index / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = torch.tensor(sampler.times, dtype=torch.float64)
    assert process.sigma(times).numpy() == pytest.approx([*levels, 0], rel=1e-12)
    assert (sampler.solver, sampler.evaluations, config.sampling_seeds) == ("heun", 35, (0, 1, 2))
    assert (config.samples, config.protocol) == (50_000, "edm")


def test_without_a_figure_the_sampler_is_the_one_that_students_learn_from():
    assert reported_figures(card_of(GOOGLE)) == ()
    config, _, _ = resolve(scoring_settings("google-cifar10", card_of(GOOGLE), None))
    assert (config.nfe, config.grid_steps, config.protocol, config.samples) == (1024, 1024, "tract", 50_000)
    imagenet = published_teachers()["edm-imagenet64-adm"]
    (figure,) = imagenet.figures
    config, _, _ = resolve(scoring_settings("edm-imagenet64-adm", card_of(imagenet), figure))
    assert (config.nfe, config.grid_steps, config.dataset) == (79, 40, "imagenet64:lanczos")
    verdict = judge_teacher(
        "t", run_of(scoring_settings("t", card_of(imagenet), figure), [2.2, 2.3, 2.2]), "fid", figure
    )
    assert verdict.verdict == "no verdict"
    assert "stochastic" in verdict.notes[0]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_least_of_k_numbers_spreads_as_simulated(k):
    known = {1: 1.0, 2: math.sqrt(1 - 1 / math.pi), 3: math.sqrt(1 + math.sqrt(3) / (2 * math.pi) - 9 / (4 * math.pi))}
    drawn = norm.rvs(size=(200_000, k), random_state=k).min(1).std()
    assert minimum_std(k) == pytest.approx(known.get(k, drawn), rel=1e-6 if k in known else 0.01)


def test_a_minimum_is_compared_with_ours_over_as_many_sets():
    scores = [1.99, 1.97, 2.01]
    verdict = judge_teacher("t", edm_run(scores), "fid", EDM.figures[0])
    own = minimum_std(3) * statistics.stdev(scores)
    half = student_t.ppf(0.975, 2) * math.sqrt(2) * own  # the published minimum is one of as many sets too
    assert verdict.estimate == 1.97
    assert verdict.interval == pytest.approx(
        (1.97 - student_t.ppf(0.975, 2) * own, 1.97 + student_t.ppf(0.975, 2) * own)
    )
    assert verdict.difference_95 == pytest.approx((-0.01 - half, -0.01 + half))
    assert (verdict.verdict, verdict.margin) == ("reproduced", pytest.approx(0.05 * 1.98))


def test_a_mean_is_compared_with_the_figures_own_error():
    written = EDM.figures[0].model_dump(exclude={"runs"})
    figure = Reported.model_validate(written | {"aggregation": "mean", "error": 0.02})
    scores = [1.99, 1.97, 2.01]
    verdict = judge_teacher("t", edm_run(scores), "fid", figure)
    error = math.hypot(statistics.stdev(scores) / math.sqrt(3), 0.02)
    assert verdict.estimate == statistics.fmean(scores)
    assert verdict.difference_95[1] == pytest.approx(0.01 + student_t.ppf(0.975, 2) * error)


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [([1.98, 1.99, 1.985], "reproduced"), ([8.0, 8.1, 8.05], "contradicted"), ([1.9, 2.6, 3.1], "inconclusive"),
     ([2.0, 2.0, 2.0], "inconclusive")],
)  # fmt: skip
def test_the_rule_is_that_of_published_figures(scores, verdict):
    assert judge_teacher("t", edm_run(scores), "fid", EDM.figures[0]).verdict == verdict


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"samples": 1000}, "1,000 samples, the reported figure of 50,000"), ({"protocol": "tract"}, "protocol tract"),
     ({"nfe": 17, "grid_steps": 9}, "18 steps of Heun"), ({"sampling_seeds": (0, 1)}, "least of 3 sets"),
     ({"dataset": "cifar10:conditional", "teacher": "x"}, "cifar10:conditional")],
)  # fmt: skip
def test_what_does_not_compare_gets_no_verdict(changes, word):
    figure = EDM.figures[0].model_copy(update={"dataset": "cifar10"})
    verdict = judge_teacher("t", edm_run([1.98] * len(changes.get("sampling_seeds", "abc")), **changes), "fid", figure)
    assert verdict.verdict == "no verdict"
    assert any(word in note for note in verdict.notes)


def test_a_run_that_deviates_gets_no_verdict():
    record = edm_run([1.98, 1.99, 1.97]).model_copy(update={"deviations": ("not the published Inception weights",)})
    verdict = judge_teacher("t", record, "fid", EDM.figures[0])
    assert (verdict.verdict, verdict.notes) == ("no verdict", record.deviations)


def test_figures_are_no_part_of_a_teachers_name(own_card):
    data, process = load_dataset("digits"), load_process("ve")
    figures = (Reported(value=1.5, **FEW),)
    assert teacher_hash(str(own_card(*figures)), data, process) == teacher_hash(str(own_card()), data, process)


FEW = {
    "sampler": "Euler's method, 4 steps", "nfe": 4, "metric": "fd_pixel", "samples": 2000, "protocol": "raw",
    "source": "a test", "aggregation": "mean",
}  # fmt: skip


@pytest.fixture
def own_card(tmp_path):
    """Makes a card of the shipped teacher's weights with other figures."""

    def make(*figures):
        card, folder = read_card("digits-ve", TeacherCard)
        shutil.copy(folder / card.file, tmp_path / card.file)
        path = tmp_path / "mine.toml"
        path.write_text(to_toml(card.model_copy(update={"name": "mine", "figures": figures})), encoding="utf-8")
        return path

    return make


def test_a_card_with_figures_is_read_as_it_was_written(own_card):
    figures = (Reported(value=1.5, settings={"solver": "heun", "clip_sample": True}, **FEW), Reported(value=2, **FEW))
    assert read_card(str(own_card(*figures)), TeacherCard)[0].figures == figures


def test_a_wrong_teacher_is_seen_and_a_right_one_found_done(tractbench, own_card):
    path = own_card(Reported(value=10.0, **FEW))
    wrong = tractbench("teacher", "score", path, "--quiet", "--json")
    assert (wrong.code, wrong.json["verdict"], wrong.json["reused"]) == (1, "contradicted", False)
    ours = wrong.json["estimate"]
    path = own_card(Reported(value=round(ours, 3), **FEW))
    right = tractbench("teacher", "score", path, "--quiet", "--json")
    assert (right.code, right.json["verdict"], right.json["reused"]) == (0, "reproduced", True)
    assert right.json["margin"] == pytest.approx(MARGIN.of(round(ours, 3)))
    shown = tractbench("teacher", "score", path, "--quiet")
    assert "reproduced" in shown.out
    assert "source: a test" in shown.out
    none = tractbench(
        "teacher", "score", own_card(Reported(value=1.0, **FEW | {"samples": 5000})), "--quiet", "--samples", 2000
    )
    assert none.code == 0
    assert "no verdict: of 2,000 samples, the reported figure of 5,000" in none.out
    assert "tractbench teacher download" in tractbench("teacher", "score", "edm-cifar10-uncond-ve").err

"""The demo: what is computed for it, and the page as its readers use it."""

import base64
import io
import json
import math
import re
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from browser_data import BROWSER, Opened, contrast
from PIL import Image
from scipy.stats import t as student_t

from tractbench.diffusion.processes import load_process
from tractbench.evaluation.sampling import prior_noise
from tractbench.pipeline import demo as computing
from tractbench.pipeline import demo_walks
from tractbench.pipeline.demo import compute
from tractbench.pipeline.demo_images import NOISES
from tractbench.progress import Progress
from tractbench.registry import load_dataset
from tractbench.reports.demo import NOISE_RANGE, UNIT, render_demo
from tractbench.reports.demo_figures import figures, line_of
from tractbench.results.store import GRID, TEACHER_GRID, Store

pytestmark = BROWSER  # all in one worker: what the page shows takes a while to compute
HOSTILE = "</script><script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def steps():
    """Fewer steps of the teacher than the demo has: seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(computing, "STEPS", (1, 2, 4, 8, 16))
        patch.setattr("tractbench.reports.demo.STEPS", (1, 2, 4, 8, 16))
        patch.setattr(computing, "ODE_STEPS", 256)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory, smoke_run):
    folder = tmp_path_factory.mktemp("demo") / "runs"
    shutil.copytree(smoke_run[0], folder)
    return folder


@pytest.fixture(scope="module")
def made(steps, runs):
    return compute(Store(runs).records(), runs, Progress())


@pytest.fixture(scope="module")
def text(made, runs):
    return render_demo(made, Store(runs).records(), [], "tractbench demo", "runs")


@pytest.fixture(scope="module")
def page(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "demo.html"
    path.write_text(text, encoding="utf-8")
    return path


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def mosaic(path):
    """The images of a run's picture, pixel for pixel, [36, 8, 8] in 0..255."""
    pixels = np.asarray(Image.open(path))
    return np.stack(
        [pixels[9 * row : 9 * row + 8, 9 * column : 9 * column + 8] for row in range(6) for column in range(6)]
    )


def test_students_and_teacher_make_what_the_runs_own_pictures_show(made, runs):
    (record,) = Store(runs).records()
    *_, student = made.made
    assert student.record == record
    shown = ((student.images[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    assert (shown == mosaic(runs / record.folder / GRID)).all()
    target = mosaic(runs / record.folder / TEACHER_GRID) / 127.5 - 1
    distances = np.sqrt(np.square(student.images[:, 0].numpy() - target).mean((1, 2)))
    assert student.distances.numpy() == pytest.approx(distances, abs=1e-2)  # the picture's levels are rounded


def test_more_steps_of_the_teacher_come_nearer_to_all_its_steps(made):
    means = [float(one.distances.mean()) for one in made.made if one.record is None]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.2 < means[0]


def test_the_sprite_has_noises_then_a_row_a_sampler(made, text):
    sprite = Image.open(io.BytesIO(base64.b64decode(re.search(r"image/png;base64,([^)]+)\)", text)[1])))
    assert sprite.size == (8 * NOISES, 8 * (1 + len(made.made)))
    pixels = np.asarray(sprite).astype(float)
    data = data_of(text)
    noise = prior_noise(load_process("vp"), (1, 8, 8), 0, range(NOISES))[7, 0].numpy()
    assert pixels[:8, 56:64] == pytest.approx(127.5 + 127.5 * np.clip(noise / NOISE_RANGE, -1, 1), abs=0.51)
    for card in data["cards"]:
        for shot in card:
            row = 8 * shot["row"]
            want = made.made[shot["row"] - 1].images[7, 0].numpy()
            assert pixels[row : row + 8, 56:64] == pytest.approx(127.5 + 127.5 * want, abs=0.51)


def test_the_ode_leads_into_the_modes_and_one_step_of_the_teacher_to_the_mean(made):
    data = load_dataset("mixture2d")
    ends = made.ode.states[-1]
    assert float(torch.cdist(ends, data.means).min(1).values.quantile(0.99)) < 4 * 0.06
    one = made.walks[0]
    assert one.nfe == 1
    assert float(one.states[-1].norm(dim=1).max()) < 0.05  # E[x0 | noise] is nearly the mean, which is 0
    far = [float((walk.states[-1] - ends).norm(dim=1).mean()) for walk in made.walks]
    assert far == sorted(far, reverse=True)


def test_ways_of_any_process_are_in_the_same_coordinates():
    """With a constant denoiser, DDIM's states lie on x0 cos(angle) + eps sin(angle), whatever the process."""
    x0, eps = torch.tensor([0.3, -0.5]), torch.tensor([1.1, 0.2])
    for name in ("vp", "ve"):
        process = load_process(name)
        times = [1.0, 0.7, 0.2, 0.0]
        t = torch.tensor(times, dtype=torch.float64)
        states = process.alpha(t)[:, None] * x0 + process.sigma(t)[:, None] * eps
        angles, normal = demo_walks._normal(process, times, states[:, None, :, None, None])
        assert normal[:, 0] == pytest.approx(torch.cos(angles)[:, None] * x0 + torch.sin(angles)[:, None] * eps)
        assert float(angles[0]) == pytest.approx(math.pi / 2, abs=0.02)


def test_packed_ways_are_the_computed_ones(made, text):
    packed = data_of(text)["ode"]
    states = np.frombuffer(base64.b64decode(packed["states"]), "<i2").reshape(made.ode.states.shape) / UNIT
    assert states == pytest.approx(made.ode.states.numpy().clip(-4, 4), abs=1 / UNIT)


def test_figures_are_means_over_training_seeds_with_their_interval(runs):
    (record,) = Store(runs).records()

    def run(seed, *scores):
        metric = record.metrics["fd_pixel"].of(scores)
        config = record.config.model_copy(update={"seed": seed, "sampling_seeds": tuple(range(len(scores)))})
        return record.model_copy(update={"config": config, "metrics": {"fd_pixel": metric}})

    (figure,) = figures([run(0, 1.0, 2.0), run(1, 2.0, 2.0), run(2, 4.0, 4.0)], "yours")
    means = [1.5, 2.0, 4.0]
    half = student_t.ppf(0.975, 2) * statistics.stdev(means) / math.sqrt(3)
    assert (figure.n, figure.mean) == (3, 2.5)
    assert figure.interval == pytest.approx((2.5 - half, 2.5 + half))
    (alone,) = figures([run(0, 1.0, 2.0)], "shipped")
    assert (alone.interval, alone.seeds) == (None, "2 sampling seeds")
    other = run(0, 1.0, 2.0)
    other = other.model_copy(update={"config": other.config.model_copy(update={"schedule": (16, 1)})})
    assert line_of(other) != line_of(record)  # another schedule is another line, another NFE is not


def test_the_page_needs_nothing_from_outside(text):
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "@import" not in text


def test_slider_and_buttons_change_what_is_seen(browser, page, runs):
    demo = Opened(browser, page, viewport={"width": 1200, "height": 900})
    find = demo.page.locator
    ddim, tract = find("li.card").nth(0), find("li.card").nth(1)
    assert tract.locator("h3").inner_text() == "tract"
    first = ddim.locator(".tile").screenshot()
    assert find("#spent").inner_text() == "1"
    score = figures(Store(runs).records(), "yours")[0].text
    assert f"FD {score}" in tract.inner_text()
    assert find("#distances td.here").all_inner_texts() == [score]
    find("#nfe").focus()
    demo.page.keyboard.press("End")  # the slider by the keyboard
    assert find("#spent").inner_text() == "16"
    assert "16 NFE" in ddim.inner_text()
    assert "1 NFE, the most it was run with" in tract.inner_text()
    assert "16 network evaluations" in ddim.locator(".tile").get_attribute("aria-label")
    many = ddim.locator(".tile").screenshot()
    assert many != first
    find("#next").click()
    assert find("#which").inner_text() == "Noise 2 of 36"
    assert ddim.locator(".tile").screenshot() != many
    find("#before").click()
    find("#before").click()
    assert find("#which").inner_text() == "Noise 36 of 36"
    find(".strip button").first.click()
    assert find("#spent").inner_text() == "1"
    assert demo.complaints == []
    demo.page.close()


def test_points_move_with_time_and_the_sampler_can_be_chosen(browser, page):
    demo = Opened(browser, page, viewport={"width": 1200, "height": 900})
    find, time = demo.page.locator, demo.page.locator("#time")
    data = find("#few").screenshot()
    time.focus()
    demo.page.keyboard.press("Home")
    assert find("#at").inner_text() == "1.00"
    noise = find("#few").screenshot()
    assert noise != data
    assert "Ends" in find("#few-text").inner_text()
    find("#sampler").select_option(index=5)
    assert "32 steps" in find("#few-text").inner_text()
    demo.page.keyboard.press("End")
    find("#play").click()
    demo.page.wait_for_function("Number(document.getElementById('time').value) > 2")
    find("#play").click()
    assert find("#play").inner_text() == "Play"
    assert demo.complaints == []
    demo.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light"), (320, "light")])
def test_the_page_fits_its_window_and_its_text_can_be_read(browser, page, width, scheme):
    demo = Opened(browser, page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert demo.page.evaluate("document.documentElement.scrollWidth") <= width
    colours = demo.page.evaluate(
        "[document.documentElement, document.body].map((e, i) => getComputedStyle(e)[i ? 'color' : 'backgroundColor'])"
    )
    assert contrast(*([float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]] for colour in colours)) >= 7
    unnamed = "[...document.querySelectorAll('[role=img]')].filter(e => !e.getAttribute('aria-label')).length"
    assert demo.page.evaluate(unnamed) == 0
    assert demo.complaints == []
    demo.page.close()


def test_hostile_names_are_text(browser, made, runs, tmp_path):
    (record,) = Store(runs).records()
    config = record.config.model_copy(update={"method": HOSTILE})
    hostile = record.model_copy(update={"config": config, "command": HOSTILE})
    *others, student = made.made
    changed = replace(made, made=(*others, replace(student, record=hostile)), left_out=(HOSTILE,))
    path = tmp_path / "demo.html"
    path.write_text(render_demo(changed, [hostile], [], HOSTILE, HOSTILE), encoding="utf-8")
    demo = Opened(browser, path)
    assert demo.complaints == []
    assert demo.page.evaluate("document.scripts.length") == 2  # the data and the page's own
    assert demo.page.locator("li.card h3").nth(1).inner_text() == HOSTILE
    demo.page.close()


def test_the_command_writes_the_same_bytes_and_names_what_it_cannot_show(
    steps, tractbench, runs, tmp_path, monkeypatch
):
    shutil.copytree(runs, tmp_path / "runs")
    (weights,) = (tmp_path / "runs" / "students").glob("*/student.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4])
    written, opened = [], []
    monkeypatch.setattr("webbrowser.open", opened.append)  # None is what no browser comes to
    for options in ((), ("--open",)):
        done = tractbench("demo", "--quiet", *options)
        left_out, wrote, *more = done.err.splitlines()
        assert [line.partition(" can")[0] for line in more] == ["no browser"] * len(options)
        assert (done.code, wrote) == (0, "wrote demo.html")
        assert str(weights.relative_to(tmp_path)) in left_out
        written.append((tmp_path / "demo.html").read_text(encoding="utf-8"))
    assert opened == [(tmp_path / "demo.html").as_uri()]
    assert written[0].replace("tractbench demo --quiet", "") == written[1].replace("tractbench demo --quiet --open", "")
    assert "tractbench demo --train" in written[0]  # there is no student that can be shown
    assert len(written[0]) < 3e6


def test_a_folder_is_no_page_and_nothing_is_computed_for_it(tractbench, tmp_path):
    refused = tractbench("demo", "--out", tmp_path)
    assert refused.code == 2
    assert "it is a folder" in refused.err

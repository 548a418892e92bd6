"""The report as its readers open it: in a browser, and compiled by LaTeX."""

import re
import subprocess

import pytest
from browser_data import BROWSER, Opened, contrast
from report_data import fill, needs, record
from test_paper_report import HOSTILE, SCORES, TABLES, hostile_tables

from tractbench.config.resolve import resolve
from tractbench.reports.document import Selection, compose
from tractbench.reports.latex.document import PACKAGES, latex_tables, write_latex
from tractbench.reports.latex.text import LATEX, escape_latex
from tractbench.reports.render import render_html
from tractbench.results.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("made") / "runs", create=True)
    fill(store, TABLES["cifar10"], SCORES)
    digits = [[2.0, 2.1], [2.2, 2.1], [2.1, 2.1], [2.0, 2.2], [2.1, 2.3]]
    fill(store, TABLES["digits"], {"tract/1": digits, "tract/2": digits[:2], "btd/1": digits})
    return store


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(compose(store, TABLES, Selection()), "tractbench report"), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page):
    pages = []

    def at(**settings):
        pages.append(Opened(browser, page, **settings))
        return pages[-1]

    yield at
    for page in pages:
        page.page.close()


@BROWSER
def test_a_reader_sorts_a_table_and_follows_a_cell_to_what_stands_behind_it(opened):
    report = opened()
    button = report.page.locator("#cifar10-cells thead button", has_text="FID, published")
    button.click()
    shown = [float(re.match(r"[\d.]+", text)[0]) for text in report.column("cifar10-cells", 3)]
    assert shown == sorted(shown)
    assert len(shown) == len(TABLES["cifar10"].cells)
    button.click()
    assert [float(re.match(r"[\d.]+", text)[0]) for text in report.column("cifar10-cells", 3)] == shown[::-1]
    report.page.locator("#cifar10-cells thead button", has_text="FID, ours").click()
    ours = report.column("cifar10-cells", 4)
    assert ours[0].startswith("3.950")
    assert ours[-1].startswith("not run")  # what there is not sorts last, in either direction
    report.page.locator("#cifar10-cells thead button", has_text="FID, ours").click()
    turned = report.column("cifar10-cells", 4)
    assert turned[0].startswith("9.150")
    assert turned[-1].startswith("not run")
    report.page.locator("#cifar10-cells thead button", has_text="Method").press("Enter")
    methods = [re.sub(r"\W.*", "", text.replace("-", "")) for text in report.column("cifar10-cells", 1)]
    assert methods.index("TRACT96M") < methods.index("TRACT256M")
    behind = report.page.locator("#behind-cifar10-tract-256m-1")
    assert not behind.get_by_text("tractbench run --method tract").first.is_visible()
    report.page.locator("#cifar10-cells a", has_text="4.442").click()
    assert report.page.url.endswith("#behind-cifar10-tract-256m-1")
    assert behind.get_by_text("tractbench run --method tract").first.is_visible()
    assert "0: 4.4, 1: 4.42" in behind.inner_text()
    assert report.complaints == []


@BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_its_window_and_its_text_can_be_read(opened, width, scheme):
    report = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert report.page.evaluate("document.documentElement.scrollWidth") <= width
    colours = report.page.evaluate(
        """() => [getComputedStyle(document.documentElement).backgroundColor,
        ...[...document.querySelectorAll("body, svg text")].map(e => getComputedStyle(e)[
            e.tagName === "text" ? "fill" : "color"])]"""
    )
    page, *texts = (
        [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]] for colour in dict.fromkeys(colours)
    )
    for text in texts:
        assert contrast(page, text) >= 7  # WCAG 2, level AAA
    assert report.complaints == []


@BROWSER
def test_a_printed_page_keeps_its_tables_and_leaves_out_what_needs_a_click(opened, tmp_path):
    report = opened()
    report.page.emulate_media(media="print")
    assert report.page.locator("#cifar10-cells").is_visible()
    assert not report.page.locator("nav").is_visible()
    assert not report.page.locator("#runs").is_visible()
    report.page.set_viewport_size({"width": 700, "height": 990})  # A4 between its margins
    assert report.page.evaluate("document.documentElement.scrollWidth") <= 700
    (tmp_path / "page.pdf").write_bytes(report.page.pdf())
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"


@BROWSER
def test_the_data_behind_a_figure_can_be_downloaded(opened):
    report = opened()
    with report.page.expect_download() as download:
        report.page.locator("#cifar10-nfe a[download]").click()
    assert download.value.suggested_filename == "cifar10-nfe.csv"
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("line,x,ours")
    assert len(lines) == 1 + len(TABLES["cifar10"].cells)


@BROWSER
def test_hostile_words_run_nothing_in_a_browser(browser, store, tmp_path):
    path = tmp_path / "report.html"
    found = compose(store, hostile_tables(tmp_path / "mine"), Selection(every=True))
    path.write_text(render_html(found, HOSTILE), encoding="utf-8")
    report = Opened(browser, path, viewport={"width": 360, "height": 800})
    assert report.complaints == []
    assert report.page.evaluate("document.scripts.length") == 1
    assert HOSTILE in report.page.locator("h2").first.inner_text()


# --- LaTeX


def compiled(folder, name="report.tex", passes=2):
    """The log of the last of so many runs of pdflatex; one does where nothing is said of labels."""
    needs("pdflatex")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"]
    for left in reversed(range(passes)):
        draft = ["-draftmode"] * (left > 0)  # without a PDF, which the next run replaces
        done = subprocess.run(
            [*command, *draft, name], cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def scales(log):
    """How far tables were scaled down to fit, by their ids."""
    text = log.replace("\n", "")
    found = re.findall(r"tractbench: table (\S+) of ([\d.]+)pt *is *scaled *to *([\d.]+)pt", text)
    return {name: float(width) / float(natural) for name, natural, width in found}


def test_the_document_compiles_without_overfull_boxes_or_warnings(store, tmp_path):
    write_latex(compose(store, TABLES, Selection()), tmp_path / "out", "tractbench report")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.tex", "cifar10.tex", "digits.tex", "runs.tex", "cifar10-nfe.pdf", "digits-errors.pdf"} <= names
    log = compiled(tmp_path / "out")
    assert not re.findall(r"(?:Over|Under)full|LaTeX Warning.*|Missing character.*", log)
    assert {"cifar10-cells", "cifar10-claims"} <= scales(log).keys()
    assert min(scales(log).values()) > 0.8, scales(log)  # of 8 pt 6.4 at least
    assert re.search(r"Output written on report.pdf \(\d+ pages?", log)


def test_a_table_is_booktabs_with_aligned_numbers_and_the_best_in_bold(store, tmp_path):
    write_latex(compose(store, TABLES, Selection(table="cifar10")), tmp_path / "out", "tractbench report")
    text = (tmp_path / "out" / "cifar10.tex").read_text()
    assert r"S[table-format=1.2]@{\,}l" in text
    (row,) = re.findall(r"^ *TRACT-256M & 1 & .*$", text, re.M)[:1]
    assert r"\bfseries 4.442 & \bfseries $\pm$\,0.028\textsuperscript" in row
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"\includegraphics[width=0.75\linewidth]{\tractbenchdir cifar10-nfe.pdf}" in text
    assert (tmp_path / "out" / "cifar10-nfe.pdf").read_bytes()[:5] == b"%PDF-"


def test_fragments_compile_in_a_paper_of_two_columns(store, tmp_path):
    document = compose(store, TABLES, Selection(every=True))
    write_latex(document, tmp_path / "tables", "tractbench report")
    (tmp_path / "all.tex").write_text(latex_tables(document.every_sheet, "tractbench report"), encoding="utf-8")
    needed = re.findall(r"\\usepackage\{\w+\}", (tmp_path / "all.tex").read_text().partition("\\begin")[0])
    for name, inputs in {"one": ["all"], "other": ["tables/cifar10", "tables/digits"]}.items():
        text = [r"\documentclass[twocolumn]{article}", *needed, r"\newcommand{\tractbenchdir}{tables/}"]
        text += [r"\begin{document}", *(rf"\input{{{one}}}" for one in inputs), r"\end{document}"]
        (tmp_path / f"{name}.tex").write_text("\n".join(text))
        log = compiled(tmp_path, f"{name}.tex")
        assert not re.findall(r"Overfull|Missing character.*|undefined", log)
        assert min(scales(log).values()) > 0.55  # of a page that is narrower than A4's


def test_a_table_longer_than_a_page_goes_on_on_the_next(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    cell = TABLES["digits"].cells["tract/1"]
    for number in range(90):
        config = resolve({**cell.settings, "mu_s": number / 100})[0]
        store.write(record(cell, number, 0, [2.0, 2.1, 2.2], config=config))
    reason = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which " + "x" * 99
    )
    for number in range(12):
        config = resolve(
            {**cell.settings, "mu_i": 0.98 + number / 1000, "lr": 1e-3, "batch": 64, "ema_reset": "phase"}
        )[0]
        changes = {"status": "failed", "reason": reason, "metrics": {}} if number % 2 else {}
        store.write(record(cell, 100 + number, 0, [2.0, 2.1, 2.2], config=config, **changes))
    write_latex(compose(store, TABLES, Selection()), tmp_path / "out", "tractbench report")
    printed = (tmp_path / "out" / "runs.tex").read_text()
    assert [printed.count(f"mu\\_s={number / 100} ") for number in range(90)].count(1) >= 89  # one is the default
    log = compiled(tmp_path / "out")
    assert not re.findall(r"Overfull|Float too large", log)


def test_hostile_words_compile_and_do_nothing(store, tmp_path):
    found = compose(store, hostile_tables(tmp_path / "mine"), Selection(every=True))
    write_latex(found, tmp_path / "out", "tractbench report")
    log = compiled(tmp_path / "out", passes=1)
    assert "Overfull" not in log


def test_every_character_compiles_or_is_a_question_mark(tmp_path):
    words = [f"x{escape_latex(character)}y {escape_latex(character)}" for character in LATEX]
    shown = [cp for cp in range(32, 0x2800) if escape_latex(chr(cp)) != "?"]
    words += [f"x{escape_latex(chr(cp))}y" for cp in shown]
    words.append(escape_latex("naïve Müller, σ² and “1\N{EN DASH}2” \N{SNOWMAN} Иван"))
    assert words[-1].count("?") == 5  # the snowman and four Cyrillic letters
    assert len(shown) > 500
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    (tmp_path / "report.tex").write_text(
        rf"\documentclass{{article}}\usepackage[T1]{{fontenc}}\usepackage{{lmodern}}{packages}\begin{{document}}"
        "\n" + "\n\n".join(words) + "\n\\end{document}\n"
    )
    assert "Missing character" not in compiled(tmp_path, passes=1)

"""The page as it is read, by people who see it and by those who do not."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from svkit.reports import document

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class _Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


@pytest.fixture(scope="module")
def page(finished):
    return (finished / "report" / "report.html").read_text()


def test_the_answer_comes_first(page):
    places = [
        page.index(words)
        for words in ("Evaluated on", 'class="advice"', "The rule:", ">change<", "<nav", "<h2")
    ]
    assert places == sorted(places)
    assert page.index('id="training"') > page.index('id="checkpoints"')
    assert "Two kinds of EER" in page


def test_every_measure_is_explained_where_it_is_shown(page):
    of = {part.partition('"')[0]: part for part in page.split('<section aria-labelledby="')}
    assert all(f"{name}: the " in of["errors"] for name in ("EER", "convex hull EER", "minCllr"))
    assert "L1: the mean absolute difference" in of["structure"] and "FFN 1 comes before" in of["structure"]
    assert "Bayes" not in of["thresholds"]  # there is no such row
    assert "-1 is perfect" in of["training"] and "lmft trains with a larger margin" in of["training"]


def test_every_section_names_a_place_in_the_documentation(page):
    named = re.findall("svkit&#39;s docs/(.*?), &#34;(.*?)&#34;", page)
    assert len(named) == page.count("<h2 ")
    docs = Path(__file__).parents[2] / "docs"
    assert all(f"\n## {title}\n" in (docs / file).read_text() for file, title in document.READ_ON.values())
    assert {*named} <= {*document.READ_ON.values()}


def test_contents_and_landmarks_lead_everywhere(page):
    elements = _Elements(page)
    assert len(elements.of("main")) == len(elements.of("nav")) == len(elements.of("header")) == 1
    ids = [heading["id"] for heading in elements.of("h2")]
    assert [link["href"] for link in elements.of("a")] == [f"#{name}" for name in ids]
    assert [part["aria-labelledby"] for part in elements.of("section")[1:]] == ids and len(set(ids)) == len(
        ids
    )


def test_tables_have_scopes_and_names(page):
    elements = _Elements(page)
    assert {heading["scope"] for heading in elements.of("th")} == {"col", "row"}
    assert all(table["aria-label"] for table in elements.of("table"))


def test_figures_say_what_is_seen(page):
    pictures = [(picture["alt"], caption) for picture, caption in zip(
        _Elements(page).of("img"), re.findall("<figcaption>(.*?)</figcaption>", page), strict=True
    )]  # fmt: skip
    assert all(alt != caption and re.search("[0-9]", alt) for alt, caption in pictures)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1400, 390])
def test_light_and_dark_show_the_same(page, width, tmp_path):
    """The dark page is the light one with its lightness turned over, figures too; nothing is wider than the window."""
    dark = page.replace("(prefers-color-scheme: dark)", "(min-width: 1px)").replace("light dark", "dark")
    pictures = {}
    for name, content in (("light", page), ("dark", dark)):
        (tmp_path / f"{name}.html").write_text(content)
        shot = tmp_path / f"{name}.png"
        browse(width, f"--screenshot={shot}", tmp_path / f"{name}.html")
        pictures[name] = imread(shot)[..., :3].mean(axis=2)
    light, dark = pictures["light"], pictures["dark"]
    assert light.shape == dark.shape == (2400, width)
    assert np.median(light) == 1.0 and np.median(dark) == pytest.approx(0.1, abs=0.01)
    assert (dark < 0.35).mean() > 0.8  # no white sheet of a figure is left
    assert np.corrcoef(light.ravel(), dark.ravel())[0, 1] < -0.8
    assert (light[:, -8:] == 1.0).all()  # nothing reaches into the margin


def browse(width, *words):
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},2400",
         *map(str, words)],
        capture_output=True, timeout=300, check=True,
    )  # fmt: skip

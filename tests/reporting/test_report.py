"""The report page fetches nothing and holds the numbers of the tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from hirl.reporting.report import CAPTIONS, caption, duration, write_report
from hirl.reporting.runs import open_runs
from hirl.reporting.table import read_summary, tabulate


def test_a_missing_caption_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hirl.reporting.report.CAPTIONS", tmp_path)
    with pytest.raises(ValueError, match=r"table\.rst is missing: install hirl again"):
        caption("table")


class Links(HTMLParser):
    """Collect the links that a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(study, drawn) -> str:
    folder, runs = study
    write_report(folder, runs, folder / "report.html")
    return (folder / "report.html").read_text()


def test_the_page_fetches_nothing(page):
    parser = Links()
    parser.feed(page)
    assert len(parser.links) == 5  # gains, training, hierarchy, two atlases
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", without_pictures)


def test_the_page_holds_the_numbers_of_the_table(page, study):
    folder, runs = study
    table = tabulate(folder, read_summary(folder), runs)
    for row in table.rows:
        for (_, part), cell in row.cells.items():
            assert f">{table.text(cell, part)}</td>" in page


def test_every_family_has_its_table_and_controls_say_whether_they_were_trained_from_scratch(page):
    section = page.split("<h2>Results</h2>")[1].split("<h2>")[0]
    families = re.findall(r"<h3>([^<]*)</h3>", section)
    wanted = (
        "Nearest neighbours; Linear classification; Fine-tuning; Clustering; Transfer; Detection; Detection, part 2"
    )
    assert families[:-1] == wanted.split("; ")
    controls = [re.findall(r'class="control"><td [^>]*>([^<]*)', table) for table in section.split("<h3>")[1:]]
    untrained = ["Untrained ResNet-18", "Untrained ViT-tiny"]
    scratch = ["ResNet-18 from scratch", "ViT-tiny from scratch"]
    assert controls == [untrained, untrained, scratch, untrained, scratch, scratch, scratch, []]


def test_the_numbers_of_the_paper_stand_beside_ours(page):
    section = page.split("The paper's numbers beside ours</h2>")[1].split("<h2>")[0]
    assert "Ours are on taxonomy (240 training images of 16 px, 12 classes). The two are not comparable" in section
    headings = re.findall(r'class="heading"><td[^>]*>([^<]*)', section)
    assert headings == ["kNN top-1", "Linear evaluation top-1", "Fine-tuning top-1"]
    line = re.search(r"<tr><td>SimSiam</td>(.*)</tr>", section)[1]
    assert re.findall(r">([^<>]*)</td>", line) == ["60.17", "62.68", "+2.51", "", "", ""]


def test_a_trained_evaluation_says_how_long_it_took(page, study):
    line = "<tr><td>finetune</td><td>3</td><td>1 min 30 s</td><td>3.000 → 1.000</td></tr>"
    assert page.count(line) == len(open_runs(*study))


def test_the_page_names_data_methods_machines_and_times(page):
    parser = Links()
    parser.feed(page)
    for text in ("taxonomy, 16 px", "MoCo v2, iBOT", "ResNet-18, ViT-tiny", "2 (0, 1)", "2 min 0 s", "git commit"):
        assert text in parser.text  # eight runs of six epochs of 2.5 s: two minutes
    assert "n = 2 seeds" in parser.text
    assert "AP50 and AP75 are not counted, because AP averages over them." in parser.text


def test_baseline_and_hirl_differ_only_in_the_hierarchy(page):
    section = page.split("Settings that differ from the baseline")[1].split("<h2>Runs</h2>")[0]
    keys = re.findall(r"<tr><td>[^<]*</td><td><code>([^<]*)</code>", section)
    assert keys == ["hierarchy.num_clusters", "hierarchy.start_epoch"] * 2


def test_every_run_has_its_details(page, study):
    for run in study[1]:
        assert f"<summary>{run}</summary>" in page


def test_every_figure_and_table_of_the_workflow_has_a_caption():
    names = {path.stem for path in CAPTIONS.glob("*.rst")}
    assert {"workflow", "table", "paper", "summary", "report", "gains", "training", "hierarchy", "atlas"} <= names
    for name in names:
        assert "system-message" not in caption(name)  # docutils' mark of an error


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations_are_written_in_words(seconds, text):
    assert duration(seconds) == text

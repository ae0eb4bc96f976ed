"""The report page needs no network, leads to its parts, and holds the numbers of the tables."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from hirl.reporting.report import CAPTIONS, anchor, caption, duration, minus, write_report
from hirl.reporting.runs import open_runs
from hirl.reporting.table import read_summary, tabulate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SORT = """
<script>
const table = document.querySelector("table.sortable"), button = table.querySelectorAll("th button")[1];
button.focus();
const sorted = () => [...table.tBodies].map(body => [...body.rows].map(row => row.cells[0].textContent)).join(";");
const head = () => document.activeElement.closest("th").getAttribute("aria-sort");
button.click();
const first = `${head()} ${sorted()}`;
button.click();
document.title = `${first} ${head()} ${sorted()}`;
</script>
"""


def test_a_missing_caption_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hirl.reporting.report.CAPTIONS", tmp_path)
    with pytest.raises(ValueError, match=r"table\.rst is missing: install hirl again"):
        caption("table")


class Page(HTMLParser):
    """Collect the links, the targets and the text of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.targets: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.fetched += [found[key] for key in ("src", "srcset", "data", "action", "poster") if key in found]
        self.links += [found["href"]] if "href" in found else []
        self.targets += [found["id"]] if "id" in found else []
        self.alts += [found["alt"]] if tag == "img" else []

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def content(study, drawn) -> str:
    folder, runs = study
    (folder / "atlas.html").touch()
    write_report(folder, runs, folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(content) -> Page:
    return Page(content)


def section(content: str, title: str) -> str:
    """Return what stands below a heading."""
    return content.partition(f'<h2 id="{anchor(title)}">')[2].partition("<h2 ")[0]


def test_the_page_fetches_nothing(content, page):
    assert len(page.fetched) == 5  # gains, training, hierarchy, two atlases
    assert all(link.startswith("data:image/webp;base64,") for link in page.fetched)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", content)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", without_pictures)


def test_the_contents_lead_to_every_part_once(page):
    assert len(set(page.targets)) == len(page.targets)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.targets)
    assert {"summary", "verdicts", "results", "nearest-neighbours", "figures", "cost", "runs"} <= set(page.targets)


def test_the_summary_holds_question_answer_interval_and_cost(page, study):
    summary = page.text.partition("Study demo")[2].partition("Verdicts")[0]
    assert "Does HIRL improve two self-supervised methods on taxonomy?" in summary
    assert re.search(r"HIRL, mean over two methods: kNN top-1 [+−]\d+\.\d ± \d+\.\d points", summary)
    assert "two seeds (0 and 1)" in summary
    assert "8 trainings, 2 min 0 s in all, on" in summary  # eight runs of six epochs of 2.5 s
    assert "taxonomy: 240 train and 240 validation images of 16 px, 12 classes" in summary


def test_the_atlas_beside_the_report_is_linked(page):
    links = [link for link in page.links if not link.startswith("#")]
    of_runs = ["atlas.html#run=mocov2-hirl-s0", "atlas.html#run=ibot-hirl-s0"]
    assert links == ["atlas.html"] * 3 + of_runs  # in the contents, the summary, above the figures and below each


def test_every_picture_says_what_is_seen_with_numbers(page):
    assert len(page.alts) == 5
    assert all(re.search(r"\d", alt) and len(alt) > 80 for alt in page.alts)


def test_the_page_holds_the_numbers_of_the_table(content, study):
    folder, runs = study
    table = tabulate(folder, read_summary(folder), runs)
    for row in table.rows:
        for (_, part), cell in row.cells.items():
            assert f">{minus(table.text(cell, part))}</td>" in content


def test_every_family_has_its_table_with_chance_and_a_group_per_backbone(content):
    results = section(content, "Results")
    wanted = (
        "Nearest neighbours; Linear classification; Fine-tuning; Clustering; Transfer; Detection; Detection, part 2"
    )
    assert re.findall(r"<h3[^>]*>([^<]*)<a", results)[:-1] == wanted.split("; ")
    tables = results.split("<h3")[1:-1]
    assert [len(re.findall("<tbody>", table)) for table in tables] == [2] * 7
    assert re.findall(r"chance: ([\d.]+)", tables[0]) == ["8.3", "16.7", "33.3"]  # of 12, 6 and 3 classes
    controls = [re.findall(r'class="control"><th [^>]*>([^<]*)', table) for table in tables]
    untrained = ["Untrained ResNet-18", "Untrained ViT-tiny"]
    scratch = ["ResNet-18 from scratch", "ViT-tiny from scratch"]
    assert controls == [untrained, untrained, scratch, untrained, scratch, scratch, scratch]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_button_sorts_within_the_groups_and_a_second_press_reverses(content, tmp_path):
    rows = "".join(
        f'<tr><th data-value="{name}">{name}</th><td data-value="{value}"></td></tr>'
        for name, value in (("low", 3.5), ("high", 20), ("none", ""))
    )
    body = f'<tbody><tr class="control"><th>control</th><td data-value="99"></td></tr>{rows}</tbody>'
    heads = "<thead><tr><th><button>Method</button></th><th><button>Value</button></th></tr></thead>"
    script = re.search(r"<script>.*?</script>", content, re.DOTALL)[0]
    made = f'<nav><details></details></nav><table class="sortable">{heads}{body}{body}</table>{script}{SORT}'
    (tmp_path / "page.html").write_text(made)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    said = subprocess.run([CHROMIUM, *options, f"file://{tmp_path}/page.html"], capture_output=True, text=True)
    down, up = "control,high,low,none", "control,low,high,none"
    assert f"<title>descending {down};{down} ascending {up};{up}</title>" in said.stdout


def test_the_numbers_of_the_paper_stand_beside_ours(content):
    paper = section(content, "The paper's numbers beside ours")
    assert "Ours are on taxonomy (240 training images of 16 px, 12 classes). The two are not comparable" in paper
    headings = re.findall(r'class="heading"><th[^>]*>([^<]*)', paper)
    assert headings == ["kNN top-1", "Linear evaluation top-1", "Fine-tuning top-1"]
    line = re.search(r'<tr><th scope="row">SimSiam</th>(.*)</tr>', paper)[1]
    assert re.findall(r">([^<>]*)</td>", line) == ["60.17", "62.68", "+2.51", "", "", ""]


def test_a_trained_evaluation_says_how_long_it_took(content, study):
    line = "<tr><td>finetune</td><td>3</td><td>1 min 30 s</td><td>3.000 → 1.000</td></tr>"
    assert content.count(line) == len({(run.method, run.variant, run.backbone) for run in open_runs(*study)})


def test_the_page_names_backbones_machines_and_what_is_not_counted(page):
    for text in ("ResNet-18, ViT-tiny", "git commit", "AP50 and AP75 are not counted, because AP averages over them."):
        assert text in page.text
    assert "Two trainings" not in section(page.text, "Spread over seeds")


def test_baseline_and_hirl_differ_only_in_the_hierarchy(content):
    settings = section(content, "Settings that differ").partition("From the published")[0]
    assert re.findall(r"<tr><td><code>([^<]*)</code>", settings) == [
        "hierarchy.kmeans.restarts",
        "hierarchy.num_clusters",
        "hierarchy.start_epoch",
    ]
    assert settings.count("<td>all</td>") == 3


def test_every_run_has_its_details_with_all_seeds(content, study):
    runs = section(content, "Runs")
    for run in open_runs(*study):
        assert f"<summary>{run.title}</summary>" in runs
    assert runs.count('<th scope="col">Seed 0</th><th scope="col">Seed 1</th>') == 4


def test_every_figure_and_table_of_the_workflow_has_a_caption():
    names = {path.stem for path in CAPTIONS.glob("*.rst")}
    assert {"workflow", "table", "paper", "summary", "report", "gains", "training", "hierarchy", "atlas"} <= names
    for name in names:
        assert "system-message" not in caption(name)  # docutils' mark of an error


def test_a_minus_is_set_before_numbers_only():
    assert minus("kNN top-1 -0.4 (-3)") == "kNN top-1 −0.4 (−3)"


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations_are_written_in_words(seconds, text):
    assert duration(seconds) == text

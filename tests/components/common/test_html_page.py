import base64
import hashlib
import io
import itertools
import re

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgpipe.components.common.html_page import (
    Series,
    Thumbnail,
    breakable,
    decimal,
    line_chart,
    percent,
    render,
    thumbnail_source,
)

MACROS = '{% import "macros.html" as kit %}'
EVIL = "\"><script>alert('x')</script>"


@pytest.fixture
def render_text(tmp_path, monkeypatch):
    """Renders a template of a temporary package."""
    package = tmp_path / f"pages_{abs(hash(tmp_path))}"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def render_template(text: str, **values: object) -> str:
        (package / "templates" / "own.html").write_text(MACROS + text)
        return render("own.html", package.name, **values)

    return render_template


def picture(mode: str = "RGB", size: tuple[int, int] = (400, 200), image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (250, 20, 30)).convert(mode).save(buffer, image_format)
    return buffer.getvalue()


def opened(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))


def test_all_output_of_templates_is_escaped(render_text):
    thumbnail = Thumbnail("data:,", (EVIL,), EVIL)
    chart = line_chart([Series(EVIL, ((0.0, 0.0), (1.0, 1.0)))], x_name=EVIL, y_name=EVIL, marker=(0.5, EVIL))
    html = render_text(
        "{{ value }}{{ kit.thumbnail_grid([thumbnail]) }}{{ kit.line_chart(chart, value) }}"
        "{{ kit.bar(1, 2, value) }}{{ kit.heatmap([value, 'b'], [[1, 2], [3, 4]]) }}"
        "{{ kit.fact(value, value) }}",
        value=EVIL,
        thumbnail=thumbnail,
        chart=chart,
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 11


def test_a_missing_variable_is_an_error(render_text):
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        render_text("{{ missing }}")


def test_page_fetches_nothing_and_runs_its_own_script_only(render_text):
    html = render_text('{% extends "page.html" %}{% block title %}T{% endblock %}')
    assert "default-src 'none'" in html
    assert "<title>T</title>" in html
    assert not re.search(r"https?://|<link|@import|url\(", html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_thumbnail_is_a_jpeg_of_the_same_aspect_ratio_within_the_size():
    image = opened(thumbnail_source(picture()))
    assert (image.format, image.size) == ("JPEG", (96, 48))
    assert opened(thumbnail_source(picture(image_format="JPEG"), pixels=160)).size == (160, 80)


def test_thumbnail_does_not_enlarge():
    assert opened(thumbnail_source(picture(size=(8, 8)))).size == (8, 8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_thumbnail_of_every_mode_shows_the_picture(mode):
    if mode == "I;16":
        buffer = io.BytesIO()
        Image.new("I;16", (40, 20), 40_000).save(buffer, "PNG")
        image = opened(thumbnail_source(buffer.getvalue()))
        assert image.convert("L").getpixel((5, 5)) == pytest.approx(40_000 / 257, abs=3)
    else:
        image = opened(thumbnail_source(picture(mode)))
        expected = Image.new("RGB", (1, 1), (250, 20, 30)).convert("L").getpixel((0, 0))
        if mode != "1":
            assert image.convert("L").getpixel((40, 20)) == pytest.approx(expected, abs=6)


@pytest.mark.parametrize("encoded", [b"", b"no image", picture()[:60], picture()[:-30]])
def test_thumbnail_of_a_damaged_image_is_a_placeholder(encoded, render_text):
    source = thumbnail_source(encoded)
    assert source == "" or opened(source).size == (96, 48)
    html = render_text("{{ kit.thumbnail_grid([Thumbnail]) }}", Thumbnail=Thumbnail("", ("a.jpg",)))
    assert "cannot be shown" in html
    assert "a.<wbr>jpg" in html


FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=20))
def test_every_point_and_tick_of_a_chart_is_inside_the_axes(points):
    chart = line_chart([Series("a", tuple(points))], x_name="x", y_name="y", marker=(points[0][0], "here"))
    slack = 0.02
    for line in chart.lines:
        for x, y, _ in line.dots:
            assert chart.left - slack <= x <= chart.right + slack
            assert chart.top - slack <= y <= chart.bottom + slack
    assert 2 <= len(chart.y_ticks) <= 12
    assert all(chart.top - slack <= tick.position <= chart.bottom + slack for tick in chart.y_ticks)
    assert all(chart.left - slack <= tick.position <= chart.right + slack for tick in chart.x_ticks)


def test_chart_has_round_ticks_that_enclose_the_values():
    chart = line_chart([Series("a", ((0.0, 0.13), (200.0, 0.87)))], x_name="x", y_name="y")
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [tick.text for tick in chart.x_ticks] == ["0", "50", "100", "150", "200"]


def test_axis_of_an_accuracy_ends_at_one():
    chart = line_chart([Series("a", ((0.0, 0.97), (1.0, 1.0)))], x_name="x", y_name="y", y_maximum=1.0)
    assert chart.y_ticks[-1].text == "1"
    chart = line_chart([Series("a", ((0.0, 1.0),))], x_name="x", y_name="y", y_maximum=1.0)
    assert chart.y_ticks[-1].text == "1"


def test_axis_may_have_fixed_ends():
    chart = line_chart([Series("a", ((0.0, 0.3), (1.0, 0.4)))], x_name="x", y_name="y", y_range=(0.0, 1.0))
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.001, 0.05), ["0.001", "0.003", "0.01", "0.03"]),
        ((1e-6, 1.0), ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ((0.02, 0.05), ["0.02", "0.025", "0.03", "0.035", "0.04", "0.045", "0.05"]),
    ],
)
def test_logarithmic_axis_shows_the_values_themselves(values, ticks):
    points = tuple((value, 0.5) for value in values)
    chart = line_chart([Series("a", points)], x_name="x", y_name="y", x_is_log=True)
    assert [tick.text for tick in chart.x_ticks] == ticks


def test_powers_of_ten_have_equal_distances_on_a_logarithmic_axis():
    chart = line_chart([Series("a", ((1e-6, 0.5), (1.0, 0.5)))], x_name="x", y_name="y", x_is_log=True)
    distances = [b.position - a.position for a, b in itertools.pairwise(chart.x_ticks)]
    assert max(distances) == pytest.approx(min(distances), abs=0.1)


@pytest.mark.parametrize(
    ("label", "html"),
    [
        ("golden_retriever", "golden_<wbr>retriever"),
        ("red fox", "red fox"),
        ("a<b/c", "a&lt;b/<wbr>c"),
        ("x" * 30, "x" * 24 + "<wbr>" + "x" * 6),
        ("", ""),
    ],
)
def test_labels_are_broken_after_separators_only(label, html):
    assert breakable(label) == html


def test_points_that_are_not_finite_are_omitted():
    series = Series("a", ((0.0, float("nan")), (1.0, 2.0), (float("inf"), 3.0)))
    chart = line_chart([series, Series("b", ())], x_name="x", y_name="y")
    assert [len(line.dots) for line in chart.lines] == [1]


@pytest.mark.parametrize("x_is_log", [False, True])
def test_chart_without_points_has_a_placeholder(render_text, x_is_log):
    chart = line_chart([Series("a", ())], x_name="x", y_name="y", x_is_log=x_is_log)
    assert chart.is_empty
    assert "No values were recorded" in render_text("{{ kit.line_chart(chart, 't') }}", chart=chart)


def test_chart_is_drawn_with_axes_and_a_legend(render_text):
    chart = line_chart(
        [Series("training", ((0.0, 1.0), (10.0, 0.5))), Series("validation", ((0.0, 2.0), (10.0, 1.5)))],
        x_name="training step",
        y_name="loss",
        marker=(10.0, "best: step 10"),
    )
    html = render_text("{{ kit.line_chart(chart, 'the loss') }}", chart=chart)
    assert html.count("<polyline") == 2
    for text in ("training step", ">loss<", "training</li>", "validation</li>", "best: step 10", "the loss"):
        assert text in html


def test_heatmap_shades_by_the_share_of_the_row_and_marks_the_diagonal(render_text):
    html = render_text("{{ kit.heatmap(['a', 'b'], [[3, 1], [0, 0]]) }}")
    cells = re.findall(r"<td.*?</td>", html)
    assert "--good" in cells[0]
    assert "a predicted as a: 3, 75.0% of the row" in cells[0]
    assert "--bad" in cells[1]
    assert "a predicted as b: 1, 25.0% of the row" in cells[1]
    assert cells[2:] == ["<td></td>", "<td></td>"]


def test_bar_of_zero_has_no_length(render_text):
    assert "<i" not in render_text("{{ kit.bar(0, 5) }}")
    assert 'style="width: calc((100% - 60px) * 0.500)"' in render_text("{{ kit.bar(1, 2) }}")
    assert "<span>1,234</span>" in render_text("{{ kit.bar(1234, 2000) }}")


def test_missing_numbers_are_dashes():
    assert percent(None) == decimal(None) == "\N{EN DASH}"
    assert percent(0.12345) == "12.3%"
    assert decimal(0.12345) == "0.123"

"""Self-contained HTML pages, without external links or fonts, for offline use, printing and sandboxed frames.

A page is a Jinja2 template that extends ``page.html`` and imports ``macros.html``, both in ``templates``
beside this module. All output of templates is escaped, because labels and file names come from users. The
functions here compute the layout of a drawing; the macros of the same names draw it.

``page.js`` lets tables be sorted, filtered and folded. The page's policy allows it by its hash, and no other
script. Everything can be read without it: it only hides, orders and shows what the page has.
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from imgpipe.components.common.plural import plural

THUMBNAIL_PIXELS = 96
# The text for a missing number.
DASH = "\N{EN DASH}"
_THUMBNAIL_QUALITY = 80
# In the drawing's units: a browser scales it to the width of the page, where its text must be readable on a
# phone.
_CHART_WIDTH, _CHART_HEIGHT = 420.0, 250.0
# The smallest relative range of an axis.
_MIN_RANGE = 1e-6
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 62.0, 16.0, 12.0, 46.0
# A label may be broken after these, and after this many characters without one of them.
_SEPARATORS = re.compile(r"(?<=[_\-/.,:|+])(?=\w)")
_MAX_UNBROKEN = 24
_SPACES = re.compile(r"(\s+)")


def render(template_name: str, package: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """Renders a page.

    Args:
        template_name: A file in the package's ``templates`` folder.
        package: The dotted name of the step's package, e.g. ``imgpipe.components.validate``.
        scripts: Files in the same folder that run after ``page.js``.
        **values: The template's variables; a missing variable is an error.
    """
    environment = _environment(package)
    loader = environment.loader
    assert loader is not None  # noqa: S101 - set in _environment
    script = "".join(loader.get_source(environment, name)[0] for name in ("page.js", *scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(template_name).render(
        # Not escaped: a file of this package, not a value.
        script=Markup(script),  # noqa: S704
        script_digest=f"sha256-{digest}",
        **values,
    )


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with lines of text below it.

    Attributes:
        source: A data URI; if empty, a placeholder is shown.
        captions: The lines below the picture.
        title: The tooltip.
    """

    source: str
    captions: tuple[str, ...] = ()
    title: str = ""


def thumbnail_source(
    encoded: bytes, *, pixels: int = THUMBNAIL_PIXELS, quality: int = _THUMBNAIL_QUALITY
) -> str:
    """Returns a JPEG data URI of an image file whose longer side is at most ``pixels``.

    The pixels are shown as stored, as the model sees them: the EXIF orientation is not applied. Returns an
    empty string for an image that cannot be decoded: the page is useful without it.
    """
    small = thumbnail(encoded, pixels)
    return "" if small is None else image_source(small, quality=quality)


def thumbnail(encoded: bytes, pixels: int) -> Image.Image | None:
    """Returns the RGB image of ``thumbnail_source``; None for an image that cannot be decoded."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is large enough.
            image.draft("RGB", (pixels, pixels))
            small = _as_rgb(image)
        small.thumbnail((pixels, pixels))
    except Exception:  # Pillow raises about a dozen classes for damaged files, not all documented.
        return None
    return small


def image_source(image: Image.Image, *, quality: int = _THUMBNAIL_QUALITY) -> str:
    """Returns an image as a JPEG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: For the legend.
        points: (x, y), in the order of the line; points that are not finite are omitted.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position in the drawing's units, and its text."""

    position: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series in the drawing's units; ``number`` selects its color."""

    number: int
    name: str
    path: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class LineChart:
    """A line chart, ready to draw; all positions are in the drawing's units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    marker: Tick | None

    @property
    def is_empty(self) -> bool:
        """Whether there is no point to draw."""
        return not any(line.dots for line in self.lines)


def line_chart(
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    marker: tuple[float, str] | None = None,
    y_maximum: float | None = None,
    y_range: tuple[float, float] | None = None,
    x_is_log: bool = False,
) -> LineChart:
    """Lays out a line chart.

    Args:
        series: The lines; a series without a finite point is omitted.
        x_name: Name of the horizontal axis.
        y_name: Name of the vertical axis.
        marker: The x and the text of a vertical line.
        y_maximum: The largest possible y, e.g. 1 for an accuracy; the axis ends there.
        y_range: The ends of the vertical axis, whatever the values are.
        x_is_log: Whether the horizontal axis is logarithmic; every x, which is positive, keeps its value.
    """
    drawn = [
        (line.name, [(float(x), float(y)) for x, y in line.points if math.isfinite(x) and math.isfinite(y)])
        for line in series
    ]
    drawn = [(name, points) for name, points in drawn if points]
    xs = [x for _, points in drawn for x, _ in points] or [0.1, 1.0]
    ys = [y for _, points in drawn for _, y in points] or [0.0, 1.0]
    if marker is not None:
        xs.append(marker[0])
    scale = math.log10 if x_is_log else float
    x_low, x_high = _widen(scale(min(xs)), scale(max(xs)))
    y_values = _tick_values(*(y_range or _widen(min(ys), max(ys))), outside=True)
    if y_maximum is not None and max(ys) <= y_maximum:
        y_values = [value for value in y_values if value <= y_maximum + 1e-9]
        if y_values[-1] < max(ys):
            y_values.append(y_maximum)
    y_low, y_high = y_values[0], y_values[-1]
    left, right = _MARGIN_LEFT, _CHART_WIDTH - _MARGIN_RIGHT
    top, bottom = _MARGIN_TOP, _CHART_HEIGHT - _MARGIN_BOTTOM

    def place_x(x: float) -> float:
        return round(left + (scale(x) - x_low) / (x_high - x_low) * (right - left), 2)

    def place_y(y: float) -> float:
        return round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 2)

    lines = tuple(
        Line(
            number=number,
            name=name,
            path=" ".join(f"{place_x(x)},{place_y(y)}" for x, y in points),
            dots=tuple((place_x(x), place_y(y), f"{name}: {y:.4g} at {x:g}") for x, y in points),
        )
        for number, (name, points) in enumerate(drawn)
    )
    return LineChart(
        width=_CHART_WIDTH,
        height=_CHART_HEIGHT,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_name=x_name,
        y_name=y_name,
        x_ticks=tuple(
            Tick(place_x(value), f"{value:g}" if abs(value) < 1e4 else f"{value:,.0f}")
            for value in (
                _log_tick_values(x_low, x_high) if x_is_log else _tick_values(x_low, x_high, outside=False)
            )
        ),
        y_ticks=tuple(Tick(place_y(value), f"{value:.6g}") for value in y_values),
        lines=lines,
        marker=Tick(place_x(marker[0]), marker[1]) if marker is not None else None,
    )


def percent(value: float | None, digits: int = 1) -> str:
    """Returns ``0.1234`` as ``12.3%``, None as a dash."""
    return DASH if value is None else f"{100 * value:.{digits}f}%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Returns a number with ``digits`` decimals, None as a dash."""
    return DASH if value is None else f"{value:.{digits}f}"


def breakable(label: str) -> Markup:
    """Returns a label that a browser breaks at spaces and after separators such as ``_``, not inside a word.

    Words of more than 24 characters are broken all the same.
    """
    return Markup("").join(
        Markup("<wbr>").join(
            word[start : start + _MAX_UNBROKEN]
            for word in _SEPARATORS.split(text)
            for start in range(0, len(word), _MAX_UNBROKEN)
        )
        for text in _SPACES.split(label)
    )


@cache
def _environment(package: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package), jinja2.PackageLoader("imgpipe.components.common")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["decimal"] = decimal
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["plural"] = plural
    environment.filters["breakable"] = breakable
    return environment


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Alpha is dropped, not composited, as in the decoder of training.
        return image.convert("RGBA").convert("RGB")
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("RGB")
    return image.convert("RGB")


def _widen(low: float, high: float) -> tuple[float, float]:
    """Widens a range that is too narrow for an axis."""
    size = max(abs(low), abs(high))
    if high - low > _MIN_RANGE * max(size, 1.0):
        return low, high
    margin = 0.1 * size if size > _MIN_RANGE else 1.0
    return low - margin, high + margin


def _tick_values(low: float, high: float, *, outside: bool) -> list[float]:
    """Returns 4 to 8 round values between ``low`` and ``high``, or enclosing them if ``outside``."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= 6)
    # With a tolerance, so that 0.30000000000000004 counts as 0.3.
    first, last = low / step, high / step
    start = math.floor(first + 1e-9) if outside else math.ceil(first - 1e-9)
    stop = math.ceil(last - 1e-9) if outside else math.floor(last + 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(start, stop + 1)]


def _log_tick_values(low: float, high: float) -> list[float]:
    """Returns up to 8 round values between ``10**low`` and ``10**high``."""
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [
            factor * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for factor in factors
            if low - 1e-9 <= math.log10(factor * 10.0**power) <= high + 1e-9
        ]
        if len(values) >= 3:
            break
    else:
        # Less than a decade: linear values.
        values = [value for value in _tick_values(10**low, 10**high, outside=False) if value > 0]
    return values[:: math.ceil(len(values) / 8)]

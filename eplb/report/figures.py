"""The page's two figures: drawn by matplotlib, then made part of the page.

matplotlib writes SVG whose text stays text. It is rewritten here so that it can stand in the page:
colours become the page's own, which follow the reader's light or dark theme; inline styles, which
the page's content security policy forbids, become attributes; and every mark says what it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from xml.etree import ElementTree

from markupsafe import Markup

from eplb.report.history import Island, is_timed
from eplb.report.program import Program

# Pixels, before the page scales the figure; the style sheet's letters have the same size.
WIDTH, LETTERS = 640, 13
ISLAND_COLOURS = 8
# The page's colours. matplotlib is given #0001NN for the NNth.
INKS = (
    "text",
    "quiet",
    "grid",
    "page",
    "accent",
    "best",
    *(f"i{i}" for i in range(ISLAND_COLOURS)),
)
SETTINGS = {
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": LETTERS,
    "axes.edgecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}
LINK = "{http://www.w3.org/1999/xlink}href"
Tip = Callable[[Program], str]


def ink(name: str) -> str:
    """What stands for a colour of the page until the figure is part of it."""
    return f"#0001{INKS.index(name):02x}"


def island_ink(index: int) -> str:
    """The same for an island; colours come again where there are more islands."""
    return ink(f"i{index % ISLAND_COLOURS}")


class Drawing:
    """A figure with one pair of axes and a legend below, whose marks are programs.

    name: what the figure's identifiers in the page begin with
    tip: what a mark says when pointed at
    """

    def __init__(self, name: str, height: int, x_label: str, y_label: str, tip: Tip) -> None:
        from matplotlib.figure import Figure

        self._name = name
        self._tip = tip
        self._tips: list[list[str]] = []
        with _settings():
            # At 72 points to the inch, a point is a pixel.
            self._figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
            self.axes = self._figure.subplots()
        self.axes.set_xlabel(x_label, color=ink("text"))
        self.axes.set_ylabel(y_label, color=ink("text"))
        self.axes.grid(color=ink("grid"))
        self.axes.tick_params(which="both", length=0, labelcolor=ink("quiet"))

    def marks(
        self,
        programs: Iterable[Program],
        places: Iterable[tuple[float, float]],
        lead: str = "",
        **look: object,
    ) -> None:
        """Draw ``programs`` at ``places``; ``lead`` goes before what their tips say."""
        x, y = zip(*places)
        self.axes.scatter(x, y, gid=f"marks{len(self._tips)}", **look)
        self._tips.append([lead + self._tip(program) for program in programs])

    def svg(self, description: str) -> Markup:
        """The figure as an element of the page; ``description`` is read aloud in its place."""
        with _settings():
            self._figure.legend(loc="outside lower center", ncols=3, labelcolor=ink("text"))
            written = io.StringIO()
            self._figure.savefig(written, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(
            written.getvalue().replace('xmlns="http://www.w3.org/2000/svg"', "")
        )
        _say_what_marks_are(root, self._tips)
        _fit_into_page(root, self._name)
        root.attrib = {
            "viewBox": root.get("viewBox"),
            "role": "img",
            "aria-label": description,
            "stroke-linejoin": "round",
        }
        return Markup(ElementTree.tostring(root, encoding="unicode"))


def _settings() -> AbstractContextManager:
    # Imported where it is used, since that takes longer than reading a run.
    from matplotlib import rc_context

    return rc_context(SETTINGS)


def _say_what_marks_are(root: ElementTree.Element, tips: list[list[str]]) -> None:
    for number, texts in enumerate(tips):
        group = root.find(f".//g[@id='marks{number}']")
        for mark, text in zip(group.iter("use"), texts, strict=True):
            mark.set("class", "mark")
            ElementTree.SubElement(mark, "title").text = text


def _fit_into_page(root: ElementTree.Element, name: str) -> None:
    """Turn inline styles into attributes and colours into the page's; name what is referred to."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    names: dict[str, str] = {}

    def renamed(reference: str) -> str:
        return re.sub(
            r"#([^)]+)", lambda r: f"#{names.setdefault(r[1], f'{name}-{len(names)}')}", reference
        )

    for element in root.iter():
        # The page's style sheet says how letters look.
        for declaration in element.attrib.pop("style", "").split(";"):
            key, _, value = map(str.strip, declaration.partition(":"))
            if key and not key.startswith("font"):
                element.set(key, re.sub("#0001([0-9a-f]{2})", _page_colour, value))
        if LINK in element.attrib:
            element.set("href", renamed(element.attrib.pop(LINK)))
        if "clip-path" in element.attrib:
            element.set("clip-path", renamed(element.get("clip-path")))
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in names:
            element.set("id", names[identity])


def _page_colour(written: re.Match) -> str:
    return f"var(--{INKS[int(written[1], 16)]})"


def score_figure(
    programs: Sequence[Program],
    known: Sequence[Island],
    best: Program,
    seed: Program | None,
    tip: Tip,
) -> Markup:
    """Best score so far over generations, a line for each island; every program a dot."""
    drawing = Drawing("scores", 380, "generation", "combined score", tip)
    axes = drawing.axes
    scored = [p for p in programs if p.score is not None and not p.is_copy]
    last = max(1, *(p.generation for p in programs))
    if seed and seed.score is not None:
        label = f"seed {seed.score:.4f}"
        axes.axhline(seed.score, color=ink("quiet"), linestyle="--", linewidth=1, label=label)
    drawing.marks(
        scored,
        [(p.generation, p.score) for p in scored],
        c=[island_ink(p.birth_island) for p in scored],
        s=20,
        alpha=0.4,
        linewidths=0,
    )
    for island in known:
        if island.best:
            x = [*(step.generation for step in island.steps), last]
            y = [*(step.program.score for step in island.steps), island.best.score]
            label = f"island {island.index}: {island.best.score:.4f}"
            axes.step(x, y, where="post", color=island_ink(island.index), linewidth=2, label=label)
    arrived = [(i, s) for i in known for s in i.steps if s.arrived_from is not None]
    if arrived:
        drawing.marks(
            [step.program for _, step in arrived],
            [(step.generation, step.program.score) for _, step in arrived],
            "Arrived from another island. ",
            facecolors=ink("page"),
            edgecolors=[island_ink(island.index) for island, _ in arrived],
            s=80,
            linewidths=2,
            zorder=3,
            label="arrived from another island",
        )
    _mark_best(drawing, best, (best.generation, best.score))
    axes.set_xlim(-0.01 * last, 1.01 * last)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return drawing.svg(
        f"Best combined score over generations, a rising line for each of {len(known)} islands. "
        f"The best program scores {best.score:.4f} and was made at generation {best.generation}."
    )


def pareto_figure(
    programs: Sequence[Program],
    front: Sequence[Program],
    best: Program,
    seed: Program | None,
    tip: Tip,
) -> Markup | None:
    """Balancedness against time; None where no program tells its balancedness and time."""
    from matplotlib.ticker import LogLocator, NullFormatter

    timed = {p.id: (p.milliseconds, p.balancedness) for p in programs if is_timed(p)}
    others = [p for p in programs if p.id in timed and not p.is_copy and p not in front]
    if not timed:
        return None
    label = "milliseconds per call (logarithmic; faster to the left)"
    drawing = Drawing("pareto", 400, label, "balancedness", tip)
    axes = drawing.axes
    axes.set_xscale("log")
    if others:
        look = {"s": 30, "alpha": 0.5, "linewidths": 0, "label": "other correct programs"}
        drawing.marks(others, [timed[p.id] for p in others], color=ink("quiet"), **look)
    corners = [timed[p.id] for p in front]
    drawing.marks(front, corners, "Pareto front. ", color=ink("accent"), s=50, linewidths=0)
    right = axes.get_xlim()[1]
    axes.set_xlim(right=right)
    x, y = zip(*corners, (right, corners[-1][1]))
    axes.step(x, y, where="post", color=ink("accent"), linewidth=1.5, label="Pareto front")
    if seed and seed is not best and seed.id in timed:
        look = {"facecolors": ink("page"), "edgecolors": ink("text"), "linewidths": 2, "zorder": 3}
        label = "seed" if seed.score is None else f"seed {seed.score:.4f}"
        drawing.marks([seed], [timed[seed.id]], "Seed: ", marker="D", s=70, label=label, **look)
    if best.id in timed:
        _mark_best(drawing, best, timed[best.id])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return drawing.svg(
        f"Balancedness against milliseconds per call: {len(front)} of {len(others) + len(front)} "
        "programs are on the Pareto front, no other program being both faster and better balanced."
    )


def _mark_best(drawing: Drawing, best: Program, place: tuple[float, float]) -> None:
    look = {"color": ink("best"), "edgecolors": ink("page"), "s": 260, "zorder": 4}
    drawing.marks([best], [place], "Best: ", marker="*", label=f"best {best.score:.4f}", **look)

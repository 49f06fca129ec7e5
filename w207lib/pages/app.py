"""The web page: upload pictures, see what the detector says of them, and what it is worth.

``w207 app`` serves this file with Streamlit. A file's name is a stranger's text: it is shown by
``st.text`` and in table cells alone, where nothing is read as Markdown or HTML.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from w207lib import config, detector
from w207lib.pages import app_parts, serve, uploads

PHOTOGRAPH = "china.jpg"
PICTURES = 6
THUMBNAIL = 96
COLOUR_WORDS = {"REAL": "blue", "FAKE": "orange", "UNSURE": "gray"}
ROUGHLY = {"REAL": "like photographs", "FAKE": "like fakes", "UNSURE": "unsure"}


def show() -> None:
    """Draw the page, from top to bottom."""
    # The icon is a picture of our own: Streamlit would fetch one of its own from the network.
    st.set_page_config("Photograph or generated?", app_parts.icon(), "wide")
    st.html(app_parts.STYLE)
    st.title("Photograph or generated?", anchor=False)
    introduction = st.container()
    made = _choose_detector(os.environ.get(serve.MODEL_VARIABLE, detector.DEFAULT))
    introduction.markdown(
        f"See whether a picture looks more like {_title(made)}'s photographs or its generated "
        "images: a resemblance, never proof. What you upload stays in this computer's memory."
    )
    files = _ask()
    judged = _judge(made, files)
    if len(judged) == 1:
        _show_one(made, judged[0])
    elif judged:
        _show_many(made, judged, key=files[0][0])
    _show_card(made)


@st.cache_resource(show_spinner=False)
def load_detector(name: str) -> detector.Detector:
    """Load the detector once for all visitors."""
    return detector.load(name)


def _choose_detector(first: str) -> detector.Detector:
    """Let a visitor choose among the shipped detectors, the one asked for first."""
    names = [first, *(name for name in detector.names() if name != first)]
    if len(names) == 1 or first not in detector.names():
        return load_detector(first)
    name = st.radio(
        "Detector", names, captions=[load_detector(name).purpose for name in names],
        key="detector", on_change=_forget,
    )  # fmt: skip
    return load_detector(name)


def _forget() -> None:
    """Judge again what was judged by another detector."""
    st.session_state["judged"] = {}


def find_samples() -> list[Path]:
    """Return a few test pictures of the sample, of either class, and a whole photograph."""
    found = []
    for number, class_name in enumerate(("REAL", "FAKE")):
        folder = config.data_root() / "sample" / "images" / "test" / class_name
        first = {path.name.rsplit("_", 1)[0]: path for path in sorted(folder.glob("*.jpg"))}
        found += list(first.values())[number::2][: PICTURES // 2]  # no content in both classes
    found.sort(key=lambda path: path.name)
    package = importlib.util.find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():
        found.append(Path(place) / "datasets" / "images" / PHOTOGRAPH)
    return [path for path in found if path.is_file()]


def _ask() -> list[tuple[str, str, Any]]:
    """Let a visitor upload files or choose a sample; return identity, name and content of each."""
    state = st.session_state
    state.setdefault("sample", None)
    state.setdefault("round", 0)
    given = st.file_uploader(
        "Pictures", type=list(uploads.ENDINGS), accept_multiple_files=True,
        key=f"files-{state['round']}", on_change=_choose, args=(None,),
        help=f"Up to {uploads.MOST_FILES} files of {uploads.MOST_MEGABYTES} MB and "
        f"{uploads.MOST_PIXELS / 1e6:.0f} megapixels each.",
    )  # fmt: skip
    samples = find_samples()
    if samples:
        st.markdown("**Or guess first:** which of these were generated?")
        with st.container(horizontal=True, gap="small"):
            for number, path in enumerate(samples, 1):
                with st.container(width=THUMBNAIL, gap="xxsmall"):
                    st.image(_thumbnail(str(path)), width=THUMBNAIL)
                    st.button(f"Try {number}", key=f"sample-{number}", on_click=_choose,
                              args=(path,), width="stretch")  # fmt: skip
    if len(given) > uploads.MOST_FILES:
        st.warning(f"{len(given):,} files came; the first {uploads.MOST_FILES} were judged.")
    if state["sample"]:
        return [(str(state["sample"]), state["sample"].name, state["sample"])]
    return [(file.file_id, file.name, file) for file in given[: uploads.MOST_FILES]]


def _choose(sample: Path | None) -> None:
    """Turn to a sample, which takes the uploaded files off the page; or, by None, to files."""
    st.session_state["sample"] = sample
    st.session_state["round"] += sample is not None


def _judge(made: detector.Detector, files: list) -> list[uploads.Judged]:
    """Judge what is new, one file after the other; forget what has gone."""
    known = st.session_state.setdefault("judged", {})
    bar = st.empty()
    judged = {}
    for number, (identity, name, content) in enumerate(files, 1):
        if identity not in known:
            if len(files) > 1:
                bar.progress(number / len(files), f"Looking at picture {number} of {len(files)}")
            data = content.read_bytes() if isinstance(content, Path) else content.getvalue()
            known[identity] = uploads.judge(made, name, data)
        judged[identity] = known[identity]
    bar.empty()
    st.session_state["judged"] = judged
    return list(judged.values())


def _show_one(made: detector.Detector, one: uploads.Judged) -> None:
    """Show all that is known of one file."""
    st.divider()
    if one.answer is None or one.picture is None or one.size is None:
        st.error("There is no verdict on this file.", icon=":material/broken_image:")
        st.text(f"{one.name}: {one.problem}.")
        return
    left, right = st.columns([4, 6], gap="large")
    with left:
        st.image(app_parts.enlarge(one.picture), width="stretch")
        st.text(f"{one.name}, {one.size[0]}×{one.size[1]} pixels")
        _show_truth(one)
    with right:
        _show_verdict(made, one.answer, one.notes)
    if one.answer.heat is not None:
        left, right = st.columns([4, 6], gap="large", vertical_alignment="center")
        with left:
            st.image(
                app_parts.enlarge(
                    app_parts.overlay(app_parts.enlarge(one.picture), one.answer.heat)
                ),
                width="stretch",
            )
        with right:
            _explain_heat(made)


def _show_truth(one: uploads.Judged) -> None:
    sample = st.session_state["sample"]
    if sample is None:
        return
    if sample.name == PHOTOGRAPH:
        truth = "a whole photograph, by danielbuechele (CC BY 2.0), as scikit-learn has it"
    elif sample.parent.name == "FAKE":
        truth = "generated, by this project for its sample"
    else:
        truth = "a piece of a photograph, from this project's sample"
    st.caption(f"The truth: {truth}.")


def _show_verdict(
    made: detector.Detector, answer: detector.Answer, notes: tuple[str, ...]
) -> None:  # fmt: skip
    why, _, unlike = answer.reason.partition("; ")
    colour = "gray" if unlike else COLOUR_WORDS[answer.label]
    st.header(f":{colour}[{_words(made, answer.label)}]", anchor=False)
    if answer.label == "UNSURE":
        st.text(f"{why[0].upper()}{why[1:]}.")
    if unlike:
        st.warning(
            f"**Outside what this detector knows**, so the verdict is worth little: {unlike}.",
            icon=":material/explore_off:",
        )
    for note in notes:
        st.info(note, icon=":material/info:")
    st.html(app_parts.gauges(made, answer))
    st.caption(
        "The score is the calibrated probability of FAKE. Between the two lines the verdict is "
        "unsure, as it is where a picture that was saved or scaled again changes sides."
    )


def _explain_heat(made: detector.Detector) -> None:
    st.subheader("Where the score comes from", anchor=False)
    st.html(app_parts.legend())
    st.caption(
        f"What each place adds to the score, seen as the detector sees it: at {made.size}×"
        f"{made.size} pixels. Strong colour says much, grey says nothing. It shows what the "
        "network used, not where a picture was altered."
    )


def _show_many(made: detector.Detector, judged: list[uploads.Judged], key: str) -> None:
    """Show a table to sort and download, and below it the file that is chosen there."""
    st.divider()
    rows = uploads.table(judged)
    counts = rows["label"].value_counts()
    parts = [f"{counts[label]} {words}" for label, words in ROUGHLY.items() if label in counts]
    unreadable = (rows["status"] == "unreadable").sum()
    parts += [f"{unreadable} without a verdict"] if unreadable else []
    outside = (rows["status"] == "outside").sum()
    beyond = f"; **{outside} outside what this detector knows**" if outside else ""
    st.header(f"{len(rows)} pictures", anchor=False)
    st.markdown(f"{', '.join(parts)}{beyond}. Sort by any column; choose a row to see more of it.")
    shown = rows.assign(
        picture=[app_parts.data_url(one.picture, THUMBNAIL) for one in judged],
        label=rows["label"].map(ROUGHLY).fillna("no verdict"),
    )
    chosen = st.dataframe(
        shown, key=f"table-{key}", hide_index=True, row_height=56, placeholder="–",
        on_select="rerun", selection_mode="single-row",
        selection_default={"selection": {"rows": [0]}},
        column_order=["picture", "label", "score", "path", "status", "reason"],
        column_config={
            "picture": st.column_config.ImageColumn("", width=72),
            "label": st.column_config.TextColumn("verdict", width=140),
            "score": st.column_config.NumberColumn(format="%.2f", width=80),
            "path": st.column_config.TextColumn("file", width=190),
            "status": st.column_config.TextColumn(width=110),
            "reason": st.column_config.TextColumn(width="large"),
        },
    )  # fmt: skip
    with st.container(horizontal=True):
        st.download_button(
            "Table as CSV", detector.as_csv(rows), "verdicts.csv", "text/csv",
            on_click="ignore", icon=":material/download:",
        )  # fmt: skip
        st.download_button(
            "Table as JSON", rows.to_json(orient="records", indent=1, force_ascii=False) + "\n",
            "verdicts.json", "application/json", on_click="ignore", icon=":material/download:",
        )  # fmt: skip
    for row in chosen["selection"]["rows"]:
        if row < len(judged):
            _show_one(made, judged[row])


def _show_card(made: detector.Detector) -> None:
    """Show how often the detector is wrong, and the whole model card."""
    st.divider()
    test = made.card["measured"]["test"]
    lines = [
        f"On {test['n']:,} test images of {_title(made)} it was unsure of "
        f"{_percent(test['unsure'])}; of its other verdicts {_percent(test['right_when_sure'])} "
        f"were right, and it took {_percent(test['accused'])} of the photographs for fakes."
    ]
    for name, entry in made.card["measured"]["photographs"].items():
        lines.append(
            f"Of {entry['n']:,} ordinary photographs (“{name}”) it **took "
            f"{_percent(entry['accused'])} for fakes**, and found {_percent(entry['outside'])} "
            "outside what it knows."
        )
    lines.append("**Not for** " + "; not for ".join(made.card["not_for"]) + ".")
    st.subheader("How far to trust it", anchor=False)
    st.markdown("\n\n".join(lines))
    page = made.path.with_suffix(".md")
    if page.is_file():
        with st.expander("The whole model card"):
            text = page.read_text(encoding="utf-8")
            st.markdown(re.sub("^#", "###", text, flags=re.MULTILINE))


def _title(made: detector.Detector) -> str:
    return made.card["data"]["title"]


def _words(made: detector.Detector, label: str) -> str:
    data = _title(made)
    return {"REAL": f"Resembles {data}'s photographs", "FAKE": f"Resembles {data}'s fakes",
            "UNSURE": "Unsure"}[label]  # fmt: skip


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.1%}".replace("%", " %")


@st.cache_data(show_spinner=False)
def _thumbnail(path: str) -> Image.Image:
    with Image.open(path) as image:
        return app_parts.square(image.convert("RGB"), 2 * THUMBNAIL)


if __name__ == "__main__":
    show()

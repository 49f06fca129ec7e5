"""How nbval compares: what comes from data exactly, what comes from training within a tolerance.

A cell's tags decide. ``tolerance:0.05``: decimal numbers may differ by that much, everything
else must be equal, pictures are not compared. ``trained``: as it is, but for its pictures.
``nbval-ignore-output``: it must run. No tag: text must be equal, and a picture must look the
same (fonts may be drawn a little differently from machine to machine).
"""

import base64
import io
import platform
import re
from pathlib import Path

import nbformat
import numpy as np
from nbval.plugin import IPyNbCell
from PIL import Image

NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
PICTURE_DIFFERENCE = 6.0
"""Mean absolute difference, of 255, that two drawings of one picture may have."""

exact_comparison = IPyNbCell.compare_outputs


def compare_outputs(self, test, ref, skip_compare=None):
    """Compare a cell's new outputs with the stored ones, as its tags say."""
    tags = self.cell.metadata.get("tags", [])
    limit = next((float(t.split(":")[1]) for t in tags if t.startswith("tolerance:")), None)
    test, ref = without_progress(test), without_progress(ref)
    if self.cell.source.rstrip().endswith(";"):  # IPython cannot see it in nbval's way of asking
        test = [output for output in test if output["output_type"] != "execute_result"]
    problem = None
    if limit is not None:
        test = within(test, ref, limit)
    elif "trained" not in tags:
        problem = picture_problem(test, ref)
    if not exact_comparison(self, test, ref, skip_compare):
        if limit is not None:
            self.comparison_traceback.append(f"\nThis cell's numbers may differ by {limit}.")
        return False
    if problem:
        self.comparison_traceback.append(problem)
    return problem is None


IPyNbCell.compare_outputs = compare_outputs


def without_progress(outputs):
    """Drop standard error, where progress bars go."""
    return [o for o in outputs if not (o["output_type"] == "stream" and o["name"] == "stderr")]


def within(test, ref, limit: float):
    """Return the new outputs with each stored number in place of one that is near enough."""
    return [
        adjusted(new, old, limit) for new, old in zip(test, ref, strict=False)
    ] + test[len(ref):]  # fmt: skip


def adjusted(new, old, limit: float):
    """Return one output with near numbers replaced."""
    made = nbformat.from_dict(new)
    if "text" in new and "text" in old:
        made["text"] = nearer(new["text"], old["text"], limit)
    for kind, text in new.get("data", {}).items():
        if kind.startswith("text/") and kind in old.get("data", {}):
            made["data"][kind] = nearer(text, old["data"][kind], limit)
    return made


def nearer(new: str, old: str, limit: float) -> str:
    """Return ``old`` if ``new`` is the same but for decimal numbers that are near, else ``new``."""
    skeletons = [re.sub(r"[ \-]+", " ", NUMBER.sub("#", text)) for text in (new, old)]
    if skeletons[0] != skeletons[1]:
        return new
    pairs = zip(NUMBER.findall(new), NUMBER.findall(old), strict=True)
    return old if all(abs(float(a) - float(b)) <= limit for a, b in pairs) else new


def picture_problem(test, ref) -> str | None:
    """Say what is wrong with the new pictures; None if they look like the stored ones."""
    new, old = pictures(test), pictures(ref)
    for number, (a, b) in enumerate(zip(new, old, strict=False), 1):
        if max(abs(x - y) / y for x, y in zip(a.size, b.size, strict=True)) > 0.05:
            return f"picture {number} has {a.size} pixels, the stored one {b.size}"
        size = (b.width // 4, b.height // 4)
        arrays = [np.asarray(i.convert("L").resize(size, Image.BOX), float) for i in (a, b)]
        difference = float(np.abs(arrays[0] - arrays[1]).mean())
        if difference > PICTURE_DIFFERENCE:
            return (
                f"picture {number} differs from the stored one by {difference:.1f} of 255 on "
                f"average; {PICTURE_DIFFERENCE} is allowed"
            )
    return None if len(new) == len(old) else f"{len(new)} pictures came, {len(old)} are stored"


def pictures(outputs):
    """Decode an output list's PNG pictures."""
    data = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in data]


def pytest_report_header(config):
    """Say so when the stored outputs were made on another kind of machine."""
    here = {
        "machine": platform.machine(), "system": platform.system(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }  # fmt: skip
    lines = []
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        stored = nbformat.read(path, 4).metadata.get("w207", {}).get("stored_on", {})
        differing = [f"{k} {v} (here {here.get(k)})" for k, v in stored.items() if here.get(k) != v]
        if differing:
            lines.append(f"{path.name}: outputs were stored on {', '.join(differing)}")
    return lines or ["notebooks: outputs were stored on a machine of this kind"]
